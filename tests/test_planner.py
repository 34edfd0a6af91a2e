"""The ranking against brute force, and every flip verified by planning again on either side of
it.
"""

import itertools
from dataclasses import replace

import pytest

from fabrics import FAST, SLOW, big_model, fabric, model
from wirecut.cost.engines import WIRECUT, engine_profile
from wirecut.cost.estimate import estimate
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import NothingFits, PlanError, UsageError
from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Limits, load_plan, save_plan
from wirecut.layout.rules import why_not
from wirecut.planner.cutting import cut_for
from wirecut.planner.flips import Flip
from wirecut.planner.place import place
from wirecut.planner.plan import Ranking, plan
from wirecut.planner.plan_file import ranking_of, to_plan_file
from wirecut.planner.space import all_layouts
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic

US = 1e-6


def ranked(
    wires: Fabric, traffic: Traffic, *, spec: ModelSpec | None = None, goal: str = "throughput"
) -> Ranking:
    return plan(Pricing(spec or big_model(), wires, dtype="bf16"), traffic, goal=goal)


def test_all_layouts_by_hand():
    assert [str(one) for one in all_layouts(4)] == [
        "tp1", "dp2", "pp2", "tp2", "dp3", "pp3", "tp3", "dp4", "pp2dp2", "pp4", "tp2dp2",
        "tp2pp2", "tp4",
    ]  # fmt: skip
    brute = {
        (tp, pp, dp) for tp, pp, dp in itertools.product(range(1, 9), repeat=3) if tp * pp * dp <= 8
    }
    found = [(one.tp, one.pp, one.dp) for one in all_layouts(8)]
    assert len(found) == len(set(found))
    assert set(found) == brute


def test_groups_stay_within_islands():
    wires = fabric(6, islands=((0, 1, 2), (3, 4, 5)))
    assert place(wires, Layout(tp=3, dp=2)) == (0, 1, 2, 3, 4, 5)
    assert place(wires, Layout(tp=2, dp=2)) == (0, 1, 3, 4)
    assert place(wires, Layout(tp=2, dp=3)) == (0, 1, 3, 4, 2, 5)
    assert place(wires, Layout(tp=4)) == (0, 1, 2, 3)
    assert place(fabric(3, islands=()), Layout(pp=3)) == (0, 1, 2)


