"""What a run shows of itself: spans, bubbles, waits, and the trace that Perfetto opens."""

import json
import subprocess
import sys
from array import array
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

from models import write_model
from wirecut.bench.seen import seen_tables
from wirecut.engine.chrome import trace_json
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Prompt
from wirecut.engine.timeline import Timeline, read_timeline
from wirecut.engine.trace import COLUMNS, WHATS, Log, Off, What, watch
from wirecut.explain.page import Grid
from wirecut.fabric.discover import assumed_fabric
from wirecut.fabric.fabric import save_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.stages import cut_stages

MS = 1_000_000
WIRECUT = str(Path(sys.executable).with_name("wirecut"))


def row(what: What, begin: int, end: int, *details: int) -> list[int]:
    return [WHATS.index(what), begin, end, *details, *[0] * (3 - len(details))]


def packed(*rows: list[int]) -> bytes:
    return array("q", chain(*rows)).tobytes()


def pipeline(stages: int, batches: int) -> Timeline:
    """Batches that take every stage a millisecond, each behind the other; wires take no time."""
    logs: dict[int, bytes] = {}
    for stage in range(stages):
        rows: list[list[int]] = []
        for batch in range(batches):
            begin = (stage + batch) * MS
            if stage:
                asked = begin if batch else 0
                rows.append(row("receive from the stage before", asked, begin))
            if stage < stages - 1:
                rows.append(row("send to the next stage", begin + MS, begin + MS))
            rows.append(row("step", asked if stage else begin, begin + MS, batch, 1, 1))
        if stage == 0:
            end = (stages + batches - 1) * MS
            rows.append(row("wait for tokens", batches * MS, end))
        elif stage < stages - 1:
            rows.append(row("wait for a step", (stage + batches) * MS, (stages + batches) * MS))
        logs[stage] = packed(*rows)
    return read_timeline(logs, Layout(pp=stages), ["cpu"] * stages)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [1, 2, 7])
def test_the_bubble_of_even_stages_is_the_textbook_one(stages: int, batches: int) -> None:
    timeline = pipeline(stages, batches)
    expected = (stages - 1) / (batches + stages - 1)
    assert timeline.bubble_fraction == pytest.approx(expected)


def test_who_came_last_is_named_and_only_the_others_waited() -> None:
    logs = {
        0: packed(row("all-reduce", 10, 50, 64), row("step", 0, 60, 1)),
        1: packed(row("all-reduce", 40, 52, 64), row("step", 5, 61, 1)),
    }
    timeline = read_timeline(logs, Layout(tp=2), ["cpu", "cpu"])
    reduces = [s for spans in timeline.spans for s in spans if s.what == "all-reduce"]
    assert [(s.waited, s.last) for s in reduces] == [(30, 1), (0, 1)]
    waits = timeline.comm_seconds()["tp"]
    assert waits.waited_s == pytest.approx(15e-9)
    assert waits.moved_s == pytest.approx((10 + 12) / 2 * 1e-9)
    assert timeline.bubble_fraction == 0


def test_who_waited_is_seen_though_clocks_differ() -> None:
    logs = {
        0: packed(row("all-reduce", 10, 50, 64), row("step", 0, 60, 1)),
        1: packed(row("all-reduce", 9_040, 9_052, 64), row("step", 9_005, 9_061, 1)),
    }
    timeline = read_timeline(logs, Layout(tp=2), ["cpu", "cpu"], {0: 0, 1: 9_000})
    reduces = [s for spans in timeline.spans for s in spans if s.what == "all-reduce"]
    assert [(s.begin, s.waited, s.last) for s in reduces] == [(10, 30, 1), (40, 0, 1)]


def test_calls_are_matched_from_the_last_when_a_rank_forgot_its_first() -> None:
    logs = {
        0: packed(row("all-reduce", 1, 5), row("all-reduce", 10, 50), row("step", 0, 60)),
        1: packed(row("all-reduce", 40, 52), row("step", 5, 61)),
    }
    timeline = read_timeline(logs, Layout(tp=2), ["cpu", "cpu"])
    first, second = (s for s in timeline.spans[0] if s.what == "all-reduce")
    assert (first.waited, second.waited) == (0, 30)


def test_a_log_forgets_its_older_half_up_to_the_end_of_a_step() -> None:
    log = Log(most_spans=20)
    for step in range(30):
        with log.step(step, tokens=3, decodes=2):
            for _ in range(2):
                with log.span("all-reduce"):
                    pass
    rows = array("q", log.packed())
    kept = [rows[i : i + COLUMNS] for i in range(0, len(rows), COLUMNS)]
    assert 7 <= len(kept) <= 20
    assert len(kept) % 3 == 0
    assert list(kept[-1][3:]) == [29, 3, 2]
    assert WHATS[kept[0][0]] == "all-reduce"


class Wire:
    size = 3

    def double(self, x: memoryview) -> int:
        return 2 * x.nbytes


