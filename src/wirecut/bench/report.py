"""Runs as tables: predicted beside measured, and what was counted beside the formula."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from wirecut.bench.run import Run
from wirecut.cost.terms import Estimate, Rejected
from wirecut.engine.load import uneven
from wirecut.engine.timeline import Waits
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.units import show_bytes, show_seconds

SECONDS_COLUMNS = (">waited", ">moved", ">of the time")


def timing_table(runs: Sequence[Run]) -> list[Block]:
    """TTFT and TPOT of each run, predicted and measured, and how far apart they are."""
    rows = [row for run in runs for row in _timing_rows(run)]
    columns = ("layout", "", ">predicted", ">from", ">to", ">measured", ">off by")
    return [Heading("Predicted and measured"), Grid(columns, rows)]


def _timing_rows(run: Run) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    guess = run.predicted
    measured = {"ttft_s": ("first token", run.ttft_s), "tpot_s": ("each token after", run.tpot_s)}
    for name, (words, seconds) in measured.items():
        first = "" if rows else str(run.cut.layout)
        if seconds is None:
            rows.append((first, words, "", "", "", "only one token", ""))
        elif isinstance(guess, Rejected):
            rows.append((first, words, "rejected", "", "", show_seconds(seconds), ""))
        else:
            expected = getattr(guess, name)
            low, high = (show_seconds(end) for end in guess.interval[name])
            off = f"{expected / seconds - 1:+.0%}"
            rows.append(
                (first, words, show_seconds(expected), low, high, show_seconds(seconds), off)
            )
    return rows


def comm_table(run: Run) -> list[Block]:
    """Calls and payload bytes by axis, counted by the ranks and from the cost model's formula, and
    what a rank waited and what it took to move them (the mean over ranks).
    """
    title = f"On the wires of {run.cut.layout}"
    if not run.formula:
        return [Heading(title), Paragraph("Nothing: no axis has more than one rank.")]
    rows: list[tuple[str, ...]] = []
    nothing = {"calls": 0, "bytes": 0}
    seconds = run.timeline.comm_seconds()
    for axis in sorted({*run.formula, *run.counted}):
        counted, formula = run.counted.get(axis, nothing), run.formula.get(axis, nothing)
        rows.append(
            (
                axis,
                f"{counted['calls']}",
                f"{formula['calls']}",
                show_bytes(counted["bytes"]),
                show_bytes(formula["bytes"]),
                "equal" if counted == formula else "DIFFERENT",
                *_seconds_cells(seconds.get(axis)),
            )
        )
    columns = ("axis", ">calls", ">formula", ">bytes", ">formula", "", *SECONDS_COLUMNS)
    return [Heading(title), Grid(columns, rows)]


def load_table(run: Run) -> list[Block]:
    """Picks of each expert and rows of each rank; copies of rows that went to experts of other
    replicas, counted and as expected of random picks. Nothing where there are no experts.
    """
    load = run.load
    if not load.layers:
        return []
    rows: list[tuple[str, ...]] = []
    for what, each in (("picks of an expert", load.of_experts), ("rows of a rank", load.of_ranks)):
        least, usual, most = (f"{count:.0f}" for count in (min(each), mean(each), max(each)))
        rows.append((what, least, usual, most, f"{uneven(each):.2f}"))
    columns = ("", ">least", ">mean", ">most", ">most over mean")
    blocks: list[Block] = [Heading("Load of the experts"), Grid(columns, rows)]
    if load.copies:
        there, back = show_bytes(load.dispatch_bytes), show_bytes(load.combine_bytes)
        words = (
            f"{load.copies} copies of rows went to the ranks of their experts ({there}) and back "
            f"({back}); of random picks {run.expected_copies:.0f} are expected."
        )
        blocks.append(Paragraph(words))
    return blocks


def load_json(run: Run) -> dict[str, Any] | None:
    """The same for programs, with the picks of each expert in each layer that has any."""
    load = run.load
    if not load.layers:
        return None
    return {
        "picks": load.layers,
        "rank_rows": load.of_ranks,
        "most_over_mean": {"expert": uneven(load.of_experts), "rank": uneven(load.of_ranks)},
        "copies": load.copies,
        "copies_expected": run.expected_copies,
        "dispatch_bytes": load.dispatch_bytes,
        "combine_bytes": load.combine_bytes,
    }


def _seconds_cells(waits: Waits | None) -> tuple[str, ...]:
    if waits is None:
        return ("",) * len(SECONDS_COLUMNS)
    return show_seconds(waits.waited_s), show_seconds(waits.moved_s), f"{waits.share:.0%}"


def kv_room(predicted: Estimate | Rejected, kv_tokens: int) -> str:
    """Whose memory bounds the KV room, and what the others have to spare; one line."""
    said = f"KV room taken: {kv_tokens:,} tokens a replica"
    if isinstance(predicted, Rejected):
        return f"{said}."
    memory = predicted.memory
    spare = f"; {show_bytes(memory.wasted_bytes)} would stay empty on the others"
    return (
        f"{said}. There is memory for {memory.kv_tokens:,}, which rank {memory.rank} bounds"
        f"{spare if memory.wasted_bytes else ''}."
    )


def dealt(run: Run) -> Block:
    """What the schedulers found computed already, and what they computed twice."""
    did = run.dealt
    said = f"Of {did.prompt_tokens:,} prompt tokens {did.cached_tokens:,} were computed already"
    again: list[str] = []
    if did.preemptions:
        again.append(f"were preempted {did.preemptions:,} times for want of KV room")
    if did.outgrown:
        again.append(f"became long and needed other keys {did.outgrown:,} times")
    if again:
        said += (
            f"; requests {' and '.join(again)}, for which {did.recomputed_tokens:,} tokens were "
            "computed again"
        )
    return Paragraph(f"{said}.")


def winner(runs: Sequence[Run]) -> list[Block]:
    """Which run was to write most tokens per second and which did, whichever way it went."""
    predicted = [
        (run.predicted.output_tokens_per_s, str(run.cut.layout))
        for run in runs
        if not isinstance(run.predicted, Rejected)
    ]
    measured = [(run.output_tokens_per_s, str(run.cut.layout)) for run in runs]
    rows = [
        (what, *_race(rates)) for what, rates in (("predicted", predicted), ("measured", measured))
    ]
    columns = ("", "winner", ">tok/s", ">ahead by", "of", ">tok/s")
    return [Heading("Winner by output tokens per second"), Grid(columns, rows)]


def _race(rates: list[tuple[float, str]]) -> tuple[str, ...]:
    (best, name), *others = sorted(rates, reverse=True)
    if not others:
        return name, f"{best:.0f}", "", "", ""
    second, other = others[0]
    return name, f"{best:.0f}", f"{best / second - 1:.1%}", other, f"{second:.0f}"
