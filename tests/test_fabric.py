"""The fabric and its file: what goes out comes back, what is damaged is named."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecut.errors import FabricError, UsageError
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Curve, Device, Fabric, Link, Made, load_fabric, save_fabric


def device(number: int, host: str = "left") -> Device:
    return Device(
        id=number,
        host=host,
        kind="cpu",
        name="core",
        memory_bytes=2**30,
        bytes_per_s=1e10,
        flops_per_s={"fp32": 5e10, "bf16": 1e11},
        launch_s=5e-6,
        source="measured",
        cpus=(number,),
        points=(MatrixPoint("bf16", 1, 1_000_000, 1e-4),),
    )


def fabric() -> Fabric:
    """Two hosts of two devices: shared memory inside, TCP everywhere."""
    inside = [(0, 1), (2, 3)]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    return Fabric(
        devices=tuple(device(i, "left" if i < 2 else "right") for i in range(4)),
        links=tuple(Link(a, b, "shm", 2e-6, 8e9, "measured", 0.1) for a, b in inside)
        + tuple(Link(a, b, "tcp", 50e-6, 1e9, "datasheet") for a, b in pairs),
        islands=((0, 1), (2, 3)),
        made=Made("2026-01-01T00:00:00Z", "by hand", "0.1.0", ("a note",)),
        curves=(Curve("all_reduce", "shm", (0, 1), ((2048, 10e-6), (4096, 14e-6), (8192, 30e-6))),),
    )


def test_a_fabric_comes_back_from_its_file(tmp_path):
    save_fabric(fabric(), tmp_path / "fabric.json")
    assert load_fabric(tmp_path / "fabric.json") == fabric()
    assert [path.name for path in tmp_path.iterdir()] == ["fabric.json"]


def test_the_best_wire_between_two_devices():
    wires = fabric()
    assert (wires.link(0, 1).kind, wires.link(1, 0).kind, wires.link(1, 2).kind) == (
        "shm",
        "shm",
        "tcp",
    )
    assert wires.slowest_link((0, 1)).kind == "shm"
    assert wires.slowest_link((0, 1, 2)).kind == "tcp"
    assert wires.only("tcp").link(0, 1).kind == "tcp"
    assert wires.hosts == ("left", "right")
    with pytest.raises(FabricError, match="no link joins devices 2 and 1"):
        wires.only("shm").link(2, 1)


def test_a_curve_is_read_straight_between_its_points():
    curve = fabric().curve("all_reduce", (0, 1))
    assert curve.seconds(1) == 10e-6  # below the first point: that point
    assert curve.seconds(2048) == 10e-6
    assert curve.seconds(3072) == pytest.approx(12e-6)
    assert curve.seconds(4096) == pytest.approx(14e-6)
    assert curve.seconds(6144) == pytest.approx(22e-6)
    assert curve.seconds(8192) == pytest.approx(30e-6)
    assert curve.seconds(16384) > 30e-6
    assert fabric().curve("send_recv", (0, 1)) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 10**7), st.floats(1e-7, 1.0)),
        min_size=2,
        max_size=6,
        unique_by=lambda point: point[0],
    ),
    st.floats(0, 1e9),
)
def test_no_curve_gives_a_time_below_its_fastest_point(points, num_bytes):
    points = tuple(sorted(points))
    seconds = Curve("all_reduce", "shm", (0, 1), points).seconds(num_bytes)
    assert seconds >= min(s for _, s in points) * 0.999


def test_wires_twice_as_fast():
    fast = fabric().with_wires(speed=2)
    assert fast.link(0, 1) == replace(fabric().link(0, 1), latency_s=1e-6, bytes_per_s=16e9)
    assert fast.curves[0].points == ((2048, 5e-6), (4096, 7e-6), (8192, 15e-6))
    assert fast.devices == fabric().devices
    assert fast.with_wires(speed=0.5) == fabric()


def write(path, changes) -> None:
    """The fabric's file with some values replaced: {("links", 0, "a"): 9}."""
    save_fabric(fabric(), path)
    content = json.loads(path.read_bytes())
    for place, value in changes.items():
        at = content
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("format",), "wirecut-fabric-9", "format is 'wirecut-fabric-9', expected 'wirecut-fab"),
        (("devices",), [], r"device ids are \[\]"),
        (("devices", 0, "id"), 7, r"device ids are \[7, 1, 2, 3\], expected 0, 1, 2"),
        (("devices", 1, "memory_bytes"), 0, "device 1: memory_bytes is 0, expected at least 1"),
        (("devices", 1, "memory_bytes"), -5, "device 1: memory_bytes is -5"),
        (("devices", 1, "memory_bytes"), "big", r"Expected `int`, got `str` - at `\$\.devices"),
        (("devices", 2, "bytes_per_s"), 0, "device 2: bytes_per_s is 0"),
        (("devices", 0, "flops_per_s"), {"fp32": -1}, "device 0: flops_per_s of fp32"),
        (("devices", 0, "launch_s"), 3, "device 0: launch_s is 3"),
        (("devices", 0, "points", 0, "seconds"), 0, "measured point"),
        (("devices", 0, "source"), "guessed", "Invalid enum value 'guessed'"),
        (("islands",), [[0, 1], [2, 4]], r"island \(2, 4\) names devices that are not"),
        (("links", 0, "b"), 9, "link 0-9 joins no two devices"),
        (("links", 0, "b"), 0, "link 0-0 joins no two devices"),
        (("links", 0, "latency_s"), -1, "link 0-1: latency_s is -1"),
        (("links", 0, "bytes_per_s"), 1e30, r"link 0-1: bytes_per_s is 1e\+30"),
        (("curves", 0, "points"), [[1, 1]], "needs rising sizes with positive seconds"),
        (("curves", 0, "points"), [[2, 1], [1, 1]], "needs rising sizes"),
        (("curves", 0, "points"), [[0, 1], [1, 1]], "needs rising sizes"),
        (("curves", 0, "points"), [[1, 1], [2, 0]], "needs rising sizes"),
        (("links",), None, "Expected `array`, got `null`"),
    ],
)
def test_a_fabric_that_makes_no_sense_is_named(tmp_path, place, value, words):
    path = tmp_path / "fabric.json"
    write(path, {place: value})
    with pytest.raises(FabricError, match=words) as caught:
        load_fabric(path)
    assert str(path) in str(caught.value)
    assert "wirecut probe" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"devices": 3}', b"[" * 100_000, b"GPU0 GPU1 NV4"],
)
def test_a_damaged_or_foreign_file(tmp_path, content):
    path = tmp_path / "fabric.json"
    path.write_bytes(content)
    with pytest.raises(FabricError, match=r"is not a fabric\.json of wirecut"):
        load_fabric(path)


@settings(max_examples=100, deadline=None)
@given(at=st.floats(0, 1), junk=st.binary(max_size=3))
def test_no_damage_crashes_the_reader(tmp_path_factory, at, junk):
    path = tmp_path_factory.getbasetemp() / "damaged-fabric.json"
    save_fabric(fabric(), path)
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + junk + whole[place + len(junk) :])
    try:
        assert load_fabric(path).devices
    except FabricError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FabricError, match=r"cannot read fabric .*No such file"):
        load_fabric(tmp_path / "nothing.json")
    with pytest.raises(FabricError, match=r"cannot read fabric .*Is a directory"):
        load_fabric(tmp_path)
    with pytest.raises(UsageError, match=r"cannot write .*No such file"):
        save_fabric(fabric(), tmp_path / "no" / "folder.json")
