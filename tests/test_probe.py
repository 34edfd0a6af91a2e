"""Probe: fits through points made by a known wire, and one real measurement of this machine."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as replace_struct

from commands import own_cache
from wirecut.fabric.arithmetic import ATTENTION, CPU, Bench
from wirecut.fabric.assemble import assemble, fit_link
from wirecut.fabric.discover import host_devices
from wirecut.fabric.fabric import load_fabric
from wirecut.fabric.host import HostFacts, Nic
from wirecut.fabric.probing import (
    GROUP_SIZES,
    OTHER_SIZES,
    PAIR_SIZES,
    Arithmetic,
    Measured,
    ProbeTask,
    RankReport,
    WirePoints,
    distinct_hosts,
    group_jobs,
    pair_jobs,
)
from wirecut.fabric.typed import typed_fabric
from wirecut.machine import kernels

PAIRS = ((0, 1), (2, 3))


def wire(latency_s: float, bytes_per_s: float, op: str = "send_recv") -> WirePoints:
    points = tuple((size, latency_s + size / bytes_per_s, 0.01) for size in PAIR_SIZES)
    return WirePoints(op, "shm", (0, 1), points)


@pytest.mark.parametrize(("latency_s", "bytes_per_s"), [(5e-6, 10e9), (50e-6, 1e9), (1e-3, 12e6)])
def test_the_fit_finds_the_wire_that_made_the_points(latency_s: float, bytes_per_s: float) -> None:
    link = fit_link(wire(latency_s, bytes_per_s))
    assert link.latency_s == pytest.approx(latency_s, rel=1e-6)
    assert link.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-6)
    assert link.spread == pytest.approx(0.01)
    assert link.source == "measured"


def test_a_wire_that_is_no_line_shows_as_spread() -> None:
    bent = [
        (s, t * (1.5, 1.0, 0.7)[i % 3], 0.0) for i, (s, t, _) in enumerate(wire(1e-5, 1e9).points)
    ]
    assert 0.1 < fit_link(WirePoints("send_recv", "shm", (0, 1), tuple(bent))).spread < 0.5


def test_some_points_that_the_host_was_busy_in_do_not_bend_the_line() -> None:
    points = [
        (s, t * (3 if i in (0, 1, 4, 6) else 1), 0.0)
        for i, (s, t, _) in enumerate(wire(1e-4, 36e6).points)
    ]
    link = fit_link(WirePoints("send_recv", "tcp", (0, 1), tuple(points)))
    assert link.bytes_per_s == pytest.approx(36e6, rel=0.02)
    assert link.latency_s == pytest.approx(1e-4, rel=0.1)


def tasks(*hosts: int) -> list[ProbeTask]:
    """So many ranks on each of some hosts."""
    found: list[ProbeTask] = []
    for number, count in enumerate(hosts):
        first = len(found)
        found += [
            ProbeTask(
                replace(host_devices(count)[i], id=first + i, host=f"host{number}"), count, first
            )
            for i in range(count)
        ]
    return found


def test_every_pair_of_few_ranks_is_measured_over_its_wires() -> None:
    jobs, notes = pair_jobs(tasks(2))
    assert [(job.wire, job.groups) for job in jobs] == [("shm", ((0, 1),)), ("tcp", ((0, 1),))]
    jobs, _ = pair_jobs(tasks(2, 2))
    assert {job.groups[0] for job in jobs if job.wire == "shm"} == {(0, 1), (2, 3)}
    assert {job.groups[0] for job in jobs if job.wire == "tcp"} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert notes == ()


def test_of_hundreds_of_ranks_some_pairs_of_each_class_are_measured_and_that_is_said() -> None:
    jobs, notes = pair_jobs(tasks(*[4] * 50))
    assert 100 < len(jobs) < 300
    assert {job.wire for job in jobs} == {"shm", "tcp"}
    reached = {rank // 4 for job in jobs for rank in job.groups[0] if job.wire == "tcp"}
    assert reached == set(range(50))
    assert any("of 19600 pairs over tcp were measured" in note for note in notes)


def test_groups_are_blocks_of_islands_hosts_and_all_alone_and_at_once() -> None:
    jobs = group_jobs(tasks(2, 2), [(0, 1), (2, 3)])
    sums = {(job.wire, job.groups) for job in jobs if job.op == "all_reduce"}
    assert ("shm", ((0, 1),)) in sums
    assert ("shm", ((2, 3),)) in sums
    assert ("shm", ((0, 1), (2, 3))) in sums
    assert ("tcp", ((0, 1, 2, 3),)) in sums
    assert ("tcp", ((0, 2),)) in sums
    assert ("tcp", ((0, 2), (1, 3))) in sums
    assert {job.op for job in jobs} == {"all_reduce", "all_gather", "all_to_all", "send_recv"}
    assert ("send_recv", ((0, 2), (1, 3))) in {(job.op, job.groups) for job in jobs}


def test_islands_that_are_no_blocks_are_groups_too() -> None:
    jobs = group_jobs(tasks(4), [(0, 2), (1, 3)])
    assert ((0, 2),) in {job.groups for job in jobs if job.wire == "shm"}


def test_hosts_of_one_name_that_share_no_memory_are_told_apart() -> None:
    alike = [replace_struct(task, device=replace(task.device, host="box")) for task in tasks(2, 1)]
    assert [task.device.host for task in distinct_hosts(alike)] == ["box-0", "box-0", "box-1"]
    assert distinct_hosts(tasks(2, 1)) == tasks(2, 1)


def gpus(*hosts: HostFacts, each: int = 2) -> list[ProbeTask]:
    """So many GPUs on each host, joined inside by NVLink."""
    found: list[ProbeTask] = []
    for host in hosts:
        fabric, first = typed_fabric(f"{each}xGB200:nvswitch"), len(found)
        for device in fabric.devices:
            links = [replace(k, a=first + k.a, b=first + k.b) for k in fabric.links]
            found.append(
                ProbeTask(
                    replace(device, id=first + device.id, host=host.host),
                    each,
                    first,
                    links=tuple(links) if device.id == 0 else (),
                    machine=host if device.id == 0 else None,
                )
            )
    return found


def facts(name: str, *nics: Nic, domain: str = "") -> HostFacts:
    return HostFacts(name, "cpu", (0,), 2**30, nics=nics, nvlink_domain=domain)


def test_gpus_of_one_nvlink_domain_are_joined_by_it_across_hosts() -> None:
    jobs, _ = pair_jobs(gpus(facts("a", domain="x"), facts("b", domain="x")))
    assert {(job.wire, job.groups[0]) for job in jobs} == {
        ("nvswitch", pair) for pair in combinations(range(4), 2)
    }


def test_gpus_on_two_hosts_are_joined_by_the_best_card_that_both_have() -> None:
    rail, port = Nic("mlx5_0", "infiniband", 50e9, True), Nic("eth0", "ethernet", 1e9, True)
    for there, kind in ((rail, "ib"), (port, "ethernet"), (replace(rail, up=False), "ethernet")):
        ranks = gpus(facts("a", rail, port), facts("b", there))
        jobs, _ = pair_jobs(ranks)
        assert {job.wire for job in jobs if job.groups[0] == (0, 2)} == {kind}
        sums = {job.wire for job in group_jobs(ranks, [(0, 1), (2, 3)]) if len(job.groups[0]) == 4}
        assert sums == {kind}


def measured(ranks: list[ProbeTask], wires: list[WirePoints]) -> Measured:
    points = (("bf16", 1, 1000, 1e-6), ("bf16", 4, 1000, 2e-6), ("fp32", 1, 1000, 1e-6))
    arithmetic = Arithmetic(points, (("bf16", 1, 256, 512, 512, 1e-5),), 3e-6)
    reports = [RankReport((), arithmetic) for _ in ranks]
    reports[0] = RankReport(tuple(wires), arithmetic)
    return Measured(tuple(ranks), tuple(reports), ())


def test_numbers_go_onto_devices_and_pairs_not_measured_take_the_median() -> None:
    wires = [
        WirePoints("send_recv", "shm", pair, wire(5e-6, (1 + i) * 1e9).points)
        for i, pair in enumerate([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)])
    ]
    fabric = assemble(measured(tasks(6), wires))
    assert len(fabric.links) == 15
    assert fabric.link(0, 5).bytes_per_s == pytest.approx(3e9)
    device = fabric.devices[0]
    assert device.bytes_per_s == pytest.approx(1e9)
    assert device.flops_per_s["bf16"] == pytest.approx(2 * 4 * 500 / 2e-6)
    assert (device.launch_s, device.source) == (3e-6, "measured")
    assert device.attention[0].keys == 256


def test_what_the_first_of_a_host_computed_alone_goes_for_all_of_it() -> None:
    told = measured(tasks(2, 1), [])
    first = told.reports[0].arithmetic
    assert first is not None
    first = replace_struct(first, alone=(("bf16", 1, 1000, 5e-7),), launch_alone_s=2e-6)
    reports = (RankReport((), first), *told.reports[1:])
    devices = assemble(replace_struct(told, reports=reports)).devices
    assert [[p.seconds for p in each.alone] for each in devices] == [[5e-7], [5e-7], []]
    assert [each.launch_alone_s for each in devices] == [2e-6, 2e-6, 0]


@pytest.mark.parametrize("turn", [0, 1, None])
def test_ranks_compute_alone_one_after_the_other(turn: int | None) -> None:
    log: list[str] = []
    device = torch.device("cpu")
    bench = Bench(device, lambda: log.append("wait"), crowded=False, turn=turn, turns=2)
    bench.alone(lambda: log.append("work"))
    expected = ["wait"] * 3
    if turn is not None:
        expected.insert(turn + 1, "work")
    assert log == expected
    log.clear()
    Bench(device, lambda: log.append("wait"), crowded=False).alone(lambda: log.append("work"))
    assert log == []


def test_islands_come_from_what_was_measured_and_wrong_bytes_are_a_finding() -> None:
    inside = [WirePoints("send_recv", "shm", pair, wire(5e-6, 5e9).points) for pair in PAIRS]
    across = [
        WirePoints("send_recv", "tcp", (a, b), wire(1e-4, 1e8).points, wrong=int((a, b) == (0, 3)))
        for a in (0, 1)
        for b in (2, 3)
    ]
    fabric = assemble(measured(tasks(2, 2), [*inside, *across]))
    assert fabric.islands == PAIRS
    assert [finding.severity for finding in fabric.findings] == ["wrong"]
    assert "devices 0, 3 gave wrong results in 1 elements" in fabric.findings[0].what


def test_probe_measures_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache(tmp_path)))
    out = tmp_path / "fabric.json"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("wirecut")),
            "probe",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "shared memory" in done.stdout
    fabric = load_fabric(out)
    assert out.read_bytes() == (tmp_path / "cache" / "wirecut" / "fabric.json").read_bytes()
    kinds = {(curve.op, curve.wire) for curve in fabric.curves}
    ops = ("all_reduce", "send_recv", "all_gather", "all_to_all")
    assert kinds == {(op, kind) for op in ops for kind in ("shm", "tcp")}
    for curve in fabric.curves:
        whole = OTHER_SIZES if curve.op in ("all_gather", "all_to_all") else GROUP_SIZES
        sizes = tuple(size for size, _ in curve.points)
        assert sizes == whole[: len(sizes)]
        assert curve.wire == "tcp" or len(sizes) == len(whole)
    for device in fabric.devices:
        rates = {(p.dtype, p.rows) for p in device.points}
        assert rates == {(dtype, rows) for dtype in CPU.dtypes for rows in CPU.rows}
        assert len({p.weight_bytes for p in device.points}) == len(CPU.working_sets)
        assert tuple((p.queries, p.keys) for p in device.attention) == ATTENTION
        assert {p.rows for p in device.alone} == {1, 8, 64}
        assert device.launch_cold_s > device.launch_s > 0
        assert (0 < device.half_s < 11 * device.launch_s) == kernels.HAS_PRODUCTS
    shm = fabric.only("shm").curve("all_reduce", (0, 1))
    tcp = fabric.only("tcp").curve("all_reduce", (0, 1))
    assert shm is not None
    assert tcp is not None
    assert shm.seconds(2048) < tcp.seconds(2048)
    made = json.loads(out.read_text())["made"]
    assert made["when"]
    assert made["version"]
    assert "probe" in made["how"]
