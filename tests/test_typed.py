"""Typed fabrics: every word's links."""

import pytest

import wirecut
from fabrics import check_whole
from specs import LLAMA_8B, spec_of
from wirecut.fabric.physics import pair_wire
from wirecut.fabric.typed import looks_typed, typed_fabric

# Every machine of the published results that predictions are checked against.
MACHINES = """
1xA100-PCIe-80GB 1xA100-SXM-40GB 1xA100-SXM-80GB 1xA40 1xB200-SXM 1xGB10 1xGB200 1xGH200-96GB
1xH100-PCIe 1xH100-SXM 1xH200-SXM 1xL40S 1xRTX-3070 1xRTX-3080 1xRTX-3080-Ti 1xRTX-3090
1xRTX-4000-Ada 1xRTX-4070-Ti 1xRTX-4080 1xRTX-4090 1xRTX-5000-Ada 1xRTX-6000-Ada 1xRTX-A6000
1xRTX-PRO-6000 2x1xRTX-3090:pcie4:10gbe 2x4xA100-SXM-40GB:nvswitch:100gbe
2x4xA100-SXM-40GB:nvswitch:ib-200x8 2x8xA100-SXM-40GB:nvswitch:100gbe
2x8xA100-SXM-40GB:nvswitch:ib-200x8 2xA100-SXM-40GB:nvlink-mesh 2xA100-SXM-80GB:nvlink-cube
2xA100-SXM-80GB:nvswitch 2xB200-SXM:nvswitch 2xGB200:nvswitch 2xH100-SXM:nvlink-mesh
2xH100-SXM:nvswitch 2xH200-SXM:nvswitch 2xP100:pcie3 2xRTX-3090:nvlink-pairs 2xRTX-3090:pcie3
2xRTX-3090:pcie4 2xRTX-3090:pcie4-nop2p 2xRTX-4090:pcie4-nop2p 2xRTX-5090:pcie5
2xRTX-5090:pcie5-nop2p 2xRTX-PRO-6000:pcie5 4x1xGB10:pcie4:roce-100 4x1xGB10:pcie4:roce-200
4xA100-PCIe-80GB:pcie4 4xA100-PCIe-80GB:pcie4-nop2p 4xA100-SXM-40GB:nvlink-mesh
4xA100-SXM-80GB:nvlink-cube 4xA100-SXM-80GB:nvswitch 4xA100-SXM-80GB:pcie4-nop2p 4xA40:pcie4-nop2p
4xB200-SXM:nvswitch 4xCMP-170HX:pcie2 4xGB200:nvswitch 4xH100-PCIe:pcie4-nop2p
4xH100-SXM:nvlink-mesh 4xH100-SXM:nvswitch 4xH200-SXM:nvswitch 4xL40S:pcie4 4xL40S:pcie4-nop2p
4xMI300X:xgmi 4xRTX-3090:pcie3 4xRTX-3090:pcie4-nop2p 4xRTX-4000-Ada:pcie4-nop2p
4xRTX-4090:pcie4-nop2p 4xRTX-5000-Ada:pcie4-nop2p 4xRTX-6000-Ada:pcie4-nop2p
4xRTX-A6000:pcie4-nop2p 4xRTX-PRO-6000:pcie5 6xRTX-3090:pcie4-nop2p 8xA100-SXM-40GB:nvswitch
8xA100-SXM-80GB:nvlink-cube 8xA100-SXM-80GB:nvswitch 8xB200-SXM:nvswitch 8xH100-SXM:nvswitch
8xH200-SXM:nvswitch 8xL40:pcie4 8xL40S:pcie4 8xMI300X:xgmi 8xRTX-4090:pcie4-nop2p
8xRTX-PRO-6000:pcie5
"""
PUBLISHED = MACHINES.split()


@pytest.mark.parametrize("text", PUBLISHED)
def test_every_published_machine_can_be_typed(text):
    fabric = typed_fabric(text)
    counts = [int(part) for part in text.split(":")[0].split("x")[:-1] if part.isdigit()]
    nodes, gpus = counts if len(counts) == 2 else (1, *counts)
    check_whole(fabric, nodes, gpus)
    device = text.split(":")[0].split("x", len(counts))[-1]
    assert {d.name for d in fabric.devices} == {device}
    assert {d.source for d in fabric.devices} == {"datasheet"}


