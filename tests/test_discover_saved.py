"""Saved texts of any tool, this machine, and that no text crashes a parser."""

import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_nvml import bridged_3090s
from wirecut.errors import FabricError
from wirecut.fabric import discover as discover_module
from wirecut.fabric.discover import assumed_fabric, discover, first_devices
from wirecut.fabric.fabric import Fabric, load_fabric, save_fabric
from wirecut.fabric.nvml import take_snapshot
from wirecut.fabric.saved import looks_saved, read_saved

CAPTURES = {
    path.name: path.read_text()
    for path in sorted((Path(__file__).parent / "captures").iterdir())
    if path.name != "README.md"
}
NAMED = {  # captures that tell their devices
    "nvidia-h100-8gpu-dgx.txt",
    "nvidia-a100-mig.txt",
    "amd-mi210-8gpu-two-hives-rocm-smi.txt",
    "nvml-gb200-tray.json",
    "nvml-rtx3090-faults.json",
}
WORDS = ["GPU0", "GPU1", "GPU9", "X", "NV1", "NV999", "NV", "SYS", "PIX", "N/A", "0-63", "\t", "\n",
         "NIC0", "XGMI", "PCIE", "15", "-1", "SELF", "0000:0c:00.0", "LINK TYPE TABLE:", "[",
         "CPU Affinity", "\x1b[4m", "OK", '"link_type"', "GPU 0: A (UUID: GPU-", "9" * 40,
         "{", "1e300", "null"]  # fmt: skip


def device_of(name: str) -> str | None:
    if name in NAMED:
        return None
    return "MI250X" if name.startswith("amd") else "H100-SXM" if "4gpu-mesh" in name else "B200-SXM"


@pytest.mark.parametrize("name", CAPTURES)
def test_every_capture_is_a_fabric_that_comes_back_from_its_file(name: str, tmp_path: Path):
    assert looks_saved(CAPTURES[name])
    fabric = read_saved(CAPTURES[name], device_of(name))
    count = len(fabric.devices)
    assert len(fabric.links) == count * (count - 1) // 2
    save_fabric(fabric, tmp_path / "fabric.json")
    assert load_fabric(tmp_path / "fabric.json") == fabric


@pytest.mark.parametrize("name", sorted(CAPTURES.keys() - NAMED))
def test_the_device_is_asked_for(name: str):
    with pytest.raises(FabricError, match="--device"):
        read_saved(CAPTURES[name])


def test_a_text_of_another_kind_says_what_was_expected():
    for text in ("", "hello", "{}", '{"format": "wirecut-fabric-1"}', "GPU 0: A (UUID: GPU-1)"):
        assert not looks_saved(text)
        with pytest.raises(FabricError, match="expected what `nvidia-smi topo -m`"):
            read_saved(text, "L40S")


def reads_or_says_why(text: str, device: str | None) -> None:
    try:
        why = "" if isinstance(read_saved(text, device), Fabric) else "no fabric"
    except FabricError as error:
        why = str(error)
    assert why == "" or 10 < len(why) < 1000


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))
@example("GPU0\nGPU0 X")
@example("[" * 5000 + '"link_type"')
@example('{"format":"wirecut-nvml-1","driver":"","gpus":[]}')
def test_no_text_crashes_a_parser(text: str):
    reads_or_says_why(text, "H100-SXM")


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(CAPTURES)), st.data())
def test_no_damaged_capture_crashes_a_parser(name: str, data: st.DataObject):
    text = CAPTURES[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 200)))
        middle = data.draw(st.sampled_from([*WORDS, ""]) | st.text(max_size=5))
        text = text[:start] + middle + text[end:]
    reads_or_says_why(text, device_of(name))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([n for n in CAPTURES if n.endswith(".json")]), st.data())
def test_no_number_of_a_file_crashes_a_parser(name: str, data: st.DataObject):
    text = CAPTURES[name]
    numbers = list(re.finditer(r"(?<=: )-?[0-9.e+]+", text))
    number = data.draw(st.sampled_from(numbers))
    other = data.draw(st.sampled_from(["0", "-1", "1e300", "4096", str(10**30), "null", "0.5"]))
    reads_or_says_why(text[: number.start()] + other + text[number.end() :], device_of(name))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_cell_is_noticed_unless_both_halves_change(data: st.DataObject):
    lines = CAPTURES["nvidia-h200-8gpu-nvswitch.txt"].splitlines()
    row = data.draw(st.integers(1, 8))
    column = data.draw(st.integers(1, 8).filter(lambda c: c != row))
    cells = lines[row].split("\t")
    cells[column] = data.draw(st.sampled_from(["SYS", "PIX", "NV17", "", "X", "?"]))
    lines[row] = "\t".join(cells)
    with pytest.raises(FabricError, match=r"GPU|cells"):
        read_saved("\n".join(lines), "H200-SXM")


def test_this_machine_without_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(discover_module, "read_nvml", lambda host: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    fabric = discover(3)
    assert fabric.links == assumed_fabric(3).links
    assert fabric.machines[0].cores == tuple(sorted(os.sched_getaffinity(0)))


def test_this_machine_with_gpus(monkeypatch: pytest.MonkeyPatch):
    snapshot = take_snapshot(bridged_3090s())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(discover_module, "read_nvml", lambda host: snapshot)
    fabric = discover()
    assert [device.kind for device in fabric.devices] == ["gpu"] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert discover().links[0].path == "NV4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert discover().devices[0].kind == "cpu-core"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert fabric.islands == ((0, 1), (2, 3))
    assert fabric.hosts == (fabric.machines[0].host,)
    assert discover(2).islands == ((0, 1),)
    assert len(first_devices(fabric, 3).links) == 3
    with pytest.raises(FabricError, match="5 ranks on 4 GPUs"):
        discover(5)


def test_this_machine_with_amds_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text = tmp_path / "text"
    text.write_text(CAPTURES["amd-mi210-8gpu-two-hives-rocm-smi.txt"])
    tool = tmp_path / "rocm-smi"
    tool.write_text(f"#!{sys.executable}\nprint(open({str(text)!r}).read())\n")
    tool.chmod(0o755)
    monkeypatch.setattr(discover_module, "read_nvml", lambda host: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {device.name for device in discover().devices} == {"MI210"}
    text.write_text("no GPU here")
    assert discover(1).devices[0].kind == "cpu-core"


def test_a_device_with_fewer_links_than_the_text_shows_is_refused() -> None:
    """Six links to each of three others are 18: an H100's, no A100's 12, and no switch's."""
    text = (Path(__file__).parent / "captures" / "nvidia-h100-4gpu-mesh.txt").read_text()
    assert {link.kind for link in read_saved(text, "H100-SXM").links} == {"nvlink"}
    with pytest.raises(FabricError, match=r"18 NVLinks \(6 \+ 6 \+ 6\), A100-SXM-80GB has 12"):
        read_saved(text, "A100-SXM")