def test_a_watched_wire_does_what_it_did_and_its_calls_are_noted() -> None:
    log = Log(most_spans=20)
    wire = watch(Wire(), log, {"double": "all-reduce"})
    assert wire.double(memoryview(b"abc")) == 6
    assert wire.size == 3
    what, begin, end, num_bytes, *_ = array("q", log.packed())
    assert (WHATS[what], num_bytes) == ("all-reduce", 3)
    assert begin <= end
    assert watch(None, log, {}) is None


def test_a_log_that_is_off_calls_the_wire_itself() -> None:
    wire = Wire()
    assert watch(wire, Off(), {"double": "all-reduce"}).double == wire.double
    assert Off().packed() == b""


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """Two replicas of two stages of two ranks, each with prompts that go in chunks."""
    folder = write_model(tmp_path_factory.mktemp("traced") / "model", hidden=32, layers=2)
    layout = Layout(tp=2, pp=2, dp=2)
    cut = Cut(layout, tuple(range(8)), cut_stages([1.0, 1.0], 2))
    limits = Limits(max_batched_tokens=16, kv_tokens=512)
    prompts = [Prompt(tuple(range(5, 25 + i)), 6) for i in range(6)]
    with Engine(folder, cut, assumed_fabric(8), limits=limits, dtype="fp32") as engine:
        engine.generate(prompts)
        return engine.finish().timeline


def test_pieces_fill_a_rank_s_time_and_shares_add_up(timeline: Timeline) -> None:
    for rank in range(8):
        pieces = list(timeline.pieces(rank))
        assert all(one.end == two.begin for one, two in pairwise(pieces))
        assert all(piece.begin < piece.end for piece in pieces if piece.of is None)
        assert sum(timeline.shares(rank).values()) == pytest.approx(1)
    kinds = {piece.kind for rank in range(8) for piece in timeline.pieces(rank)}
    assert kinds >= {"compute", "all-reduce", "hand-off", "bubble"}
    assert 0 < (timeline.bubble_fraction or 0) < 1


def test_every_rank_of_a_replica_ran_the_same_steps(timeline: Timeline) -> None:
    for replica in range(2):
        ran = [
            [(s.number, s.tokens, s.decodes) for s in timeline.spans[rank] if s.what == "step"]
            for rank in range(4 * replica, 4 * replica + 4)
        ]
        assert ran[0] == ran[1] == ran[2] == ran[3]
        assert sum(tokens for _, tokens, _ in ran[0]) == sum(20 + i + 5 for i in (0, 2, 4)) + (
            3 if replica else 0
        )


def test_the_trace_keeps_to_the_format_and_nests(timeline: Timeline) -> None:
    events = json.loads(trace_json(timeline))["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names[3].startswith("rank 3 · stage 1 · tp 1 · cores ")
    assert {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        0: "replica 0",
        1: "replica 1",
    }
    check_trace(events)
    steps = [e for e in events if e.get("cat") == "step"]
    assert set(steps[0]["args"]) == {"step", "tokens", "decodes"}
    moved = [e for e in events if e["name"] == "all-reduce"]
    assert all(e["args"]["bytes"] > 0 for e in moved)
    assert {e["name"] for e in events} >= {"compute", "all-reduce", "logits gather", "bubble"}


def check_trace(events: list[dict[str, Any]]) -> None:
    """What Perfetto needs of an event, and that those of a thread lie side by side or inside."""
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            span = (event["ts"], event["ts"] + event["dur"])
            threads.setdefault((event["pid"], event["tid"]), []).append(span)
    assert len(threads) == 8
    for spans in threads.values():
        open_ends: list[float] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= begin + 1e-6:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 1e-6
            assert len(open_ends) < 2  # a piece in a step
            open_ends.append(end)


def test_strips_line_up_and_say_what_their_characters_are(timeline: Timeline) -> None:
    shares, strips = (block for block in seen_tables(timeline) if isinstance(block, Grid))
    assert len(shares.rows) == len(strips.rows) == 8
    assert {len(strip) for _, strip in strips.rows} == {60}
    assert seen_tables(read_timeline({}, Layout(pp=2), ["cpu"] * 2)) == []


def wirecut(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [WIRECUT, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def test_generate_writes_a_trace_and_says_the_bubble(checkpoint: Path, tmp_path: Path) -> None:
    fabric, trace = tmp_path / "two.json", tmp_path / "trace.json"
    save_fabric(assumed_fabric(2), fabric)
    words = ("--fabric", fabric, "--layout", "pp2", "--prompt", "abc", "--max-tokens", "5")
    told = json.loads(wirecut("generate", checkpoint, *words, "--json", "--trace", trace).stdout)
    assert 0 < told["bubble_fraction"] < 1
    assert set(told["comm_seconds"]) == set(told["comm"]) == {"pp"}
    assert len(told["rank_shares"]) == 2
    assert json.loads(trace.read_text())["traceEvents"]
    refused = wirecut("generate", checkpoint, *words, "--trace", tmp_path / "no" / "trace.json")
    assert refused.returncode == 2
    assert "there is no folder" in refused.stderr