@pytest.mark.parametrize(
    ("text", "layout", "dtype"),
    [
        ("8xH100-SXM", "tp8", "bf16"),
        ("4xL40S:pcie4", "tp2pp2", "bf16"),
        ("2x8xL40S:pcie4:100gbe", "tp8pp2", "bf16"),
        ("8xMI300X:xgmi", "tp4dp2", "bf16"),
        ("2xP100:pcie3", "pp2", "fp16"),
        ("4x24GB,936GB/s,71TFLOP/s:pcie4-nop2p", "pp4", "bf16"),
    ],
)
def test_a_typed_fabric_is_priced(text, layout, dtype):
    traffic = wirecut.Traffic(input_tokens=256, output_tokens=64, concurrency=4)
    found = wirecut.estimate(
        spec_of(LLAMA_8B), fabric=text, layout=layout, traffic=traffic, dtype=dtype
    )
    assert 1e-4 < found.tpot_s < 1


def raw_rates(text: str) -> dict[tuple[int, int], tuple[str, str]]:
    return {(link.a, link.b): (link.kind, link.path) for link in typed_fabric(text).links}


def seen_rate(text: str, a: int = 0, b: int = 1) -> tuple[float, float]:
    link = typed_fabric(text).link(a, b)
    return link.latency_s, link.bytes_per_s


def test_nvswitch_gives_every_pair_all_links():
    assert seen_rate("8xH100-SXM:nvswitch", 2, 7) == pair_wire("nvswitch", 450e9)


def test_a_mesh_divides_the_links_over_the_board():
    assert seen_rate("4xA100-SXM-40GB:nvlink-mesh") == pair_wire("nvlink", 100e9)
    assert seen_rate("2xA100-SXM-40GB:nvlink-mesh") == pair_wire("nvlink", 100e9)
    assert seen_rate("8xA100-SXM-40GB:nvlink-mesh") == pair_wire("nvlink", 25e9)


def test_the_cube_of_v100_is_that_of_a_dgx_1():
    """The matrix that `nvidia-smi topo -m` prints on one; 0: no NVLink."""
    matrix = """
        X 1 1 2 2 0 0 0
        1 X 2 1 0 2 0 0
        1 2 X 2 0 0 1 0
        2 1 2 X 0 0 0 1
        2 0 0 0 X 1 1 2
        0 2 0 0 1 X 2 1
        0 0 1 0 1 2 X 2
        0 0 0 1 2 1 2 X"""
    rows = [row.split() for row in matrix.strip().splitlines()]
    fabric = typed_fabric("8xV100-SXM-32GB:nvlink-cube")
    assert len(fabric.links) == 28
    for link in fabric.links:
        count = rows[link.a][link.b]
        assert link.path == (f"{count} x NVLink" if count != "0" else "PCIe 3")
        assert (link.kind == "nvlink") == (count != "0") == (link.shares == "")
    assert fabric.link(0, 3).bytes_per_s == pair_wire("nvlink", 50e9)[1]


def test_other_cubes_divide_their_links_over_four_neighbours():
    found = raw_rates("8xA100-SXM-80GB:nvlink-cube")
    counts = [sum(path == "3 x NVLink" for pair, (_, path) in found.items() if 5 in pair)]
    assert counts == [4]
    assert raw_rates("2xA100-SXM-80GB:nvlink-cube") == {(0, 1): ("nvlink", "3 x NVLink")}
    assert raw_rates("8xP100-SXM")[0, 4] == ("nvlink", "1 x NVLink")


def test_bridges_join_pairs_and_the_slot_the_rest():
    fabric = typed_fabric("4xA100-PCIe:nvlink-pairs")
    kinds = {(link.a, link.b): link.kind for link in fabric.links}
    assert [pair for pair, kind in kinds.items() if kind == "nvlink"] == [(0, 1), (2, 3)]
    assert kinds[1, 2] == kinds[0, 3] == "pcie4"
    assert fabric.islands == ((0, 1), (2, 3))
    assert fabric.made.notes == ("A100-PCIe is taken as A100-PCIe-80GB",)
    assert typed_fabric("4xRTX-3090:nvlink-pairs").link(1, 2).kind == "pcie4-nop2p"


def test_xgmi_is_one_link_to_every_peer_however_many_are_used():
    for text in ("8xMI300X:xgmi", "4xMI300X:xgmi"):
        assert seen_rate(text, 0, 3) == pair_wire("xgmi", 64e9)
    assert seen_rate("4xMI300A") == pair_wire("xgmi", 128e9)


