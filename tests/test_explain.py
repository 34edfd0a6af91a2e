"""The words: they come from the plan file alone, say what the terms hold, and add up."""

import io
import re
from dataclasses import replace

import pytest

from explained import GIB, PP2, TP1, TP2, TRAFFIC, estimate, plan_of, printed, words
from fabrics import MADE, SLOW, big_model, fabric
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Memory, Rejected
from wirecut.explain.answer import answer, headline_rows
from wirecut.explain.budget import (
    by_kind,
    runner_up,
    shown_rows,
    thrifty,
    whole_request,
)
from wirecut.explain.duel import Duel
from wirecut.explain.estimate import page
from wirecut.explain.flips import nowhere
from wirecut.explain.page import WIDTH, Grid, Heading, Note, Paragraph, show
from wirecut.explain.words import counted, layout_in_words, listed, numbers
from wirecut.planner.doubt import Fragile
from wirecut.planner.flips import AllReduce, Flip
from wirecut.planner.plan import Elsewhere, plan
from wirecut.planner.plan_file import ranking_of, to_plan_file
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds

N = TRAFFIC.output_tokens


def test_the_answer_holds_every_part(capsys):
    flip = Flip("concurrency", 28, "requests", "pp2")
    bad = Rejected("tp3", "tp 3 does not divide 4 heads")
    text = printed(answer(plan_of(TP2, PP2, TP1, rejected=[bad], flips=[flip])), capsys)
    assert "Run it as tp2: every layer cut over 2 devices, on devices 0 and 1." in text
    assert "tiny in bf16: 100 tokens in, 11 out, 8 at once, for latency, engine vllm" in text
    assert "Why tp2 and not pp2" in text
    assert show_seconds(TP2.ttft_s) in text
    assert show_seconds(TP2.tpot_s) in text
    assert "tp 3 does not divide 4 heads" in text
    assert "Does not work: 1 layout\n" in text
    assert "at 28 users or more at once (now 8)" in words(text)
    assert "assumed" not in text
    assert "too close" not in text


def test_a_pipe_gets_plain_lines_of_at_most_100_columns(capsys):
    every = dict.fromkeys(("memory", "all-to-all", "hand-off", "bubble", "wait"), 0.001234)
    wide = estimate(
        "tp2pp2dp2ep4", {**every, "compute": 1e-3, "all-reduce": 1e-3, "overhead": 1e-3}
    )
    for ranked in ((TP2, PP2, TP1), (wide, TP1)):
        text = printed([*answer(plan_of(*ranked)), *page(ranked[0], TRAFFIC)], capsys)
        assert "\x1b" not in text
        busy = replace(TRAFFIC, ttft_ms=5.0, tpot_ms=5.0)
        text += printed(answer(plan_of(*ranked, traffic=busy, prices={"*": 2.0})), capsys)
        for line in text.splitlines():
            assert len(line) <= WIDTH
            assert line == line.rstrip()


def test_rows_are_one_a_cut_and_copies_that_tell_nothing_are_left_out(capsys):
    work = {"memory": 12e-3}
    copies = [estimate(f"dp{i}" if i > 1 else "tp1", work, rate=88.0) for i in range(1, 9)]
    ranked = [*copies[:3], TP2, *copies[3:], PP2]
    rows = shown_rows(ranked, N)
    assert [row.estimate.layout for row in rows] == ["tp1", "tp2", "pp2"]
    assert rows[0].alike == ("dp2", "dp3", "dp4", "dp5", "dp6", "dp7", "dp8")
    assert [row.place for row in rows] == [1, 4, 10]
    text = words(printed(answer(plan_of(*ranked, goal="throughput")), capsys))
    assert "too small a load to tell more replicas apart" in text
    assert "tp1 for dp2, dp3, dp4, dp5 and 3 more" in text
    assert runner_up(ranked) is TP2


def test_replicas_that_differ_have_rows_of_their_own():
    one, two = (
        estimate(name, {"memory": 1e-2}, rate=rate) for name, rate in (("dp2", 9), ("tp1", 5))
    )
    assert len(shown_rows([one, two], N)) == 2
    assert runner_up([one, two]) is two
    assert runner_up([one]) is None


