"""Probe: fits through points made by a known wire, and one real measurement of this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wirecut.fabric.discover import host_devices
from wirecut.fabric.fabric import load_fabric
from wirecut.fabric.probe import assemble, fit_link
from wirecut.fabric.probing import (
    DTYPES,
    MESSAGE_SIZES,
    ROWS,
    WORKING_SETS,
    Arithmetic,
    WirePoints,
    plan_probe,
)


def wire(latency_s: float, bytes_per_s: float, op: str = "send_recv") -> WirePoints:
    points = tuple((size, latency_s + size / bytes_per_s, 0.01) for size in MESSAGE_SIZES)
    return WirePoints(op, "shm", (0, 1), points)


@pytest.mark.parametrize(("latency_s", "bytes_per_s"), [(5e-6, 10e9), (50e-6, 1e9), (1e-3, 12e6)])
def test_the_fit_finds_the_wire_that_made_the_points(latency_s: float, bytes_per_s: float) -> None:
    link = fit_link(wire(latency_s, bytes_per_s))
    assert link.latency_s == pytest.approx(latency_s, rel=1e-6)
    assert link.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-6)
    assert link.spread == pytest.approx(0.01)
    assert link.source == "measured"


def test_a_slow_middle_shows_as_spread() -> None:
    bent = [
        (s, t * (1.5 if i % 2 else 1), 0.0) for i, (s, t, _) in enumerate(wire(1e-5, 1e9).points)
    ]
    assert 0.1 < fit_link(WirePoints("send_recv", "shm", (0, 1), tuple(bent))).spread < 0.5


def test_groups_and_pairs() -> None:
    assert plan_probe(1).groups == ()
    assert plan_probe(2).groups == ((0, 1),)
    assert [len(group) for group in plan_probe(6).groups] == [2, 4, 6]
    assert len(plan_probe(4).pairs) == 6
    assert len(plan_probe(8).pairs) == 7


def test_numbers_go_onto_devices_and_pairs_not_measured_take_the_median() -> None:
    devices = host_devices(6)
    wires = [
        WirePoints("send_recv", "shm", pair, wire(5e-6, (1 + i) * 1e9).points)
        for i, pair in enumerate(plan_probe(6).pairs)
    ]
    points = (("bf16", 1, 1000, 1e-6), ("bf16", 4, 1000, 2e-6), ("fp32", 1, 1000, 1e-6))
    fabric = assemble(devices, wires, [Arithmetic(points, 3e-6)] * 6)
    assert len(fabric.links) == 15
    assert fabric.link(0, 5).bytes_per_s == pytest.approx(3e9)
    device = fabric.devices[0]
    assert device.bytes_per_s == pytest.approx(1e9)
    assert device.flops_per_s["bf16"] == pytest.approx(2 * 4 * 500 / 2e-6)
    assert (device.launch_s, device.source) == (3e-6, "measured")


def test_probe_measures_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    assert {(curve.op, curve.wire) for curve in fabric.curves} == {
        (op, kind) for op in ("all_reduce", "send_recv") for kind in ("shm", "tcp")
    }
    for curve in fabric.curves:
        assert [size for size, _ in curve.points] == list(MESSAGE_SIZES)
    kinds = {(p.dtype, p.rows) for p in fabric.devices[1].points}
    assert kinds == {(dtype, rows) for dtype in DTYPES for rows in ROWS}
    assert len({p.weight_bytes for p in fabric.devices[0].points}) == len(WORKING_SETS)
    shm = fabric.only("shm").curve("all_reduce", (0, 1))
    tcp = fabric.only("tcp").curve("all_reduce", (0, 1))
    assert shm is not None
    assert tcp is not None
    assert shm.seconds(2048) < tcp.seconds(2048)
    made = json.loads(out.read_text())["made"]
    assert made["when"]
    assert made["version"]
    assert "probe" in made["how"]
