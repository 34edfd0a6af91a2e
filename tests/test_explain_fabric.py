"""The page of a fabric: what a person reads there, and that it fits a terminal."""

import re
from itertools import combinations

import pytest

from fabrics import MADE
from fabrics import fabric as cores
from wirecut.explain.fabric import page
from wirecut.explain.matrix import Nest, islands_in_words, matrix, span, wire_classes
from wirecut.explain.page import WIDTH, show
from wirecut.fabric.device import AttentionPoint
from wirecut.fabric.fabric import Curve, Device, Fabric, Finding, Link
from wirecut.fabric.host import HostFacts, Nic
from wirecut.fabric.islands import find_islands

GIB = 2**30
GPU_RATES = {"fp8": 733e12, "bf16": 362e12, "fp16": 362e12, "int8": 733e12, "fp32": 91e12}


def gpu(number: int, host: str) -> Device:
    return Device(
        number, host, "cuda", "NVIDIA L40S", 48 * GIB, 864e9, GPU_RATES, 4e-6, "datasheet"
    )


def wire(a: int, b: int) -> Link:
    """NVLink pairs, in boxes of 4 on PCIe, over InfiniBand."""
    if a // 2 == b // 2:
        return Link(a, b, "nvlink", 5e-6, 100e9, "datasheet", path="NV4")
    if a // 4 == b // 4:
        return Link(a, b, "pcie4", 10e-6, 22e9, "datasheet", path="PIX")
    return Link(a, b, "ib", 20e-6, 5e9, "datasheet")


def boxes(num_devices: int, **more: tuple[object, ...]) -> Fabric:
    links = tuple(wire(a, b) for a, b in combinations(range(num_devices), 2))
    devices = tuple(gpu(i, f"node{i // 4}") for i in range(num_devices))
    return Fabric(devices, links, find_islands(num_devices, links), MADE, **more)  # type: ignore[arg-type]


def printed(fabric: Fabric, capsys: pytest.CaptureFixture[str]) -> str:
    show(page(fabric))
    return capsys.readouterr().out


def lines_of(fabric: Fabric) -> list[str]:
    nest = Nest(fabric)
    return matrix(fabric, nest, wire_classes(fabric, nest))


def curve(wire: str, devices: tuple[int, ...], times: float, at_once: int = 1) -> Curve:
    points = tuple((8192 << i, times * (1e-5 + i * 1e-6)) for i in range(6))
    return Curve("all_reduce", wire, devices, points, at_once=at_once)


def test_the_matrix_parts_islands_and_what_is_in_them():
    assert lines_of(boxes(8)) == [
        "       0     1       2     3 |     4     5       6     7  GB/s",
        "0      x  100#   22.0* 22.0* | 5.00= 5.00=   5.00= 5.00=",
        "1   100#     x   22.0* 22.0* | 5.00= 5.00=   5.00= 5.00=",
        "",
        "2  22.0* 22.0*       x  100# | 5.00= 5.00=   5.00= 5.00=",
        "3  22.0* 22.0*    100#     x | 5.00= 5.00=   5.00= 5.00=",
        "-----------------------------+--------------------------",
        "4  5.00= 5.00=   5.00= 5.00= |     x  100#   22.0* 22.0*",
        "5  5.00= 5.00=   5.00= 5.00= |  100#     x   22.0* 22.0*",
        "",
        "6  5.00= 5.00=   5.00= 5.00= | 22.0* 22.0*       x  100#",
        "7  5.00= 5.00=   5.00= 5.00= | 22.0* 22.0*    100#     x",
    ]


def test_islands_in_words():
    nest = Nest(boxes(8))
    assert islands_in_words(nest, wire_classes(boxes(8), nest)) == [
        ("4 islands of 2", "NVLink at 100 GB/s", "0-1, 2-3, 4-5, 6-7"),
        ("2 islands of 4", "PCIe 4 at 22.0 GB/s", "0-3, 4-7"),
        ("between them", "InfiniBand at 5.00 GB/s", ""),
    ]


def test_devices_that_are_far_in_number_stand_together():
    near = {(0, 2), (1, 3)}
    links = tuple(
        Link(a, b, "shm", 1e-6, 9e9 if (a, b) in near else 1e9, "measured")
        for a, b in combinations(range(4), 2)
    )
    fabric = Fabric(cores(4).devices, links, find_islands(4, links), MADE)
    assert [line[:1] for line in lines_of(fabric)[1:]] == ["0", "2", "-", "1", "3"]


@pytest.mark.parametrize("num_devices", [2, 3, 8, 12, 16, 17, 64, 128])
def test_every_size_fits_and_aligns(num_devices: int, capsys: pytest.CaptureFixture[str]):
    text = printed(boxes(num_devices), capsys)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    for part in ("NVIDIA L40S (cuda) of 48.0 GiB", "NVLink NV4", "362 TFLOP/s", "datasheet"):
        assert part in text
    rows = [line.rstrip() for line in lines_of(boxes(num_devices))]
    bars = {tuple(i for i, c in enumerate(row) if c in "|+" and row[i - 1] in " -") for row in rows}
    assert len({bar for bar in bars if bar}) <= 1