def test_fewer_devices_are_offered_when_they_nearly_do(capsys):
    eight = estimate("dp8", {"memory": 1e-2}, rate=100.0)
    two = estimate("dp2", {"memory": 1.01e-2}, rate=95.0)
    four = estimate("dp4", {"memory": 1e-2}, rate=99.0)
    assert thrifty([eight, four, two]) is two
    assert thrifty([eight, replace(two, tpot_s=2e-2)]) is None
    text = words(printed(answer(plan_of(eight, four, two, goal="throughput")), capsys))
    assert "On 2 devices of its 8, dp2 gives 95% of its tokens per second." in text


def headlines(plan_file):
    return headline_rows(plan_file, ranking_of(plan_file))


def test_memory_names_the_fullest_rank_and_what_the_others_waste():
    memory = Memory(30 * GIB, 2 * GIB, GIB, 48 * GIB, 9000, GIB, rank=1, wasted_bytes=3 * GIB)
    one = estimate("tp2", {"memory": 1e-2}, memory=memory, placement=(4, 6))
    name, used, where = headlines(plan_of(one))[-1]
    assert (name, used) == ("memory", "34.0 GiB")
    assert "of 48.0 GiB on rank 1 (device 6), the fullest" in where
    assert "3.00 GiB stay empty on the others" in where
    alone = headlines(plan_of(TP1))[-1][2]
    assert alone == "of 48.0 GiB"


def noted(*ranked, **more) -> str:
    blocks = answer(plan_of(*ranked, **more))
    return "\n".join(block.text for block in blocks if isinstance(block, Note))


def test_where_numbers_come_from_is_said_for_what_it_is():
    here = fabric(2)
    devices = tuple(replace(one, source="assumed") for one in here.devices)
    assert "`wirecut probe` measures this machine" in noted(
        TP2, wires=replace(here, devices=devices)
    )
    known = tuple(replace(one, source="datasheet") for one in here.devices)
    typed = replace(here, devices=known, made=replace(MADE, how="typed: 2xL40S"))
    text = noted(TP2, wires=typed)
    assert text == "Figures of 2xL40S are datasheets' and published ones; none is measured there."
    assert "Figures of here are" in noted(TP2, wires=replace(here, devices=known))
    guess = replace(TP2, terms=tuple(replace(one, source="assumed") for one in TP2.terms))
    assert "Some numbers are assumed" in noted(guess)
    assert noted(TP2) == ""


def test_a_target_that_nothing_meets_and_a_load_too_great_are_told_first():
    hard = replace(TRAFFIC, ttft_ms=1e-6)
    assert "No layout meets TTFT 1e-06 ms: tp2 comes nearest with 800 ms" in noted(
        TP2, traffic=hard
    )
    rate = Traffic(100, 11, rate=1e6)
    near = replace(TRAFFIC, tpot_ms=8.5)
    assert "Whether tp2 meets TPOT 8.5 ms is not sure: 8.00 ms expected, up to 8.80 ms" in noted(
        TP2, traffic=near
    )
    assert noted(TP2, traffic=replace(TRAFFIC, tpot_ms=9.0)) == ""
    assert "Cannot keep up: 1e+06 requests/s come" in noted(TP2, traffic=rate)


def test_an_assumed_number_that_decided_is_named_with_what_would_measure_it():
    slow = Fragile("wires", ("ethernet", "ib"), 0.625, "pp2")
    text = noted(TP2, PP2, fragile=[slow])
    assert "were Ethernet (TCP) and InfiniBand 1.6 times slower, pp2 would win" in text
    assert "`wirecut probe` on that machine measures them." in text
    fast = Fragile("devices", ("L40S",), 2.5, "tp1")
    assert "were L40S 2.5 times as fast, tp1 would win" in noted(TP2, TP1, fragile=[fast])