def test_stages_stay_within_islands_of_islands():
    pairs, boxes = tuple((i, i + 1) for i in range(0, 12, 2)), ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9))
    wires = fabric(12, islands=(*pairs, *boxes))
    assert place(wires, Layout(tp=2, pp=3)) == (4, 5, 6, 7, 8, 9)
    assert place(wires, Layout(tp=2, pp=2, dp=2)) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert place(wires, Layout(tp=4, dp=2)) == (0, 1, 2, 3, 4, 5, 6, 7)
    # a pair is too small for three, a box has room; then what is left of boxes together
    assert place(wires, Layout(tp=3, dp=3)) == (0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert place(wires, Layout(pp=2, dp=6)) == tuple(range(12))
    assert sorted(place(wires, Layout(tp=12))) == list(range(12))


def test_a_box_takes_first_what_no_pair_holds():
    wires = fabric(7, islands=((0, 1), (0, 1, 2, 3, 4)))
    assert place(wires, Layout(tp=2, dp=3)) == (0, 1, 2, 3, 5, 6)


def test_stages_count_the_head():
    # a head as heavy as three layers leaves the last stage with fewer of them
    spec = model(vocab_size=1728, num_hidden_layers=9)
    pricing = Pricing(
        spec,
        fabric(2),
        dtype="bf16",
        engine=replace(WIRECUT, steps=replace(WIRECUT.steps, step_ops=0, stage_ops=0)),
    )
    assert cut_for(pricing, Layout(pp=2), (0, 1), context=1.0).stages == ((0, 6), (6, 9))


@pytest.mark.parametrize("goal", ["throughput", "latency"])
@pytest.mark.parametrize("concurrency", [1, 3, 16, 200])
def test_ranking_agrees_with_brute_force(goal: str, concurrency: int):
    spec, wires = big_model(), fabric(8, launch_s=US, latency_s=50e-6)
    traffic = Traffic(200, 40, concurrency=concurrency)
    ranking = ranked(wires, traffic, goal=goal)
    found: dict[str, float] = {}
    for tp, pp, dp in itertools.product(range(1, 9), repeat=3):
        if tp * pp * dp > 8 or why_not(spec, Layout(tp, pp, dp), 8, WIRECUT.rules):
            continue
        pricing = Pricing(spec, wires, dtype="bf16")  # nothing shared between layouts
        load = {"context": 220.0, "sequences": concurrency}
        cut = cut_for(pricing, Layout(tp, pp, dp), tuple(range(tp * pp * dp)), **load)
        one = estimate(pricing, cut, traffic)
        assert isinstance(one, Estimate)
        answer = one.ttft_s + 39 * one.tpot_s
        found[one.layout] = answer if goal == "latency" else -one.output_tokens_per_s
    assert {one.layout for one in ranking.ranked} == set(found)
    scores = [found[one.layout] for one in ranking.ranked]
    assert scores == pytest.approx(sorted(scores), rel=1e-9)
    assert found[ranking.chosen.layout] == pytest.approx(min(found.values()), rel=1e-9)


def test_wires_decide():
    traffic = Traffic(100, 100)
    assert ranked(fabric(2, **FAST), traffic, goal="latency").chosen.layout == "tp2"
    slow = ranked(fabric(2, **SLOW), traffic, goal="latency")
    assert slow.chosen.layout == "tp1"
    busy = ranked(fabric(2, **SLOW), Traffic(100, 100, concurrency=16))
    assert busy.chosen.layout in ("pp2", "dp2")


def test_pipeline_wins_where_the_model_needs_both_devices_and_the_wire_is_slow():
    wires = fabric(2, **SLOW, memory_bytes=230_000_000)
    ranking = ranked(wires, Traffic(100, 100, concurrency=4))
    assert ranking.chosen.layout == "pp2"
    assert {one.layout for one in ranking.ranked} == {"pp2", "tp2"}
    assert {one.layout for one in ranking.rejected} == {"tp1"}  # copies of it are not asked about


def test_equal_scores_go_to_fewer_devices():
    # one user keeps one replica busy, however many there are
    ranking = ranked(fabric(4, **SLOW), Traffic(100, 100))
    assert ranking.chosen.layout == "tp1"


def test_layouts_that_carry_an_open_load_go_by_the_sooner_answer():
    carried = ranked(fabric(4, **FAST), Traffic(100, 100, rate=0.01))
    assert carried.chosen.layout == "tp4"
    assert carried.chosen.ttft_s < next(one.ttft_s for one in carried.ranked if one.layout == "tp1")


def test_illegal_layouts_are_rejected_with_reasons():
    ranking = ranked(fabric(8), Traffic(100, 10), spec=model())
    reasons = {one.layout: one.reason for one in ranking.rejected}
    assert "sizes that work: 1, 2, 4" in reasons["tp3"]
    assert reasons["pp5"] == "pp 5 is more stages than the model's 4 layers"
    assert not {"tp3", "tp8", "pp5"} & {one.layout for one in ranking.ranked}
    every = {str(one) for one in all_layouts(8)}
    seen = {one.layout for one in (*ranking.ranked, *ranking.rejected)}
    for name in every - seen:  # copies of a rejected replica
        assert parse_layout(name).dp > 1
        assert str(replace(parse_layout(name), dp=1)) in reasons


@pytest.mark.parametrize("devices", [3, 5, 6, 7])
def test_whole_groups_of_heads_are_dealt_unevenly_where_the_engine_can(devices: int):
    wires = fabric(devices, **FAST, memory_bytes=16 * 10**9)
    traffic = Traffic(100, 100)
    ours = plan(Pricing(big_model(), wires, dtype="bf16"), traffic, goal="latency")
    assert ours.chosen.layout == f"tp{devices}"
    vllm = Pricing(big_model(), wires, dtype="bf16", engine=engine_profile("vllm"))
    theirs = plan(vllm, traffic, goal="latency")
    reasons = {one.layout: one.reason for one in theirs.rejected}
    assert "does not divide 16 query and 8 key-value heads" in reasons[f"tp{devices}"]


def test_nothing_fits_says_why():
    with pytest.raises(NothingFits, match=r"no layout of tiny works on 2 devices:\n  tp1.*needs"):
        ranked(fabric(2, memory_bytes=1000), Traffic(100, 10), spec=model())


@pytest.mark.parametrize("goal", ["cost", "beauty"])
def test_goals_that_are_not_there(goal: str):
    with pytest.raises(UsageError, match=goal):
        ranked(fabric(2), Traffic(100, 10), goal=goal)


def test_layouts_that_miss_targets_come_last():
    # copies give most in all, cuts answer soonest
    traffic = Traffic(512, 128, concurrency=256)
    wires = fabric(8, latency_s=5e-6, launch_s=3 * US, device_bytes_per_s=12e9)
    free = ranked(wires, traffic)
    fastest = min(one.tpot_s for one in free.ranked)
    limit = 1.01e3 * fastest
    held = ranked(wires, replace(traffic, tpot_ms=limit))
    meets = [one.tpot_s * 1e3 <= limit for one in held.ranked]
    assert meets == sorted(meets, reverse=True)
    assert meets[0]
    assert not meets[-1]
    assert free.chosen.tpot_s * 1e3 > limit
    missing = [one.tpot_s for one in held.ranked[sum(meets) :]]
    assert missing == sorted(missing)  # the nearest first


FLIP_CASES = [
    (8, {"latency_s": 50e-6}, Traffic(100, 100, concurrency=8), "throughput"),
    (8, {"latency_s": 5e-6}, Traffic(100, 100), "latency"),
    (2, {"latency_s": 100e-6}, Traffic(100, 100), "latency"),
    (4, {"latency_s": 200e-6}, Traffic(100, 20, concurrency=30), "latency"),
]


def of(ranking: Ranking, what: str) -> list[Flip]:
    return [flip for flip in ranking.flips if flip.what == what]


@pytest.mark.parametrize(("devices", "wire", "traffic", "goal"), FLIP_CASES)
def test_wire_speed_flips_by_planning_again(
    devices: int, wire: dict[str, float], traffic: Traffic, goal: str
):
    wires = fabric(devices, **wire, launch_s=US)
    ranking = ranked(wires, traffic, goal=goal)
    flips = of(ranking, "wire speed")
    assert flips
    for flip in flips:
        assert flip.factor is not None
        inward = 1.001 if flip.factor < 1 else 1 / 1.001
        near = ranked(wires.with_wires(speed=flip.factor * inward), traffic, goal=goal)
        past = ranked(wires.with_wires(speed=flip.factor / inward), traffic, goal=goal)
        assert near.chosen.layout == ranking.chosen.layout
        assert past.chosen.layout == flip.to != ranking.chosen.layout
        assert flip.threshold == pytest.approx(1e9 * flip.factor)
        assert flip.latency_s == pytest.approx(wire["latency_s"] / flip.factor)


@pytest.mark.parametrize(("devices", "wire", "traffic", "goal"), FLIP_CASES)
def test_concurrency_flips_by_planning_again(
    devices: int, wire: dict[str, float], traffic: Traffic, goal: str
):
    wires = fabric(devices, **wire, launch_s=US)
    ranking = ranked(wires, traffic, goal=goal)
    now = traffic.concurrency or 1
    for flip in of(ranking, "concurrency"):
        at = flip.threshold
        assert isinstance(at, int)
        inward = 1 if at < now else -1
        past = ranked(wires, replace(traffic, concurrency=at), goal=goal)
        near = ranked(wires, replace(traffic, concurrency=at + inward), goal=goal)
        assert past.chosen.layout == flip.to != ranking.chosen.layout
        assert near.chosen.layout == ranking.chosen.layout


def test_some_case_flips_with_concurrency():
    wires = fabric(2, latency_s=100e-6, launch_s=US)
    assert of(ranked(wires, Traffic(100, 100)), "concurrency")


def test_open_loads_have_no_concurrency_flip():
    assert not of(ranked(fabric(2), Traffic(100, 100, rate=1.0)), "concurrency")


def test_other_kinds_of_wire():
    # the second kind is ten times slower; planning with it alone gives what the flip says
    wires = fabric(2, latency_s=20e-6, kinds=("shm", "tcp"), launch_s=US)
    traffic = Traffic(100, 100)
    (flip,) = of(ranked(wires, traffic, goal="latency"), "wire")
    assert flip.threshold == "tcp"
    assert flip.to == ranked(wires.only("tcp"), traffic, goal="latency").chosen.layout


def test_one_device_has_no_flips():
    ranking = ranked(fabric(1), Traffic(100, 100, concurrency=4))
    assert (ranking.chosen.layout, ranking.flips) == ("tp1", ())


def test_a_plan_file_gives_the_same_ranking_back(tmp_path):
    pricing = Pricing(model(), fabric(8), dtype="bf16", limits=Limits(max_batched_tokens=512))
    traffic = Traffic(100, 10, concurrency=5)
    ranking = plan(pricing, traffic, goal="latency")
    written = to_plan_file(ranking, pricing, traffic=traffic, model="/models/tiny")
    save_plan(written, tmp_path / "plan.json")
    read = load_plan(tmp_path / "plan.json")
    assert ranking_of(read) == ranking
    assert read.cut() == ranking.chosen.cut
    assert read.traffic == traffic
    assert read.limits.max_batched_tokens == 512
    # 5 requests of 110 tokens need less than one longest request of 4096
    assert read.limits.kv_tokens == 4096
    assert isinstance(ranking.rejected[0], Rejected)


def test_a_damaged_ranking_is_a_plan_error():
    pricing = Pricing(model(), fabric(2), dtype="bf16")
    written = to_plan_file(
        plan(pricing, Traffic(10, 10)), pricing, traffic=Traffic(10, 10), model="x"
    )
    written.ranking[0]["ttft_s"] = "soon"
    with pytest.raises(PlanError, match="ttft_s"):
        ranking_of(written)