def test_many_devices_are_shown_by_island():
    lines = lines_of(boxes(64))
    assert lines[1].split()[0] == "0-3"
    assert len([line for line in lines if line and not line.startswith("-")]) == 17
    assert lines_of(boxes(128)) == []  # 32 boxes: the islands in words are all there is to say


def test_findings_come_first_the_worst_of_them_before(capsys: pytest.CaptureFixture[str]):
    found = (
        Finding("note", "6 cores share a cache", "nothing to do"),
        Finding("slow", "device 3 is at x8 of x16", "reseat it"),
        Finding("wrong", "P2P is refused", "turn off ACS"),
    )
    lines = printed(boxes(4, findings=found), capsys).splitlines()
    assert lines[0] == "3 findings"
    starts = [line.split()[:2] for line in lines[1:7:2]]
    assert starts == [["x", "wrong"], ["!", "slow"], ["-", "note"]]
    assert lines[2].strip() == "turn off ACS"


def test_groups_at_once_stand_beside_alone(capsys: pytest.CaptureFixture[str]):
    curves = (
        curve("pcie4", (0, 1, 2, 3), 1),
        curve("pcie4", (0, 1, 2, 3), 2.5, at_once=2),
        curve("nvlink", (0, 1), 1),
        curve("nvlink", (2, 3), 3),
        curve("nvlink", (0, 1), 1, at_once=4),
    )
    text = printed(boxes(8, curves=curves), capsys)
    rows = [line.split() for line in text[text.index("All-reduce") :].splitlines()]
    alone, both = (next(r for r in rows if r[:2] == ["PCIe", "4"] and r[2] == n) for n in "42")
    nvlink = [row for row in rows if row[:1] == ["NVLink"]]
    assert alone[:7] == ["PCIe", "4", "4", "0-3", "10.0", "us", "15.0"]
    assert alone[-2:] == ["-", "-"]  # measured up to 256 KiB
    assert " ".join(both).startswith("PCIe 4 2 x 4 at once 0-3 25.0 us 37.5 us")
    assert " ".join(both).endswith("2.5x as long as alone")
    assert " ".join(nvlink[0]) == "NVLink 2 slowest of 2 30.0 us 45.0 us - -"
    assert " ".join(nvlink[1]).endswith("as fast as alone")


def test_two_cores_stay_compact(capsys: pytest.CaptureFixture[str]):
    fabric = cores(2, kinds=("shm", "tcp"), curves=(curve("shm", (0, 1), 1),))
    text = printed(fabric, capsys)
    assert len(text.splitlines()) == 14
    assert "shared memory" in text
    assert "TCP (Gloo)" in text
    assert "Islands" not in text


def test_one_device_has_no_wires(capsys: pytest.CaptureFixture[str]):
    text = printed(cores(1), capsys)
    assert text.startswith("1 x core (cpu-core)")
    assert "Wires" not in text


def test_devices_without_wires_are_said_to_be_alone(capsys: pytest.CaptureFixture[str]):
    fabric = Fabric(cores(3).devices, (), (), MADE)
    text = printed(fabric, capsys)
    assert "No wires: every device works alone." in text
    assert "on no island" in text


def test_hosts_that_differ_and_their_cards(capsys: pytest.CaptureFixture[str]):
    devices = (gpu(0, "a"), gpu(1, "a"), *(
        Device(i, "b", "cuda", "NVIDIA A100", 80 * GIB, 2e12, {"bf16": 312e12}, 4e-6, "measured",
               attention=(AttentionPoint("bf16", 1, 4096, 512, 512, 7e-6),))
        for i in (2, 3)
    ))  # fmt: skip
    links = tuple(wire(a, b) for a, b in combinations(range(4), 2))
    cards = (
        Nic("eth0", "ethernet", 1.25e9, up=True),
        Nic("mlx5_0", "infiniband", 50e9, up=True),
        Nic("eth1", "ethernet", None, up=False),
    )
    facts = tuple(HostFacts(host, "EPYC", (0,), GIB, nics=cards) for host in "ab")
    fabric = Fabric(devices, links, find_islands(4, links), MADE, machines=facts)
    text = printed(fabric, capsys)
    assert text.startswith("4 devices on 2 hosts")
    assert "a  2 x NVIDIA L40S (cuda) of 48.0 GiB" in text
    assert "a and b  eth0 10 Gbit/s and mlx5_0 InfiniBand 400 Gbit/s" in text
    assert "eth1" not in text
    assert re.search(r"attention.*\n.*of 4096", text)
    assert "7.00 us" in text
    assert "2-3" in text[text.index("What each device") :]


def test_span():
    assert span([3]) == "3"
    assert span([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