@pytest.mark.parametrize(
    ("traffic", "says"),
    [
        (Traffic(100, 11, concurrency=8), "from 1 to 4096 users at once"),
        (Traffic(100, 11, rate=2.0), "from 0.00195 to 2.05e+03 requests/s"),
        (Traffic(100, 11, rate=1e9), "from 9.77e+05 to 1e+09 requests/s"),
    ],
)
def test_where_nothing_flips_says_how_far_was_searched(traffic: Traffic, says: str):
    told = nowhere(plan_of(TP2, TP1, traffic=traffic))
    assert told.startswith("Nowhere, one thing changed at a time: on wires from 1/1000 to 1000 ")
    assert says in told
    assert "prompts from 32 tokens to the model's window" in told
    static = replace(traffic, rate=None, static_batch=True)
    assert "users" not in nowhere(plan_of(TP2, TP1, traffic=static))
    assert "wires" not in nowhere(plan_of(TP1, wires=fabric(1), traffic=traffic))


def test_cost_is_told_in_the_users_money(capsys):
    """tp2: 2 devices at 3 an hour, 100 tokens a second: 6 / 360 000 tokens; tp1 half the speed."""
    two, one = (
        estimate(n, {"memory": s}, rate=r)
        for n, s, r in (("tp2", 8e-3, 100.0), ("tp1", 2e-2, 40.0))
    )
    best = Elsewhere("4xL40S", one, price_per_hour=0.9, price_per_million=6.25)
    none = Elsewhere("2xT4", reason="no layout works:\n  tp1: full\n9 x T4 would do")
    plan_file = plan_of(two, one, goal="cost", prices={"*": 3.0}, elsewhere=[best, none])
    assert headlines(plan_file)[-1] == ("price", "16.67", "per 1M tokens; 6.00 per hour")
    duel = Duel.of(plan_file, two, one)
    assert duel.margin == pytest.approx(1 - 16.6667 / 20.8333, rel=1e-4)
    assert duel.sentence.startswith("tp2 costs 20% less per token than tp1")
    text = words(printed(answer(plan_file), capsys))
    assert "per 1M tokens" in text
    assert "20.83" in text
    assert "on devices 0 and 1 of here." in text
    assert "On the other fabrics, at best" in text
    assert "4xL40S tp1 1" in text
    assert "0.9 6.25" in text
    assert "9 x T4 would do" in text


