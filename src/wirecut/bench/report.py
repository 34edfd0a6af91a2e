"""Runs as tables: predicted beside measured, and what was counted beside the formula."""

from collections.abc import Sequence

from wirecut.bench.run import Run
from wirecut.cost.terms import Estimate, Rejected
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


def _seconds_cells(waits: Waits | None) -> tuple[str, ...]:
    if waits is None:
        return ("",) * len(SECONDS_COLUMNS)
    return show_seconds(waits.waited_s), show_seconds(waits.moved_s), f"{waits.share:.0%}"


def kv_room(predicted: Estimate | Rejected, kv_tokens: int) -> str:
    """Whose memory bounds the KV room, and what the others have to spare; one line."""
    said = f"KV room for {kv_tokens:,} tokens a replica"
    if isinstance(predicted, Rejected):
        return f"{said}."
    memory = predicted.memory
    spare = f": {show_bytes(memory.wasted_bytes)} stay empty on the others when it is full"
    return (
        f"{said}; rank {memory.rank} has the least memory for it, {memory.kv_tokens:,} tokens"
        f"{spare if memory.wasted_bytes else ''}."
    )


def dealt(run: Run) -> Block:
    """What the schedulers found computed already, and what they computed twice."""
    did = run.dealt
    said = f"Of {did.prompt_tokens:,} prompt tokens {did.cached_tokens:,} were computed already"
    if did.preemptions:
        said += (
            f"; requests were preempted {did.preemptions:,} times, for which "
            f"{did.recomputed_tokens:,} tokens were computed again"
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