def test_pcie_is_shared_by_the_pairs_of_a_node():
    fabric = typed_fabric("2x4xL40S:pcie4:100gbe")
    inside = {link.shares for link in fabric.links if link.kind == "pcie4"}
    assert inside == {"pcie of node0", "pcie of node1"}
    assert seen_rate("4xL40S:pcie4") == pair_wire("pcie4")
    assert seen_rate("4xL40S:pcie4-nop2p") == pair_wire("pcie4-nop2p")


def test_a_rail_each_or_one_shared():
    own = typed_fabric("2x8xH100-SXM:nvswitch:ib-200x8")
    assert len({link.shares for link in own.links if link.kind == "ib"}) == 8
    assert seen_rate("2x8xH100-SXM:nvswitch:ib-200x8", 0, 8) == pair_wire("ib", 25e9)
    shared = typed_fabric("2x8xH100-SXM:nvswitch:ib-200x2")
    by_nic = {link.a: link.shares for link in shared.links if link.kind == "ib"}
    assert [by_nic[a] for a in range(8)] == ["nic of node0, rail 0"] * 4 + [
        "nic of node0, rail 1"
    ] * 4
    assert seen_rate("2x8xH100-SXM:nvswitch:ib-200x2", 0, 8) == pair_wire("ib", 25e9)
    one = typed_fabric("3x2xL40S:pcie4:25gbe")
    assert {link.shares for link in one.links if link.kind == "ethernet"} == {
        "nic of node0, rail 0",
        "nic of node1, rail 0",
    }
    assert seen_rate("3x2xL40S:pcie4:25gbe", 1, 4) == pair_wire("ethernet", 25e9 / 8)


def test_two_rails_serve_one_device_and_its_slot_is_the_limit():
    assert seen_rate("2x1xGB10:pcie4:roce-100x2") == pair_wire("roce", 25e9)
    assert seen_rate("2x1xCMP-170HX:pcie2x4:100gbe") == pair_wire("ethernet", 2e9)


def test_rates_follow_the_speed_and_latency_the_kind():
    slow, fast = (typed_fabric(f"2x1xL40S:pcie4:{word}").links[0] for word in ("10gbe", "100gbe"))
    assert fast.bytes_per_s == pytest.approx(10 * slow.bytes_per_s)
    assert fast.latency_s == slow.latency_s
    kinds = [typed_fabric(f"2x1xL40S:pcie4:{w}").links[0].kind for w in ("ib-100", "roce-100")]
    assert kinds == ["ib", "roce"]


def test_nvswitch_over_nodes():
    fabric = typed_fabric("18x4xGB200:nvswitch:mnnvl")
    check_whole(fabric, 18, 4)
    assert {link.kind for link in fabric.links} == {"nvswitch"}
    assert fabric.islands == (tuple(range(72)),)


def test_islands_are_the_nodes_where_the_network_is_slower():
    assert typed_fabric("2x4xL40S:pcie4:10gbe").islands == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert typed_fabric("8xL40S").islands == (tuple(range(8)),)
    assert typed_fabric("1xL40S").islands == ((0,),)


def test_what_is_left_out_is_assumed_and_said():
    assert typed_fabric("8xL40S:pcie4").made.notes == ()
    fabric = typed_fabric("2x8xL40S")
    assert fabric.made.notes == (
        "wires inside a node not given: pcie4 assumed",
        "wires between nodes not given: 100gbe assumed",
    )
    assert fabric.made.how == "typed: 2x8xL40S"
    odd = typed_fabric("3xH100-NVL")
    assert odd.link(0, 1).kind == "pcie5"
    assert "since 3 devices make no pairs" in odd.made.notes[0]


def test_wires_that_are_unusual_for_the_device_are_taken_and_said():
    assert "refuses peer access" in typed_fabric("2xRTX-4090:pcie4").made.notes[0]
    assert "slot as fast as pcie4" in typed_fabric("2xL40S:pcie5").made.notes[0]


def test_a_device_by_hand():
    fabric = typed_fabric("2x24GB,936GB/s,71TFLOP/s,name=Mine:pcie4")
    assert [(d.name, d.memory_bytes, d.source) for d in fabric.devices] == [
        ("Mine", 24 * 10**9, "assumed")
    ] * 2
    assert "fp8" not in fabric.devices[0].flops_per_s


def test_what_looks_typed():
    assert all(map(looks_typed, PUBLISHED))
    for text in ("", "fabric.json", "L40S", "8x", "./8xL40S.json", "/a/8xL40S"):
        assert not looks_typed(text)