FLIPS = [
    (Flip("concurrency", 3, "requests", "pp2"), "at 3 users or fewer at once (now 8)"),
    (Flip("input tokens", 4096, "tokens", "pp2"), "with prompts above 4096 tokens (now 100)"),
    (Flip("wire", "tcp", "kind", "pp2", wire="tcp"), "pp2 instead over TCP (Gloo) only"),
    (
        Flip("wires inside", "nvswitch", "kind", "tp2", times=2.4),
        "tp2 too, 2.4 times as good with NVSwitch in each host",
    ),
    (
        Flip("wires between", "100gbe", "kind", "pp2", times=0.8),
        "pp2 instead, 20% worse with 100 Gbit/s Ethernet between hosts",
    ),
    (
        Flip("wire speed", 5e9, "bytes/s", "pp2", wire="pcie4", factor=0.25, latency_s=4e-5),
        "on slower wires than 5.00 GB/s and 40.0 us over PCIe 4 (wires at 1/4 of their speed)",
    ),
    (
        Flip(
            "wire speed", 8e10, "bytes/s", "tp8", wire="pcie4", factor=4.0, latency_s=1e-6,
            all_reduce=AllReduce((0, 1, 2, 3), 262144, 1.9e9, 11e9),
        ),
        "once all-reduce of 256 KiB among devices 0-3 exceeds 11.0 GB/s, now 1.90 GB/s (wires 4x",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("flip", "said"), FLIPS)
def test_flips_are_in_the_units_of_who_asked(flip, said, capsys):
    text = words(printed(answer(plan_of(TP2, PP2, flips=[flip])), capsys))
    assert said in text
    assert flip.to in text.split("Where it flips")[1]


def test_a_rate_flips_in_requests_per_second(capsys):
    flip = Flip("rate", 12.5, "requests/s", "pp2")
    traffic = Traffic(100, 11, rate=4.0)
    text = words(printed(answer(plan_of(TP2, traffic=traffic, flips=[flip])), capsys))
    assert "pp2 above 12.5 requests/s (now 4)" in text


def test_estimate_page_shows_every_formula(capsys):
    text = words(printed(page(TP2, TRAFFIC), capsys))
    for term in TP2.terms:
        assert term.name in text
        assert show_seconds(term.seconds) in text
        assert term.source in text


def test_layouts_in_words():
    def said(layout: str, *stages: tuple[int, int]) -> str:
        return layout_in_words(replace(TP2, layout=layout, stages=stages))

    assert said("tp1", (0, 8)) == "the whole model on one device"
    assert said("dp2", (0, 8)) == "2 replicas of the whole model"
    assert said("tp2", (0, 8)) == "every layer cut over 2 devices"
    assert said("pp2", (0, 7), (7, 8)) == "2 stages (layers 0-6 | 7)"
    assert said("tp2pp2dp2", (0, 4), (4, 8)) == (
        "2 replicas, each in 2 stages (layers 0-3 | 4-7), every layer cut over 2 devices"
    )
    assert said("tp2dp2", (0, 8)) == "2 replicas, each with every layer cut over 2 devices"
    assert (
        said("dp8ep8", (0, 8))
        == "8 replicas of all but the experts, which are dealt over 8 devices"
    )
    assert said("tp4ep4", (0, 8)) == "every layer cut over 4 devices, experts dealt over 4"
    assert said("tp2dp2ep4", (0, 8)) == (
        "2 replicas, each with every layer cut over 2 devices, experts dealt over 4"
    )


def test_small_words():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert numbers((0, 1, 2, 3)) == "0-3"
    assert numbers((0, 1)) == "0 and 1"
    assert numbers((0, 2, 3)) == "0, 2 and 3"
    assert numbers((7, 6, 5, 1)) == "1 and 5-7"
    assert numbers(range(0, 100, 2)).endswith("30 and 34 more runs")
    many = replace(TP2, layout="pp40", stages=tuple((i, i + 1) for i in range(40)))
    assert layout_in_words(many) == "40 stages (layers 0 | 1 | 2 | ... | 39)"
    assert (counted(1, "device"), counted(2, "device")) == ("1 device", "2 devices")


def test_markup_in_names_is_only_text(capsys):
    blocks = [Heading("[bold]x[/bold]"), Paragraph("[red]y"), Grid(("a", "b"), [("[i]z", ":+1:")])]
    assert "[bold]x[/bold]" in (text := printed(blocks, capsys))
    assert "[red]y" in text
    assert "[i]z" in text


def test_a_real_plan_is_answered_whole(capsys):
    pricing = Pricing(big_model(), fabric(4, **SLOW), dtype="bf16")
    traffic = Traffic(100, 50, concurrency=4)
    ranking = plan(pricing, traffic, goal="latency")
    plan_file = to_plan_file(ranking, pricing, traffic=traffic, model="tiny")
    text = printed(answer(plan_file), capsys)
    assert f"Run it as {ranking.chosen.layout}: " in text
    assert re.search(r"Where the time of one request goes, in (s|ms|us) ", text)
    for row in shown_rows(ranking.ranked, 50):
        assert sum(by_kind(row.estimate, 50).values()) == pytest.approx(
            whole_request(row.estimate, 50)
        )


def test_a_table_wider_than_the_page_is_wrapped_and_loses_nothing(capsys):
    cells = ("x" * 70, "y " * 60, "1.23 ms", "what " * 40)
    text = printed([Grid(("wide", "words", ">time", "last"), [cells])], capsys)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= WIDTH
    assert (text.count("x"), text.count("y")) == (70, 60)
    assert text.count("what") == 40
    assert "1.23" in text


def test_a_terminal_gets_colour_and_its_own_width(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    blocks = [Heading("Head"), Grid(("a", ""), [("x", "word " * 40)], frozenset({0}))]
    text = printed(blocks, capsys)
    assert "\x1b[1mHead\x1b[0m" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 60
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(blocks, capsys)


def test_a_page_reaches_a_stream_that_knows_ascii_only(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    show([Paragraph("██ compute")])
    stream.flush()
    assert raw.getvalue() == b"  ?? compute\n"
