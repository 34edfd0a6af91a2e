"""How wide predictions are: half-widths of `cost/terms.py`, fitted to published runs and scored.

    python benchmarks/intervals.py GROUND_TRUTH_DIR

A prediction x is said to lie between x / (1 + w) and x (1 + w), w being the half-widths of what its
time is spent on, by their shares. Fitted are the narrowest with which four of five measured TTFT,
TPOT and throughputs lie within. Needs numpy; half a minute.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from serving_rows import INTERVALS, Asked, Figure, ask, in_scope, read

from wirecut.cost.terms import ASSUMED_WIDER, KIND_WIDTH, Phase, Term

WITHIN = 0.8
LEAST = 0.15  # kernels alone are priced to 5 to 10 %, and repeats of a run differ by 2 to 11 %
MISS = 20.0  # what a missed share of `WITHIN` weighs against the mean width
NAMES = ("compute", "memory", "wires", "overhead", "wait")
NAME = {"all-reduce": "wires", "all-to-all": "wires", "hand-off": "wires"}
STEPS = (0.2, 0.1, 0.05)
Widths = np.ndarray


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of `shares` by `NAMES`, of times that were off by `error`: 0.2 is a fifth longer or
    shorter.
    """

    kind: np.ndarray
    source: np.ndarray
    shares: np.ndarray
    error: np.ndarray

    def only(self, which: np.ndarray) -> "Samples":
        return Samples(self.kind[which], self.source[which], self.shares[which], self.error[which])

    def inside(self, widths: Widths) -> dict[str, float]:
        """Share of the values within, by kind of metric."""
        held = self.error <= self.shares @ widths
        return {kind: float(held[self.kind == kind].mean()) for kind in self.kinds}

    def width(self, widths: Widths) -> dict[str, float]:
        """Mean half-width, by kind of metric."""
        wide = self.shares @ widths
        return {kind: float(wide[self.kind == kind].mean()) for kind in self.kinds}

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in INTERVALS if (self.kind == kind).any()]


def samples(asked: Sequence[Asked]) -> Samples:
    """All values that have an interval."""
    rows = [
        (kind, one.row["source_key"], shares(one, kind), _error(figure))
        for one in asked
        for kind, figure in one.figures.items()
        if kind in INTERVALS
    ]
    kinds, sources, parts, errors = zip(*rows, strict=True)
    return Samples(np.array(kinds), np.array(sources), np.array(parts), np.array(errors))


def _error(figure: Figure) -> float:
    ratio = figure.measured / figure.predicted
    return max(ratio, 1 / ratio) - 1


def shares(one: Asked, kind: str) -> list[float]:
    """What a metric's time is spent on, by `NAMES`; that on devices with derived kernels counts
    `ASSUMED_WIDER` times. Bubbles and others' prompts are as unsure as the work they are.
    """
    terms: Sequence[Term] = one.estimate.terms
    outputs = one.row["workload"]["output_len"]
    times: dict[Phase, int] = {"prefill": int(kind != "TPOT"), "decode": int(kind == "TPOT")}
    if kind == "throughput":
        times["decode"] = outputs - 1
    found = np.zeros(len(NAMES))
    for phase, count in times.items():
        part = [term for term in terms if term.phase == phase]
        waits = sum(term.seconds for term in part if term.kind == "wait")
        found += count * (_work(part) * (sum(term.seconds for term in part) - waits))
        if phase == "decode":
            found += count * waits * _work([term for term in terms if term.phase == "prefill"])
        elif kind == "TTFT":
            found[NAMES.index("wait")] += count * waits
    total = _seconds(terms, times, kind)
    return list(found / total)


def _seconds(terms: Sequence[Term], times: Mapping[Phase, int], kind: str) -> float:
    """Seconds of the metric; throughput's without waits before the first token."""
    return sum(
        times[term.phase] * term.seconds
        for term in terms
        if not (kind == "throughput" and (term.kind, term.phase) == ("wait", "prefill"))
    )


def _work(terms: Sequence[Term]) -> np.ndarray:
    """Shares of work by `NAMES`."""
    found, total = np.zeros(len(NAMES)), 0.0
    for term in terms:
        if term.kind in ("bubble", "wait"):
            continue
        wider = ASSUMED_WIDER if term.source == "assumed" else 1.0
        found[NAMES.index(NAME.get(term.kind, term.kind))] += wider * term.seconds
        total += term.seconds
    return found / total if total else found


def fit(known: Samples) -> Widths:
    """The narrowest widths with `WITHIN` of the values of each kind inside, by steps from the
    shipped ones.
    """
    widths = shipped()
    best = _cost(known, widths)
    for step in STEPS:
        better = True
        while better:
            better = False
            for change in _changes(step):
                tried = np.maximum(LEAST, widths + change)
                cost = _cost(known, tried)
                if cost < best - 1e-9:
                    widths, best, better = tried, cost, True
    return widths


def _cost(known: Samples, widths: Widths) -> float:
    held, wide = known.inside(widths), known.width(widths)
    return sum(np.log1p(wide[kind]) + MISS * max(0.0, WITHIN - held[kind]) for kind in held)


def _changes(step: float) -> Iterator[np.ndarray]:
    """One width up or down, or one up and another down."""
    unit = np.eye(len(NAMES)) * step
    for one in unit:
        yield one
        yield -one
    for one, other in permutations(unit, 2):
        yield one - other


def shipped() -> Widths:
    return np.array([KIND_WIDTH["all-reduce" if n == "wires" else n] for n in NAMES])  # type: ignore[index]


def page(asked: Sequence[Asked]) -> Iterator[str]:
    """The tables, line by line."""
    known = samples(asked)
    yield "| half-widths | " + " | ".join(NAMES) + " | " + " | ".join(INTERVALS) + " |"
    yield "|---" * (1 + len(NAMES) + len(INTERVALS)) + "|"
    yield _line("shipped", shipped(), known)
    yield _line("refitted", fit(known), known)
    sources, counts = np.unique(known.source, return_counts=True)
    for source in sources[counts >= 80]:
        left = known.source == source
        yield _line(f"without {source}, on it", fit(known.only(~left)), known.only(left))


def _line(name: str, widths: Widths, known: Samples) -> str:
    held, wide = known.inside(widths), known.width(widths)
    cells = [f"{width:.2f}" for width in widths]
    cells += [f"{held[k]:.0%}, +-{wide[k]:.0%}" if k in held else "" for k in INTERVALS]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    rows = read(parser.parse_args().folder / "serving.jsonl")
    for line in page([ask(row) for row in rows if in_scope(row)]):
        print(line)


if __name__ == "__main__":
    main()
