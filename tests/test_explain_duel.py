"""Two layouts beside each other: the sentence, the margin, and why not."""

from dataclasses import replace

import pytest

from explained import GIB, PP2, TP1, TP2, TRAFFIC, estimate, plan_of, printed, words
from wirecut.cost.terms import Memory, Rejected
from wirecut.errors import LayoutError, PlanError
from wirecut.explain.answer import answer
from wirecut.explain.budget import (
    shown_rows,
)
from wirecut.explain.duel import Duel, score
from wirecut.explain.tables import elsewhere_cells, ranking_cells
from wirecut.explain.why_not import why_not_answer
from wirecut.planner.contest import GOALS
from wirecut.planner.plan import Elsewhere
from wirecut.planner.plan_file import ranking_of
from wirecut.spec.traffic import Traffic


def test_close_calls_and_clear_ones_are_told_apart(capsys):
    clear = words(printed(answer(plan_of(TP2, TP1)), capsys))
    assert "the choice stands" in clear
    assert "oo close" not in clear
    near = estimate("pp2", {"memory": 7.9e-3, "hand-off": 0.2e-3})
    text = words(printed(answer(plan_of(TP2, near)), capsys))
    assert "on devices 0 and 1. Too close to call: pp2 may be as good." in text
    assert "too close to call, so run both" in text
    duel = Duel.of(plan_of(TP2, near), TP2, near)
    assert duel.margin == pytest.approx(1 - 8.0 / 8.1)
    assert duel.close


def test_the_sentence_says_what_was_saved_and_paid():
    duel = Duel.of(plan_of(TP2, TP1), TP2, TP1)
    assert duel.sentence.startswith("tp2 gives 37% less time per request than tp1 (")
    assert "it saves 660 ms of memory work and 22.0 ms of compute work" in duel.sentence
    assert "and pays 165 ms of all-reduce work" in duel.sentence
    fast = Duel.of(plan_of(TP2, TP1, goal="throughput"), TP2, TP1)
    assert fast.sentence.startswith("tp2 gives 59% more tokens per second than tp1 (")


def test_ties_say_what_broke_them():
    two = estimate("dp2", {"memory": 12e-3, "compute": 0.2e-3, "overhead": 0.5e-3})
    duel = Duel.of(plan_of(TP1, two, goal="throughput"), TP1, two)
    assert "tp1 takes 1 device, not 2" in duel.sentence


def test_a_tie_in_latency_is_no_margin_of_nothing():
    copy = replace(TP1, layout="dp2", placement=(0, 1))
    duel = Duel.of(plan_of(TP1, copy), TP1, copy)
    assert duel.sentence == "Both answer in 1.40 s; tp1 takes 1 device, not 2."
    assert not duel.close


def test_why_not(capsys):
    memory = Memory(66 * GIB, 0, GIB, 40 * GIB, 0)
    bad = [
        Rejected("tp3", "tp 3 does not divide 4 heads"),
        Rejected("pp4", "needs 67.0 GiB on one device", memory),
    ]
    plan_file = plan_of(TP2, PP2, TP1, rejected=bad)
    assert "does not divide" in printed(why_not_answer(plan_file, "tp3"), capsys)
    assert "One replica, tp3," in printed(why_not_answer(plan_file, "tp3dp2"), capsys)
    assert "needs 16 devices, the fabric has 8" in printed(
        why_not_answer(plan_file, "tp16"), capsys
    )
    assert "is the choice" in printed(why_not_answer(plan_file, "tp2"), capsys)
    text = words(printed(why_not_answer(plan_file, "tp1"), capsys))
    assert "ranks 3 of 3" in text
    assert "tp2 gives 37% less time per request than tp1" in text
    assert "Where the time of one request goes" in text
    full = words(printed(why_not_answer(plan_file, "pp4"), capsys))
    for part in ("weights 66.0 GiB", "together 67.0 GiB", "a device has 40.0 GiB", "missing 27.0"):
        assert part in full
    with pytest.raises(LayoutError):
        why_not_answer(plan_file, "fast")


