"""AMD's texts become fabrics; what is wrong with a text is named by its cell."""

import json
from pathlib import Path

import pytest

from wirecut.errors import FabricError
from wirecut.fabric.amd_topo import parse_amd_topo
from wirecut.fabric.saved import read_saved

CAPTURES = Path(__file__).parent / "captures"


def captured(name: str) -> str:
    return (CAPTURES / f"amd-{name}").read_text()


@pytest.mark.parametrize("tool", ["amd-smi", "rocm-smi"])
def test_eight_mi300x_each_joined_to_each(tool: str):
    box = read_saved(captured(f"mi300x-8gpu-{tool}.txt"), "MI300X")
    assert {(link.kind, link.path) for link in box.links} == {("xgmi", "XGMI")}
    assert len(box.links) == 28
    assert box.islands == (tuple(range(8)),)
    assert len({link.bytes_per_s for link in box.links}) == 1


def test_both_tools_say_the_same_of_the_wires():
    a, b = (read_saved(captured(f"mi300x-8gpu-{t}.txt"), "MI300X") for t in ("amd-smi", "rocm-smi"))
    assert a.links == b.links
    assert [device.numa for device in b.devices] == [0] * 4 + [1] * 4


def test_two_hives_and_their_product_from_the_text():
    box = read_saved(captured("mi210-8gpu-two-hives-rocm-smi.txt"))
    assert {device.name for device in box.devices} == {"MI210"}
    assert box.islands == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (box.link(0, 4).kind, box.link(0, 4).path) == ("pcie4", "PCIE 3 hops")


def test_no_access_no_peer_to_peer():
    text = captured("2gpu-pcie-amd-smi.txt")
    assert read_saved(text, "MI210").link(0, 1).kind == "pcie4-nop2p"
    enabled = text.replace("DISABLED", "ENABLED ")
    assert read_saved(enabled, "MI210").link(0, 1).kind == "pcie4"


def test_json_and_more_than_one_link_a_pair():
    one = read_saved(captured("2gpu-amd-smi.json").replace("100000", "50000"), "MI250X")
    two = read_saved(captured("2gpu-amd-smi.json"), "MI250X")
    assert two.link(0, 1).bytes_per_s == pytest.approx(2 * one.link(0, 1).bytes_per_s)


def test_a_way_over_another_device_takes_longer():
    text = captured("mi300x-8gpu-rocm-smi.txt")
    far = text.replace("GPU0   0            15 ", "GPU0   0            30 ", 1)
    box = read_saved(far, "MI300X")
    assert box.link(0, 1).latency_s == pytest.approx(2 * box.link(0, 2).latency_s)


def test_the_table_of_link_types_is_enough():
    text = captured("mi300x-8gpu-rocm-smi.txt")
    start, end = text.index("==== Link Type"), text.index("==== Numa")
    alone = read_saved(text[start:end], "MI300X")
    assert alone.links == read_saved(text, "MI300X").links


def test_the_device_is_asked_for():
    with pytest.raises(FabricError, match=r"name it with --device, e\.g\. --device MI300X"):
        read_saved(captured("mi300x-8gpu-amd-smi.txt"))


def damaged() -> list[tuple[str, str]]:
    text = captured("2gpu-pcie-amd-smi.txt")
    types = text[text.index("LINK TYPE") :]
    row = "0000:03:00.0 SELF         PCIE"
    loose = json.loads(captured("2gpu-amd-smi.json"))
    loose[0]["links"].pop()
    return [
        ("ACCESS TABLE:\nnothing\n", "no topology"),
        ("LINK TYPE TABLE:\nnothing\n", "no topology"),
        (types.replace(row, f"{row} PCIE"), "has 3 cells for 2 columns"),
        (types.replace(row, "0000:03:00.0 SELF         CXL"), r"0000:0c:00.0\) is 'CXL'"),
        (types.replace(row, "0000:03:00.0 SELF         XGMI"), "but .* is PCIE: .* not symmetric"),
        (types.replace(row, "0000:03:00.0 PCIE         PCIE"), "expected SELF or 0"),
        (types.replace(row + "\n", ""), "no cell"),
        (types.replace(row, f"{row}\n{row}"), "two rows"),
        (types.replace("0000:03:00.0 0000:0c:00.0", "0000:03:00.0 0000:03:00.0"), "names a device"),
        (types + types, "two tables"),
        (json.dumps(loose), "no cell"),
        (json.dumps(loose)[:-9], "not what `amd-smi topology --json` prints"),
        (json.dumps([loose[1], loose[1]]), "stands twice"),
    ]


@pytest.mark.parametrize(("text", "message"), damaged())
def test_what_is_wrong_is_named(text: str, message: str):
    with pytest.raises(FabricError, match=message):
        parse_amd_topo(text)
