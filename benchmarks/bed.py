#!/usr/bin/env python3
"""What `probe` finds on hosts joined by links of known speed: a Markdown table. Root and Linux.

    python benchmarks/bed.py >> benchmarks/lab.md

Islands are right when they are the hosts where these have several ranks, else the whole.
"""

import sys
import time

from wirecut.bench.testbed import shaped_hosts
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.probe import probe

BEDS = ((2, 2), (3, 1))  # hosts, ranks on each
MBITS = (1000, 300, 100)


def main() -> None:
    print("| hosts | ranks each | shaped to | between hosts | off | islands | probe took |")
    print("|---|---|---|---|---|---|---|")
    for num_hosts, each in BEDS:
        for mbit in MBITS:
            print(row(num_hosts, each, mbit), flush=True)


def row(num_hosts: int, each: int, mbit: int) -> str:
    begin = time.monotonic()
    names = [f"host{i}" for i in range(num_hosts)]
    with shaped_hosts(names, bits_per_s=mbit * 1e6) as bed:
        fabric = probe(each, hosts=bed.hosts)
    assert fabric is not None
    took = time.monotonic() - begin
    print(f"{num_hosts} x {each} at {mbit} Mbit/s: {took:.0f} s", file=sys.stderr)
    found = between_hosts(fabric)
    worst = max((rate / mbit - 1 for rate in found), key=abs)
    spread = f"{min(found):.0f} to {max(found):.0f} Mbit/s"
    right = "right" if set(fabric.islands) == expected(num_hosts, each) else "WRONG"
    cells = (num_hosts, each, f"{mbit} Mbit/s", spread, f"{worst:+.1%}", right, f"{took:.0f} s")
    return f"| {' | '.join(map(str, cells))} |"


def between_hosts(fabric: Fabric) -> list[float]:
    """Mbit/s of every link whose ends are on different hosts."""
    host = {device.id: device.host for device in fabric.devices}
    return [8e-6 * k.bytes_per_s for k in fabric.links if host[k.a] != host[k.b]]


def expected(num_hosts: int, each: int) -> set[tuple[int, ...]]:
    """The islands of hosts of so many ranks on one switch."""
    if each == 1:
        return {tuple(range(num_hosts))}
    return {tuple(range(i * each, (i + 1) * each)) for i in range(num_hosts)}


if __name__ == "__main__":
    main()
