"""Which network card carried the bytes, told by the kernel's counters before and after.

before = read_nic_counters()
...                                             # send between hosts
wrong_nic(before, read_nic_counters(), facts)   # a Finding, or None
"""

from collections.abc import Mapping
from pathlib import Path

from wirecut.fabric.fabric import Finding
from wirecut.fabric.host import ROOT, HostFacts, Nic, read_text, show_gbits
from wirecut.units import MIB, show_bytes

TRAFFIC_BYTES = MIB  # less than this is no traffic of ours


def read_nic_counters(root: Path = ROOT) -> dict[str, int]:
    """Bytes sent so far by network interface and by RDMA device, from sysfs; loopback left out.

    RDMA counts words of 4 bytes (port_xmit_data), and its bytes are not among the interface's.
    """
    counters: dict[str, int] = {}
    for path in sorted((root / "sys/class/net").glob("*/statistics/tx_bytes")):
        name, text = path.parts[-3], read_text(path)
        if name != "lo" and text.isdecimal() and text.isascii():
            counters[name] = int(text)
    for path in sorted((root / "sys/class/infiniband").glob("*/ports/*/counters/port_xmit_data")):
        name, text = path.parts[-5], read_text(path)
        if text.isdecimal() and text.isascii():
            counters[name] = counters.get(name, 0) + 4 * int(text)
    return counters


def wrong_nic(
    before: Mapping[str, int], after: Mapping[str, int], facts: HostFacts
) -> Finding | None:
    """The card that carried the bytes between two `read_nic_counters`, when a faster one is up;
    None when it is the fastest, when nothing was sent, and when speeds are unknown.
    """
    cards = {nic.name.partition(":")[0]: nic for nic in facts.nics if not nic.virtual}
    sent = {name: after.get(name, 0) - before.get(name, 0) for name in cards}
    used = max(sent, key=lambda name: sent[name], default=None)
    if used is None or sent[used] < TRAFFIC_BYTES:
        return None
    best = max(
        (nic for nic in cards.values() if nic.up and nic.bytes_per_s),
        key=lambda nic: nic.bytes_per_s or 0,
        default=None,
    )
    speed = cards[used].bytes_per_s
    if best is None or speed is None or not best.bytes_per_s or speed >= 0.99 * best.bytes_per_s:
        return None
    return Finding(
        "wrong",
        f"{facts.host}: traffic between hosts left by {used} ({show_gbits(speed)}; "
        f"{show_bytes(sent[used])} sent), expected by {best.name}, the fastest that is up "
        f"({show_gbits(best.bytes_per_s)})",
        _use(best),
    )


def _use(nic: Nic) -> str:
    """The settings that make NCCL and Gloo take this card."""
    interface = nic.netdev or (nic.name if nic.kind == "ethernet" else "")
    wanted = [f"NCCL_SOCKET_IFNAME={interface} and GLOO_SOCKET_IFNAME={interface}"]
    if nic.kind in ("infiniband", "roce"):
        wanted = [f"NCCL_IB_HCA={nic.name}", *(wanted if interface else [])]
    return f"set {' and '.join(wanted)} on every host"
