"""Predictions beside published serving runs: errors, order of splits, regret, intervals.

    python benchmarks/serving.py GROUND_TRUTH_DIR > benchmarks/serving.md
    python benchmarks/serving.py GROUND_TRUTH_DIR --refit > benchmarks/serving.md   # minutes

GROUND_TRUTH_DIR holds `serving.jsonl` and `pairs.jsonl`. `--refit` adds what constants of runtimes
are worth on sources that they were not fitted on. Needs numpy.
"""

import argparse
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median

import intervals
import serving_fit
from serving_notes import ANCHOR, FITTED, HEAD, NOTES
from serving_rows import KINDS, Asked, Contest, Figure, ask, contests, in_scope, read
from serving_rows import regrets as regrets_of

from wirecut.explain.budget import doubt, whole_request
from wirecut.version import __version__

TARGETS = {"TPOT": 0.10, "TTFT": 0.25, "throughput": 0.12, "latency": 0.12}
ENOUGH = 10  # rows of a class whose error is held against its target
MOST = 2.0  # times the target that a class may be off
WORST = 30


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--refit", action="store_true", help="fit constants without each source")
    given = parser.parse_args()
    every = read(given.folder / "serving.jsonl")
    rows = [row for row in every if in_scope(row)]
    asked = [ask(row) for row in rows]
    pairs = contests(asked, read(given.folder / "pairs.jsonl"))
    more = " --refit" if given.refit else ""
    print(HEAD.format(date=date.today(), version=__version__, commit=commit(), more=more))
    for line in page(asked, pairs, len(every)):
        print(line)
    if given.refit:
        print("\n".join(["", *refitted(rows)]))
    print(NOTES, end="")


def commit() -> str:
    """The commit that was priced, and whether files under src differ from it."""

    def git(*words: str) -> str:
        here = Path(__file__).parent.parent
        found = subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=here
        )
        return found.stdout.strip()

    changed = git("status", "--porcelain", "--", "src")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def page(asked: Sequence[Asked], pairs: Sequence[Contest], every: int) -> Iterator[str]:
    """The tables, line by line."""
    scored = [one for one in asked if one.estimate is not None]
    yield from ("## Missed", "", *missed(scored), "")
    yield from ("## All rows", "")
    yield f"{len(scored)} of {len(asked)} rows in scope are predicted ({every} in all). Not:"
    yield ""
    for one in asked:
        if one.why:
            yield f"- {one.row['id']}, {named(one)}: {one.why}"
    yield from ("", *overall(scored, pairs), "")
    groups: dict[str, Callable[[Asked], str]] = {
        "interconnect": lambda one: one.wire,
        "engine": lambda one: one.row["engine"],
        "device": lambda one: one.device,
        "source": lambda one: one.row["source_key"],
    }
    for name, group in groups.items():
        yield from (f"## By {name}", "", *by_group(scored, name, group), "")
    yield from ("## Order of splits", "", *order(pairs), "")
    yield from ("## Intervals", "", *intervals.page(scored), "")
    yield from ("## Two halves", "", *halves(scored), "")
    yield from (
        "## What constants were fitted on",
        "",
        "| constants | where | on |",
        "|---|---|---|",
    )
    yield from (f"| {what} | {where} | {on} |" for what, where, on in FITTED)
    yield ""
    yield from (f"## The {WORST} worst", "", *worst(scored))


def figures(scored: Iterable[Asked], kind: str) -> list[Figure]:
    """All of one kind."""
    return [one.figures[kind] for one in scored if kind in one.figures]


def cells(found: Sequence[Figure]) -> str:
    """Rows, median error, bias."""
    if not found:
        return "| | | "
    size = median(abs(one.error) for one in found)
    return f"| {len(found)} | {size:.1%} | {median(one.error for one in found):+.1%} "


def missed(scored: Sequence[Asked]) -> Iterator[str]:
    """Kinds over their target, and classes of wires over `MOST` times theirs."""
    lines: list[str] = []
    for kind, target in TARGETS.items():
        groups = {"all rows": list(scored)}
        for one in scored:
            groups.setdefault(one.wire, []).append(one)
        for name, group in groups.items():
            found = figures(group, kind)
            limit = target if name == "all rows" else MOST * target
            size = median(abs(one.error) for one in found) if found else 0.0
            if len(found) >= ENOUGH and size > limit:
                bias = median(one.error for one in found)
                held = f"{size:.1%}, allowed {limit:.0%}"
                lines.append(f"- {kind}, {name}: {held}; bias {bias:+.1%}, {len(found)} rows")
    yield from lines or ["Nothing: every kind is within its target, every class within twice that."]


def overall(scored: Sequence[Asked], pairs: Sequence[Contest]) -> Iterator[str]:
    """One line a kind, with the target and the anchor's figures."""
    yield "| | rows | median error | bias | p90 | target | anchor, its own rows | anchor, others |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in KINDS:
        found = figures(scored, kind)
        tenth = sorted(abs(one.error) for one in found)[int(0.9 * (len(found) - 1))]
        own, others = ANCHOR.get(kind, ("", ""))
        yield f"| {kind} {cells(found)}| {tenth:.0%} | {TARGETS[kind]:.0%} | {own} | {others} |"
    judged = [one.right for one in pairs if one.right is not None]
    regrets = regrets_of(pairs)
    right = f"{sum(judged):g} of {len(judged)}, {sum(judged) / len(judged):.1%}"
    yield f"| order | {right} | | | | 92% | | {ANCHOR['order'][1]} |"
    lost = f"{mean(regrets):.1%}, worst {max(regrets):.0%}"
    yield f"| regret | {len(regrets)} groups | {lost} | | | 3% | | {ANCHOR['regret'][1]} |"


