"""Fabrics of many hosts: what joins them is said once, and the search stays quick and honest."""

import time

import pytest

from fabrics import MADE
from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import Candidate
from wirecut.cost.lanes import wiring_of
from wirecut.cost.replica import Pricing
from wirecut.errors import FabricError
from wirecut.fabric.fabric import Fabric, load_fabric, save_fabric
from wirecut.fabric.islands import find_islands
from wirecut.fabric.link import Trunk
from wirecut.fabric.typed import MOST_LISTED, typed_fabric
from wirecut.fabric.typed_links import every_pair
from wirecut.layout.layout import Layout
from wirecut.planner import search as search_module
from wirecut.planner.contest import Contest
from wirecut.planner.plan import plan
from wirecut.planner.search import outcome_of, search
from wirecut.planner.space import replica_ladder
from wirecut.spec.find import find_model
from wirecut.spec.traffic import Traffic

LLAMA_8B = find_model("meta-llama/Llama-3.1-8B-Instruct")[1]
BUSY = Traffic(512, 128, concurrency=64)


def listed(fabric: Fabric) -> Fabric:
    """The same fabric with every pair of devices as a link."""
    hosts = list(fabric.host_devices.items())
    pairs = tuple(link for trunk in fabric.trunks for link in every_pair(trunk, hosts))
    links = fabric.links + pairs
    islands = find_islands(len(fabric.devices), links)
    return Fabric(fabric.devices, links, islands, fabric.made)


@pytest.fixture(scope="module", params=["ib-400x8", "100gbe", "ib-400x4"])
def both(request: pytest.FixtureRequest) -> tuple[Fabric, Fabric]:
    trunked = typed_fabric(f"10x8xH100-SXM:nvswitch:{request.param}")
    assert len(trunked.devices) > MOST_LISTED
    return trunked, listed(trunked)


def test_a_trunk_is_a_link_for_every_pair(both: tuple[Fabric, Fabric]):
    trunked, pairs = both
    assert len(trunked.links) == 10 * 28
    assert len(pairs.links) == 80 * 79 // 2
    assert trunked.islands == pairs.islands
    for a, b in ((0, 8), (9, 3), (17, 79), (5, 13), (0, 1)):
        assert trunked.link(a, b) == pairs.link(a, b)
    assert trunked.link(3, 60) is trunked.link(60, 3)
    for group in ((0, 1), (0, 8), (0, 1, 8, 9), tuple(range(16)), (3, 12, 40)):
        assert trunked.slowest_link(group) == pairs.slowest_link(group)
        for at_once in (1, 4):
            assert wiring_of(trunked, group, at_once=at_once) == wiring_of(
                pairs, group, at_once=at_once
            )


def test_a_trunk_follows_its_fabric(both: tuple[Fabric, Fabric], tmp_path):
    trunked, pairs = both
    save_fabric(trunked, tmp_path / "fabric.json")
    assert load_fabric(tmp_path / "fabric.json") == trunked
    twice = trunked.with_wires(speed=2.0).link(0, 8)
    assert twice.bytes_per_s == 2 * trunked.link(0, 8).bytes_per_s
    assert twice == pairs.with_wires(speed=2.0).link(0, 8)
    kind = trunked.trunks[0].kind
    assert trunked.wire_kinds == ("nvswitch", kind)
    assert trunked.only(kind).link(0, 8) == trunked.link(0, 8)
    with pytest.raises(FabricError, match="no link joins devices 0 and 8"):
        trunked.only("nvswitch").link(0, 8)


def test_a_trunk_and_a_link_of_the_same_pair_take_the_faster():
    one = typed_fabric("2x1xL40S:pcie4:10gbe")
    fast = Trunk("ib", 10e-6, 40e9, "measured", shared=False)
    both = Fabric(one.devices, one.links, ((0, 1),), MADE, trunks=(fast,))
    assert both.link(0, 1).kind == "ib"
    slow = Trunk("tcp", 1e-3, 1e6, "measured", shared=False)
    assert Fabric(one.devices, one.links, ((0, 1),), MADE, trunks=(slow,)).link(0, 1).kind == (
        "ethernet"
    )


def test_bad_trunks_are_refused():
    for latency_s, bytes_per_s in ((-1.0, 1e9), (1e-6, 0.0), (float("nan"), 1e9)):
        with pytest.raises(ValueError, match="trunk"):
            Trunk("ib", latency_s, bytes_per_s, "measured")


def test_likeness_tells_groups_apart_by_wires():
    fabric = typed_fabric("10x8xH100-SXM:nvswitch:ib-400x8")
    assert fabric.likeness((0, 1)) == fabric.likeness((8, 9)) != fabric.likeness((0, 2))
    assert fabric.likeness((0, 8)) == fabric.likeness((16, 24)) != fabric.likeness((0, 9))
    pairs = listed(fabric)
    assert pairs.likeness((0, 1)) != pairs.likeness((8, 9))  # their links may differ


def test_ladders_by_hand():
    assert replica_ladder(1) == [1]
    assert replica_ladder(5) == [1, 2, 3, 4, 5]
    assert replica_ladder(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]


@pytest.mark.parametrize(
    "traffic",
    [BUSY, Traffic(512, 128), Traffic(512, 128, rate=40.0), Traffic(2048, 32, concurrency=9)],
)
@pytest.mark.parametrize("goal", ["latency", "throughput", "cost"])
def test_a_thinned_search_finds_what_a_whole_one_does(
    goal: str, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
):
    """On 16 devices, where both can be had."""
    fabric = typed_fabric("2x8xL40S:pcie4:100gbe")
    prices = (1.0,) * 16 if goal == "cost" else ()
    empty = Contest((), goal, prices)

    def best() -> float:
        pricing = Pricing(LLAMA_8B, fabric, dtype="bf16", engine=engine_profile("vllm"))
        found = search(pricing, traffic, empty)
        assert all(isinstance(one, Candidate) for one in found.candidates)
        places = empty.among(found.candidates).places(traffic)
        return places[0].score

    whole = best()
    monkeypatch.setattr(search_module, "MOST_LISTED", 8)
    thinned = best()
    assert thinned == pytest.approx(whole, rel=0.03)


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(512, 128, num_requests=256, static_batch=True),
        Traffic(512, 128, num_requests=256, rate=float("inf")),
        Traffic(512, 128, rate=float("inf")),
    ],
)
def test_replicas_for_all_requests_that_start_together(traffic: Traffic):
    fabric = typed_fabric("4x8xH100-SXM:nvswitch:ib-400x8")
    pricing = Pricing(LLAMA_8B, fabric, dtype="bf16", engine=engine_profile("vllm"))
    empty = Contest((), "throughput")
    found = empty.among(search(pricing, traffic, empty).candidates).places(traffic)
    apart = outcome_of(pricing, Layout(dp=32), traffic)
    assert isinstance(apart, Candidate)
    assert found[0].score <= empty.place(apart, traffic).score * (1 + 1e-9)


def test_a_thousand_devices_in_seconds():
    _, spec = find_model("meta-llama/Llama-3.1-70B-Instruct")
    begin = time.process_time()
    fabric = typed_fabric("128x8xH100-SXM:nvswitch:ib-400x8")
    pricing = Pricing(spec, fabric, dtype="bf16", engine=engine_profile("vllm"))
    ranking = plan(pricing, Traffic(1024, 256, concurrency=512), goal="throughput")
    assert time.process_time() - begin < 6  # 1 s on an idle machine
    assert ranking.chosen.devices_used > 256
    assert len(ranking.ranked) <= search_module.KEPT
    assert len(ranking.rejected) <= search_module.MOST_REJECTED
