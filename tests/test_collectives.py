"""Collectives priced against numbers computed by hand, and what holds for every price."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrics import fabric
from wirecut.cost.collectives import (
    collective_price,
    gather_price,
    physics_price,
    send_price,
)
from wirecut.cost.lanes import wiring_of
from wirecut.cost.libraries import LIBRARIES, NCCL, library_of
from wirecut.errors import FabricError, UsageError
from wirecut.fabric.fabric import Curve, Fabric, Link, Op
from wirecut.fabric.physics import ROOT_SHARE, pair_wire
from wirecut.fabric.typed import typed_fabric
from wirecut.fabric.wires import WIRES

US = 1e-6
KIB, MIB, GIB = 2**10, 2**20, 2**30
OPS: tuple[Op, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
FABRICS = {
    text: typed_fabric(text)
    for text in (
        "8xA100-SXM-80GB:nvswitch",
        "8xH100-SXM:nvswitch",
        "4xA100-SXM-40GB:nvlink-mesh",
        "8xV100-SXM-32GB:nvlink-cube",
        "4xA100-PCIe-80GB:nvlink-pairs",
        "8xL40S:pcie4",
        "8xRTX-4090:pcie4-nop2p",
        "8xMI300X:xgmi",
        "2x4xH100-SXM:nvswitch:ib-400x4",
        "2x4xL40S:pcie4:10gbe",
    )
}
texts = st.sampled_from(sorted(FABRICS))
ops = st.sampled_from(OPS)
libraries = st.sampled_from([None, *LIBRARIES])


def seconds(text: str, op: Op, ranks: int, num_bytes: float, **options: object) -> float:
    group = tuple(range(ranks))
    return collective_price(FABRICS[text], op, group, num_bytes, **options).seconds  # type: ignore[arg-type]


def test_between_cores_by_hand():
    wires = fabric(4)
    link = wires.link(0, 1)
    assert collective_price(wires, "all_reduce", (0, 1, 2, 3), 4000).seconds == pytest.approx(
        6 * 11 * US
    )
    assert gather_price(wires, (0, 1, 2, 3), 4000).seconds == pytest.approx(3 * 11 * US)
    assert send_price(wires, link, 5000).seconds == pytest.approx(15 * US)


def test_a_ring_over_nvswitch_by_hand():
    # latency 9 us, 0.73 x 300 GB/s; large: Simple, which starts after 14 steps and fills buffers
    found = physics_price(FABRICS["8xA100-SXM-80GB:nvswitch"], "all_reduce", range(8), GIB)
    start = 9 * US * (1 - NCCL.step + 14 * NCCL.step) + NCCL.simple_s + 14 * NCCL.simple_step_s
    own = NCCL.own_copies * GIB / 8 / 2.039e12
    assert found.seconds == pytest.approx(start + 2 * 7 / 8 * GIB / (0.73 * 300e9) + own, rel=1e-6)
    assert found.because.startswith("ring, 14 steps, Simple: ")
    assert "1.75 GiB / 219 GB/s over nvswitch" in found.because
    assert found.source == "datasheet"


def test_small_ones_cost_a_kernel_and_its_steps():
    for op, steps in (("all_reduce", 14), ("all_gather", 7), ("all_to_all", 1)):
        found = seconds("8xA100-SXM-80GB:nvswitch", op, 8, 8)  # type: ignore[arg-type]
        assert found == pytest.approx(9 * US * (1 - NCCL.step + steps * NCCL.step), rel=1e-3)


def test_the_switch_adds_from_nvlink_4_on():
    def large(text: str, ranks: int) -> str:
        return physics_price(FABRICS[text], "all_reduce", range(ranks), GIB).because

    assert large("8xH100-SXM:nvswitch", 8).startswith("added in the switch")
    assert large("8xH100-SXM:nvswitch", 2).startswith("ring")
    assert large("8xA100-SXM-80GB:nvswitch", 8).startswith("ring")
    gather = physics_price(FABRICS["8xH100-SXM:nvswitch"], "all_gather", range(8), GIB)
    assert gather.because.startswith("ring")


def test_custom_all_reduce_by_hand():
    wires = FABRICS["8xH100-SXM:nvswitch"]
    custom, rate = LIBRARIES["custom_graph"], 0.73 * 450e9
    one = physics_price(wires, "all_reduce", range(8), 16 * KIB, library=custom)
    assert one.because.startswith("one shot")
    assert one.seconds == pytest.approx(custom.barrier * 6 * US + 7 * 16 * KIB / rate)
    two = physics_price(wires, "all_reduce", range(8), 4 * MIB, library=custom)
    assert two.because.startswith("two shots")
    assert two.seconds == pytest.approx(2 * custom.barrier * 6 * US + 1.75 * 4 * MIB / rate)
    beyond = physics_price(wires, "all_reduce", range(8), 16 * MIB, library=custom)
    nccl = physics_price(wires, "all_reduce", range(8), 16 * MIB)
    assert (beyond.seconds, beyond.because) == (nccl.seconds, nccl.because)


@pytest.mark.parametrize(
    ("text", "ranks", "library", "custom"),
    [
        ("8xL40S:pcie4", 2, "custom_graph", True),
        ("8xL40S:pcie4", 4, "custom_graph", False),  # more than two want NVLink
        ("8xL40S:pcie4", 2, "trtllm", False),
        ("8xRTX-4090:pcie4-nop2p", 2, "custom_graph", False),
        ("4xA100-PCIe-80GB:nvlink-pairs", 2, "custom_graph", True),
        ("4xA100-PCIe-80GB:nvlink-pairs", 4, "custom_graph", False),
        ("4xA100-SXM-40GB:nvlink-mesh", 4, "custom_graph", True),
        ("8xV100-SXM-32GB:nvlink-cube", 8, "custom_graph", False),
        ("2x4xH100-SXM:nvswitch:ib-400x4", 8, "custom_graph", False),
    ],
)
def test_who_can_have_a_custom_all_reduce(text: str, ranks: int, library: str, custom: bool):
    found = physics_price(
        FABRICS[text], "all_reduce", range(ranks), 8 * KIB, library=library_of(library)
    )
    assert ("shot" in found.because) == custom, found.because


def test_eager_launches_have_a_floor_and_copy():
    text = "8xA100-SXM-80GB:nvswitch"
    eager = LIBRARIES["custom_eager"]
    copy = 2 * 4 * KIB / 2.039e12
    assert seconds(text, "all_reduce", 8, 4 * KIB, library="custom_eager") == pytest.approx(
        eager.host_s + copy
    )
    graph = seconds(text, "all_reduce", 8, GIB, library="custom_graph")
    assert seconds(text, "all_reduce", 8, GIB, library="custom_eager") == pytest.approx(
        graph + 2 * GIB / 2.039e12
    )


def test_a_mesh_gives_a_rank_all_its_links():
    two, four = (wiring_of(FABRICS["4xA100-SXM-40GB:nvlink-mesh"], range(n)).inside for n in (2, 4))
    assert two is not None and four is not None  # noqa: PT018
    assert two.bytes_per_s == pytest.approx(0.73 * 100e9)
    assert four.bytes_per_s == pytest.approx(0.73 * 300e9)


def test_pairs_wait_for_the_slot_between_them():
    wires = FABRICS["4xA100-PCIe-80GB:nvlink-pairs"]
    inside = wiring_of(wires, range(4)).inside
    assert inside is not None
    # two hops over PCIe only: the root complex is not shared, whatever the order of the ranks
    assert (inside.kind, inside.bytes_per_s) == ("pcie4", pair_wire("pcie4")[1])
    assert wiring_of(wires, (0, 2, 1, 3)).inside == inside
    assert wiring_of(wires, (2, 3)).inside == wiring_of(wires, (0, 1)).inside


def test_many_share_the_root_complex():
    wires, slot = FABRICS["8xL40S:pcie4"], pair_wire("pcie4")[1]

    def rate(ranks: int, at_once: int = 1) -> float:
        inside = wiring_of(wires, range(ranks), at_once=at_once).inside
        assert inside is not None
        return inside.bytes_per_s

    assert rate(2) == slot
    assert rate(4) == rate(8) == rate(2, at_once=4) == pytest.approx(slot * ROOT_SHARE["pcie4"])
    under = replace(wires, links=tuple(replace(k, path="PIX") for k in wires.links))
    inside = wiring_of(under, range(4)).inside
    assert inside is not None
    assert inside.bytes_per_s == slot


def test_rails_between_nodes_add_up_and_one_nic_is_shared():
    rails = wiring_of(typed_fabric("2x4xH100-SXM:nvswitch:ib-400x4"), range(8)).across
    one = wiring_of(FABRICS["2x4xL40S:pcie4:10gbe"], range(8)).across
    assert rails is not None and one is not None  # noqa: PT018
    assert (rails.rails, one.rails) == (4, 1)
    assert rails.bytes_per_s == pytest.approx(4 * pair_wire("ib", 50e9)[1])
    assert one.bytes_per_s == pytest.approx(pair_wire("ethernet", 1.25e9)[1])


def test_groups_at_once_share_a_nic_but_not_their_own_rails():
    group = (0, 4)  # one device on each node, four such groups
    for text, slower in (("2x4xL40S:pcie4:10gbe", 4), ("2x4xH100-SXM:nvswitch:ib-400x4", 1)):
        alone, together = (
            collective_price(FABRICS[text], "all_reduce", group, GIB, at_once=n).seconds
            for n in (1, 4)
        )
        assert together / alone == pytest.approx(slower, rel=0.01)


def test_measured_curves_go_before_the_line():
    curve = Curve("all_reduce", "shm", (0, 1), ((1000, 7e-6), (3000, 9e-6)))
    send = Curve("send_recv", "shm", (0, 1), ((1000, 2e-6), (3000, 3e-6)))
    wires = fabric(4, curves=(curve, send), spread=0.07)
    found = collective_price(wires, "all_reduce", (2, 3), 2000)
    assert (found.seconds, found.spread) == (pytest.approx(8e-6), 0.07)
    assert send_price(wires, wires.link(0, 3), 2000).seconds == pytest.approx(2.5e-6)
    # three were not measured: 9 us where the ring of two says 23, of three 44
    three = collective_price(wires, "all_reduce", (0, 1, 2), 3000)
    assert three.seconds == pytest.approx(9 / 23 * 44 * US)
    assert three.because.startswith("0.39 (measured over computed, 2 ranks) x (ring: 4 steps")
    assert three.spread > found.spread


def test_a_size_between_two_measured_ones_lies_between_their_ratios():
    two = Curve("all_reduce", "shm", (0, 1), ((1000, 22e-6), (4000, 24e-6)))  # as computed
    eight = Curve("all_reduce", "shm", tuple(range(8)), ((1000, 14 * 40.5e-6), (4000, 14 * 42e-6)))
    wires = fabric(8, curves=(two, eight))
    found = collective_price(wires, "all_reduce", (0, 1, 2, 3), 4000).seconds
    assert found == pytest.approx(6 * 11 * US * math.sqrt(4.0), rel=1e-6)


def test_a_curve_measured_alone_is_slowed_by_what_groups_share():
    wires = typed_fabric("4xL40S:pcie4")
    curve = Curve("all_reduce", "pcie4", (0, 1), ((KIB, 10e-6), (64 * MIB, 4e-3)))
    wires = replace(wires, curves=(curve,))
    alone = collective_price(wires, "all_reduce", (2, 3), 64 * MIB)
    both = collective_price(wires, "all_reduce", (2, 3), 64 * MIB, at_once=2)
    assert alone.seconds == pytest.approx(4e-3)
    assert 1.35 < both.seconds / alone.seconds <= 1 / ROOT_SHARE["pcie4"]
    assert "nccl, 2 at once, over nccl, 1 at once" in both.because
    measured = replace(curve, at_once=2, points=((KIB, 20e-6), (64 * MIB, 9e-3)))
    wires = replace(wires, curves=(curve, measured))
    both = collective_price(wires, "all_reduce", (2, 3), 64 * MIB, at_once=2)
    assert both.seconds == pytest.approx(9e-3)


def test_a_curve_of_nccl_says_what_another_library_takes():
    wires = FABRICS["8xA100-SXM-80GB:nvswitch"]
    group, size = tuple(range(8)), 16 * KIB
    computed = physics_price(wires, "all_reduce", group, size).seconds
    points = ((KIB, computed), (size, 2 * computed), (MIB, 4 * computed))
    wires = replace(wires, curves=(Curve("all_reduce", "nvswitch", group, points),))
    custom = physics_price(
        wires, "all_reduce", group, size, library=library_of("custom_graph")
    ).seconds
    found = collective_price(wires, "all_reduce", group, size, library="custom_graph")
    assert found.seconds == pytest.approx(2 * custom)
    assert "custom_graph, 1 at once, over nccl" in found.because


def test_one_rank_has_nothing_to_say():
    assert seconds("8xL40S:pcie4", "all_reduce", 1, 4096) == 0


def test_missing_links_and_unknown_libraries_are_errors():
    wires = FABRICS["8xL40S:pcie4"]
    cut = Fabric(wires.devices, wires.links[7:], (), wires.made)
    with pytest.raises(FabricError, match="no link joins devices 0 and 1"):
        collective_price(cut, "all_reduce", (0, 1), 8)
    with pytest.raises(UsageError, match=r"'mpi'.*nccl"):
        collective_price(wires, "all_reduce", (0, 1), 8, library="mpi")


def test_every_wire_has_physics():
    for kind in WIRES.keys() - {"shm", "tcp"}:
        latency_s, bytes_per_s = pair_wire(kind, 50e9)
        assert 0 < latency_s < 1e-3
        assert 1e8 < bytes_per_s < 1e11
        if kind.endswith("nop2p"):
            direct = pair_wire(kind.removesuffix("-nop2p"))
            assert latency_s > direct[0]
            assert bytes_per_s < direct[1]


@settings(deadline=None, max_examples=150)
@given(texts, ops, libraries, st.integers(1, 3), st.data())
def test_more_bytes_never_cost_less(
    text: str, op: Op, library: str | None, at_once: int, data: st.DataObject
):
    ranks = data.draw(st.integers(2, len(FABRICS[text].devices)))
    sizes = [2**i for i in range(0, 34, 3)]
    found = [seconds(text, op, ranks, n, library=library, at_once=at_once) for n in sizes]
    assert all(0 < a <= b * (1 + 1e-9) for a, b in pairwise(found))
    # eight times the bytes cost at most eight times as much, but for custom all-reduces, that end
    assert library not in (None, "nccl") or all(b <= 8 * a * (1 + 1e-9) for a, b in pairwise(found))


@settings(deadline=None, max_examples=100)
@given(texts, st.sampled_from(OPS[:3]), st.sampled_from([64, 64 * KIB, 4 * MIB, GIB]))
def test_more_ranks_of_a_node_never_cost_less(text: str, op: Op, num_bytes: int):
    if text.endswith(("mesh", "cube", "xgmi", "pairs")):
        return  # more peers, more links; another wire
    node = len(FABRICS[text].devices) // len(FABRICS[text].hosts)
    found = [seconds(text, op, ranks, num_bytes) for ranks in range(2, node + 1)]
    assert all(a <= b * 1.001 for a, b in pairwise(found)), found


@settings(deadline=None, max_examples=50)
@given(texts, ops, st.sampled_from([64, 64 * KIB, 4 * MIB, GIB]), st.data())
def test_groups_at_once_never_gain(text: str, op: Op, num_bytes: int, data: st.DataObject):
    ranks = data.draw(st.integers(2, len(FABRICS[text].devices)))
    found = [seconds(text, op, ranks, num_bytes, at_once=n) for n in (1, 2, 4)]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(found)), found


def test_a_faster_wire_is_never_slower():
    wires = FABRICS["8xA100-SXM-80GB:nvswitch"]
    for op in OPS:
        slow, fast = (
            collective_price(wires.with_wires(speed=speed), op, range(8), MIB).seconds
            for speed in (1.0, 2.0)
        )
        assert fast < slow


def test_latency_of_a_measured_pair_is_taken_as_it_is():
    wires = FABRICS["8xH100-SXM:nvswitch"]
    slow = tuple(
        Link(k.a, k.b, k.kind, 12e-6, k.bytes_per_s, "measured", 0.05) for k in wires.links
    )
    found = collective_price(replace(wires, links=slow), "all_reduce", (0, 1), 8)
    assert found.seconds == pytest.approx(12e-6 * (1 + NCCL.step), rel=1e-3)
    assert (found.source, found.spread) == ("measured", 0.05)
