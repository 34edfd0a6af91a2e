"""One time line over hosts whose clocks differ."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from in_threads import in_threads
from models import write_model
from wirecut.bench.testbed import shaped_hosts, why_no_bed
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Prompt
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.stages import cut_stages
from wirecut.machine.clock import clock_ahead
from wirecut.machine.pipes import Pipes
from wirecut.machine.sockets import Line

MS = 1_000_000
A_DAY_BEFORE = ("unshare", "--time", "--monotonic", "86400", "--fork", "--kill-child")


def test_every_rank_learns_how_far_its_hosts_clock_is_ahead() -> None:
    """Three hosts of two ranks and one."""
    hosts, ahead_s = [(0, 1), (2, 3), (4,)], [0, 86_400, -3]
    store, of_rank = dist.HashStore(), [0, 0, 1, 1, 2]

    def rank(number: int) -> int:
        line = Line(store, [f"rank {i}" for i in range(5)], number)
        pipes, host = Pipes(line, address="127.0.0.1"), of_rank[number]
        shift = ahead_s[host] * 1000 * MS
        ahead = clock_ahead(line, pipes, hosts[host], lambda: time.monotonic_ns() + shift)
        pipes.close()
        return ahead - shift

    off = in_threads(5, rank)
    assert off[:2] == [0, 0]
    assert off[2] == off[3]
    assert all(abs(each) < 5 * MS for each in off)


@pytest.mark.skipif(why_no_bed() is not None, reason=str(why_no_bed()))
def test_spans_of_two_hosts_are_on_one_clock(tmp_path: Path) -> None:
    """The second host began a day before, as its CLOCK_MONOTONIC says. No call ends before the last
    rank has come to it.
    """
    folder = write_model(tmp_path / "model", hidden=32, layers=2)
    fabric, limits = assumed_fabric(2).only("tcp"), Limits(max_batched_tokens=16, kv_tokens=64)
    cut = Cut(Layout(tp=2), (0, 1), cut_stages([1.0, 1.0], 1))
    with shaped_hosts(["near", "far"], bits_per_s=1e9) as bed:
        near, far = bed.hosts
        devices = [
            replace(device, host=host.name)
            for device, host in zip(fabric.devices, bed.hosts, strict=True)
        ]
        fabric = replace(fabric, devices=tuple(devices))
        hosts = (near, replace(far, prefix=(*far.prefix, *A_DAY_BEFORE)))
        with Engine(folder, cut, fabric, limits=limits, dtype="fp32", hosts=hosts) as engine:
            engine.generate([Prompt(tuple(range(5, 25)), 6)])
            timeline = engine.finish().timeline
    calls = [[s for s in spans if s.what == "all-reduce"] for spans in timeline.spans]
    assert len(calls[0]) > 20
    for one, other in zip(*calls, strict=True):
        assert max(one.begin, other.begin) < min(one.end, other.end) + 2 * MS
