"""The words: they come from the plan file alone, and say the numbers that the terms hold."""

import pytest

from fabrics import FAST, SLOW, big_model, fabric, model
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate
from wirecut.errors import LayoutError, PlanError
from wirecut.explain.answer import answer, why_not_answer
from wirecut.explain.budget import compare, doubt, request_seconds
from wirecut.explain.estimate import page
from wirecut.explain.page import WIDTH, Grid, Heading, Note, Paragraph, show
from wirecut.explain.words import layout_in_words, listed, numbers
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import PlanFile
from wirecut.planner.plan import plan
from wirecut.planner.plan_file import ranking_of, to_plan_file
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds


def planned(
    wires: Fabric, traffic: Traffic, *, spec: ModelSpec | None = None, goal: str = "throughput"
) -> PlanFile:
    pricing = Pricing(spec or big_model(), wires, dtype="bf16")
    ranking = plan(pricing, traffic, goal=goal)
    return to_plan_file(ranking, pricing, traffic=traffic, model="/models/tiny")


def printed(blocks, capsys: pytest.CaptureFixture[str]) -> str:
    show(blocks)
    return capsys.readouterr().out


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_answer_holds_every_part(capsys):
    plan_file = planned(fabric(8, latency_s=50e-6), Traffic(100, 50, concurrency=8), spec=model())
    ranking = ranking_of(plan_file)
    text = printed(answer(plan_file), capsys)
    chosen, second = ranking.ranked[:2]
    assert f"Run it as {chosen.layout}: {layout_in_words(chosen)}" in words(text)
    assert f"Why {chosen.layout} and not {second.layout}" in text
    assert show_seconds(chosen.ttft_s) in text
    assert show_seconds(chosen.tpot_s) in text
    assert "sizes that work: 1, 2, 4" in words(text)
    assert "Where it flips" in text
    for flip in ranking.flips:
        assert flip.to in text
    assert "assumed" not in text


def test_a_pipe_gets_plain_lines_of_at_most_100_columns(capsys):
    plan_file = planned(fabric(8), Traffic(100, 50, concurrency=8), spec=model())
    one = ranking_of(plan_file).ranked[3]
    text = printed([*answer(plan_file), *page(one, plan_file.traffic)], capsys)
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= WIDTH
        assert line == line.rstrip()


def test_assumed_numbers_are_said_first(capsys):
    wires = fabric(2)
    links = tuple(
        type(k)(k.a, k.b, k.kind, k.latency_s, k.bytes_per_s, "assumed") for k in wires.links
    )
    guessed = Fabric(wires.devices, links, wires.islands, wires.made)
    text = printed(answer(planned(guessed, Traffic(100, 50))), capsys)
    assert text.splitlines()[0].startswith("Numbers are assumed")