def test_why_not_of_something_that_the_plan_does_not_hold(capsys):
    plan_file = plan_of(TP2, TP1)
    with pytest.raises(PlanError, match="did not consider pp2; it ranks tp2 and tp1"):
        why_not_answer(plan_file, "pp2")
    asked: list[str] = []

    def reprice(layout):
        asked.append(str(layout))
        return PP2 if layout.pp == 2 else Rejected(str(layout), "vLLM cannot")

    text = printed(why_not_answer(plan_file, "pp2", reprice), capsys)
    assert "It works: 2 stages" in text
    assert "bubble work" in text
    assert "vLLM cannot" in printed(why_not_answer(plan_file, "tp4", reprice), capsys)
    assert asked == ["pp2", "tp4"]


def test_targets_decide_before_the_goal():
    bound = replace(TRAFFIC, tpot_ms=9.0)
    plan_file = plan_of(TP2, TP1, traffic=bound)
    assert (
        Duel.of(plan_file, TP2, TP1).sentence == "tp2 meets TPOT 9 ms, tp1 is 41% over TPOT 9 ms."
    )
    hard = plan_of(TP2, TP1, traffic=replace(TRAFFIC, tpot_ms=4.0))
    both = Duel.of(hard, TP2, TP1)
    assert both.sentence == "tp2 takes 2 times TPOT 4 ms, tp1 takes 3.18 times TPOT 4 ms."
    assert not both.close


def test_a_rate_that_is_not_carried_is_missed(capsys):
    """For cost the rate that comes is a target: of 10 requests/s, 110 tokens/s."""
    traffic = Traffic(100, 11, rate=10.0)
    carries = estimate("tp2", {"memory": 8e-3}, rate=110.0, traffic=traffic)
    cheap = estimate("tp1", {"memory": 12e-3}, rate=50.0, traffic=traffic)
    there = Elsewhere("4xL40S", chosen=cheap)
    more = {"traffic": traffic, "prices": {"*": 3.0}, "elsewhere": [there]}
    plan_file = plan_of(carries, cheap, goal="cost", **more)
    columns, cells = ranking_cells(plan_file, shown_rows((carries, cheap), 11))
    assert columns[-1] == "target"
    assert [row[-1] for row in cells] == ["met", "missed"]
    _, (other,) = elsewhere_cells(plan_file, ranking_of(plan_file))
    assert other[-1] == "misses targets"
    asked = plan_of(carries, cheap, goal="throughput", traffic=traffic)
    assert "target" not in ranking_cells(asked, shown_rows((carries, cheap), 11))[0]


def test_scores_of_a_duel_are_those_of_the_contest():
    for goal, better in (("throughput", "tp2"), ("latency", "tp2"), ("cost", "tp1")):
        two = estimate("tp2", {"memory": 8e-3}, rate=100.0)
        one = estimate("tp1", {"memory": 12e-3}, rate=60.0)
        plan_file = plan_of(two, one, goal=goal, prices={"*": 3.0})
        scores = {each.layout: score(plan_file, each) for each in (two, one)}
        assert min(scores, key=scores.__getitem__) == better
        for each in (two, one):
            assert scores[each.layout] == GOALS[goal](each, 11, 3.0 * each.devices_used)


@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_what_is_said_of_the_seconds_is_said_of_the_margin(goal: str):
    """A gap within what is known of it is too close to call, whatever the goal counts."""
    found: list[bool] = []
    for bubble in range(151, 351):
        busy = {"memory": 6e-3, "overhead": 0.5e-3, "bubble": bubble * 1e-5}
        staged = estimate("pp2", busy)  # type: ignore[arg-type]
        duel = Duel.of(plan_of(TP2, staged, goal=goal), TP2, staged)
        gap = sum(line.difference for line in duel.lines)
        assert duel.close == (gap <= duel.doubt_s)
        found.append(duel.close)
    assert any(found)
    assert not all(found)