def by_group(scored: Sequence[Asked], name: str, group: Callable[[Asked], str]) -> Iterator[str]:
    """Rows, median error and bias of every kind, by group."""
    groups: dict[str, list[Asked]] = {}
    for one in scored:
        groups.setdefault(group(one), []).append(one)
    yield f"| {name} | " + " | ".join(f"{kind}: rows | error | bias" for kind in KINDS) + " |"
    yield "|---" * (1 + 3 * len(KINDS)) + "|"
    for key, same in sorted(groups.items()):
        line = "".join(cells(figures(same, kind)) for kind in KINDS)
        if any(one.figures for one in same):
            yield f"| {key} {line}|"


def order(pairs: Sequence[Contest]) -> Iterator[str]:
    """Pairs ordered right, by class of wires."""
    yield "| wires | pairs | right |"
    yield "|---|---|---|"
    wires = sorted({one.wire for one in pairs})
    for wire in wires:
        judged = [one.right for one in pairs if one.wire == wire and one.right is not None]
        if judged:
            yield f"| {wire} | {len(judged)} | {sum(judged):g} |"
    sure, close = surely(pairs)
    yield ""
    yield (
        f"Of {len(sure) + len(close)} pairs told by whole requests or throughput, `wirecut plan` "
        f"calls {len(close)} too close. Of the others {sum(sure):g} of "
        f"{len(sure)} are right, of the close ones {sum(close):g}."
    )
    wrong = [one for one in pairs if one.right is not None and one.right < 1]
    yield ""
    for one in wrong:
        cuts = f"{one.a.row['layout']} and {one.b.row['layout']}"
        guess = f"{one.a.value(one.metric):.4g} and {one.b.value(one.metric):.4g}"
        measured = f"{one.measured[0]:.4g} and {one.measured[1]:.4g}"
        where = f"{one.a.row['model']} on {one.a.row['fabric']}, {one.a.shape}"
        yield f"- wrong: {where}: {cuts}, {one.metric} {measured}, predicted {guess}"


def surely(pairs: Sequence[Contest]) -> tuple[list[float], list[float]]:
    """Whether pairs are right whose difference is beyond doubt, and those whose is not."""
    found: tuple[list[float], list[float]] = ([], [])
    for one in pairs:
        if one.right is None or one.metric not in (*KINDS["throughput"], *KINDS["latency"]):
            continue
        outputs = one.a.row["workload"]["output_len"]
        ends = sorted((one.a.estimate, one.b.estimate), key=lambda end: whole_request(end, outputs))
        gained = whole_request(ends[1], outputs) - whole_request(ends[0], outputs)
        found[gained <= doubt(ends[0], ends[1], outputs)].append(one.right)
    return found


def halves(scored: Sequence[Asked]) -> Iterator[str]:
    """Errors of every other source: how far they depend on who measured."""
    yield "Sources in alphabetical order, every other one. No hold-out: constants saw both halves."
    yield ""
    sources = sorted({one.row["source_key"] for one in scored if one.figures})
    names = [", ".join(sources[start::2]) for start in (0, 1)]
    half = {source: i % 2 for i, source in enumerate(sources)}
    with_half = [one for one in scored if one.figures]
    yield from by_group(with_half, "half", lambda one: "AB"[half[one.row["source_key"]]])
    yield ""
    yield f"A: {names[0]}. B: {names[1]}."


def named(one: Asked) -> str:
    row = one.row
    return f"{row['model']} on {row['fabric']}, {row['layout']}, {row['engine']}, {one.shape}"


def worst(scored: Sequence[Asked]) -> Iterator[str]:
    """The rows that are furthest off, by ratio."""
    found = [
        (max(figure.error, 1 / (1 + figure.error) - 1), figure, one)
        for one in scored
        for figure in one.figures.values()
    ]
    found.sort(key=lambda item: -item[0])
    yield "| row | what | metric | measured | predicted |"
    yield "|---|---|---|---|---|"
    for _, figure, one in found[:WORST]:
        numbers = f"{figure.measured:.4g} | {figure.predicted:.4g}"
        yield f"| {one.row['id']} | {named(one)} | {figure.metric} | {numbers} |"


def refitted(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """Runtimes' constants without one source."""
    yield from ("## A source left out", "", serving_fit.WORDS, "")
    yield "| runtime | source | rows | shipped | others' | all | its own | others' choice |"
    yield "|---" * 8 + "|"
    for name in serving_fit.RUNTIMES:
        grid = serving_fit.Grid.of(name, rows)
        for line in serving_fit.left_out(grid):
            yield "| " + " | ".join(line) + " |"


if __name__ == "__main__":
    main()