def test_the_duel_sums_to_both_requests():
    traffic = Traffic(100, 50, concurrency=8)
    ours, theirs = ranking_of(planned(fabric(2), traffic)).ranked[:2]
    lines = compare(ours, theirs, 50)
    assert sum(line.ours for line in lines) == pytest.approx(ours.ttft_s + 49 * ours.tpot_s)
    assert sum(line.theirs for line in lines) == pytest.approx(theirs.ttft_s + 49 * theirs.tpot_s)
    sizes = [abs(line.difference) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(request_seconds(ours, 50).values()) == pytest.approx(ours.ttft_s + 49 * ours.tpot_s)
    assert 0 < doubt(lines) <= sum(sizes)


def test_close_calls_and_clear_ones_are_told_apart(capsys):
    clear = planned(fabric(2, **FAST), Traffic(100, 50), goal="latency")
    assert "the choice stands" in words(printed(answer(clear), capsys))
    # halving the model saves 0.11 s a token, 17 all-reduces of 2 x 3.1 ms cost nearly that
    close = planned(fabric(2, latency_s=3.1e-3), Traffic(100, 50), goal="latency")
    text = words(printed(answer(close), capsys))
    assert "too close to call" in text


def test_ties_say_what_broke_them(capsys):
    # two replicas give one user as much as one; tp1 takes fewer devices
    slow = planned(fabric(2, **SLOW), Traffic(100, 50))
    text = words(printed(answer(slow), capsys))
    assert "tp1 takes 1 devices, dp2 2" in text


def test_why_not(capsys):
    plan_file = planned(fabric(8), Traffic(100, 50, concurrency=8), spec=model())
    ranking = ranking_of(plan_file)
    assert "does not divide" in printed(why_not_answer(plan_file, "tp3"), capsys)
    assert "One replica, tp3" in printed(why_not_answer(plan_file, "tp3dp2"), capsys)
    assert "needs 16 devices, the fabric has 8" in printed(
        why_not_answer(plan_file, "tp16"), capsys
    )
    assert "is the choice" in printed(why_not_answer(plan_file, ranking.chosen.layout), capsys)
    other = ranking.ranked[2].layout
    text = printed(why_not_answer(plan_file, other), capsys)
    assert f"ranks 3 of {len(ranking.ranked)}" in text
    assert "difference" in text
    with pytest.raises(LayoutError):
        why_not_answer(plan_file, "fast")


def test_why_not_of_something_that_the_file_lost():
    plan_file = planned(fabric(2), Traffic(100, 50), spec=model())
    del plan_file.ranking[-1]
    lost = {"tp1", "tp2", "pp2", "dp2"} - {one["layout"] for one in plan_file.ranking}
    with pytest.raises(PlanError, match="did not consider"):
        why_not_answer(plan_file, lost.pop())


def test_estimate_page_shows_every_formula(capsys):
    one = ranking_of(planned(fabric(4), Traffic(100, 50, concurrency=8))).chosen
    text = words(printed(page(one, Traffic(100, 50, concurrency=8)), capsys))
    for term in one.terms:
        assert term.name in text
        assert show_seconds(term.seconds) in text


def test_layouts_in_words():
    def said(layout: str, *stages: tuple[int, int]) -> str:
        one = ranking_of(planned(fabric(2), Traffic(100, 50))).chosen
        fields = {name: getattr(one, name) for name in Estimate.__slots__}
        return layout_in_words(Estimate(**{**fields, "layout": layout, "stages": stages}))

    assert said("tp1", (0, 8)) == "the whole model on one device"
    assert said("dp2", (0, 8)) == "2 replicas of the whole model"
    assert said("tp2", (0, 8)) == "every layer cut over 2 devices"
    assert said("pp2", (0, 7), (7, 8)) == "2 stages (layers 0-6 | 7)"
    assert said("tp2pp2dp2", (0, 4), (4, 8)) == (
        "2 replicas, each in 2 stages (layers 0-3 | 4-7), every layer cut over 2 devices"
    )
    assert said("tp2dp2", (0, 8)) == "2 replicas, each with every layer cut over 2 devices"


def test_small_words():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert numbers((0, 1, 2, 3)) == "0-3"
    assert numbers((0, 1)) == "0 and 1"
    assert numbers((0, 2, 3)) == "0, 2 and 3"


def test_markup_in_names_is_only_text(capsys):
    blocks = [Heading("[bold]x[/bold]"), Paragraph("[red]y"), Grid(("a", "b"), [("[i]z", ":+1:")])]
    assert "[bold]x[/bold]" in (text := printed(blocks, capsys))
    assert "[red]y" in text
    assert "[i]z" in text


def test_a_target_that_nothing_meets_and_a_load_too_great_are_told_first():
    def first_words(**load: float) -> str:
        traffic = Traffic(input_tokens=100, output_tokens=10, **load)
        pricing = Pricing(model(), fabric(2, **FAST), dtype="bf16")
        plan_file = to_plan_file(plan(pricing, traffic), pricing, traffic=traffic, model="m")
        return "\n".join(block.text for block in answer(plan_file) if isinstance(block, Note))

    assert "No layout meets TTFT 1e-06 ms: " in first_words(ttft_ms=1e-6)
    assert "Cannot keep up: 1e+08 requests/s come" in first_words(rate=1e8)
    assert first_words() == ""
