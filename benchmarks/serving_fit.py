"""Constants of runtimes without one source: fitted on the others, scored on it.

    table = Grid.of(rows)                  # every row under every factor of the constants: minutes
    list(left_out(table))

Factors on `host_s`, `sequence_s` and `request_s` of the shipped profiles, and shifts of `starts`;
nothing is changed for good.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Any

from serving_rows import KINDS, Asked, ask

from wirecut.cost.engines import ENGINES

RUNTIMES = ("vllm", "sglang", "trtllm")
FACTORS = (0.5, 1.0, 2.0)
STARTS = (-0.3, -0.15, 0.0, 0.15)  # added to `starts`, at most 1
REQUESTS = (0.0, 0.5, 1.0, 1.5, 2.0)
WORDS = """`host_s`, `sequence_s`, `request_s` and `starts` of a runtime, chosen on a grid about the
shipped values (times 0.5 to 2; `starts` 0.3 less to 0.15 more) by the mean of the sources' median
errors without the source, on all, and on the source alone: "others'" against "all" is what not
having seen a source costs. At most 150 rows a source; SGLang has only one of any size."""
MOST_ROWS = 150  # of a source, evenly spaced
FEWEST_ROWS = 20  # of a source that is left out


@dataclass(frozen=True, slots=True)
class Choice:
    """Factors on a profile's constants; `starts` is added to its own."""

    host: float = 1.0
    sequence: float = 1.0
    request: float = 1.0
    starts: float = 0.0

    def __str__(self) -> str:
        parts = {"host": self.host, "sequence": self.sequence, "request": self.request}
        changed = [f"{name} x {factor:g}" for name, factor in parts.items() if factor != 1]
        shifted = [f"starts {self.starts:+g}"] if self.starts else []
        return ", ".join([*changed, *shifted]) or "as shipped"


@contextmanager
def runtime(name: str, choice: Choice) -> Iterator[None]:
    """The profile of a runtime with other constants, for a while."""
    known = ENGINES[name]
    steps = replace(
        known.steps,
        host_s=choice.host * known.steps.host_s,
        sequence_s=choice.sequence * known.steps.sequence_s,
        request_s=choice.request * known.steps.request_s,
        starts=min(1.0, max(0.0, known.steps.starts + choice.starts)),
    )
    ENGINES[name] = replace(known, steps=steps)
    try:
        yield
    finally:
        ENGINES[name] = known


Errors = Mapping[tuple[str, str], float]  # by source and kind: median |error|


@dataclass(frozen=True, slots=True)
class Grid:
    """Errors of one runtime's rows under every choice, and how many rows a source and kind has."""

    name: str
    errors: Mapping[Choice, Errors]
    counts: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]]) -> "Grid":
        """Price `rows`, those of the runtime, again and again."""
        kept = thinned([row for row in rows if row["engine"] == name and row["quality"] in "AB"])
        errors: dict[Choice, Errors] = {}
        for host, sequence, request, starts in product(FACTORS, FACTORS, REQUESTS, STARTS):
            choice = Choice(host, sequence, request, starts)
            if request == REQUESTS[0]:
                with runtime(name, choice):
                    asked = [ask(row) for row in kept]
            later = request * ENGINES[name].steps.request_s
            errors[choice] = _medians(asked, later)
        counts: dict[tuple[str, str], int] = {}
        for one in asked:
            for kind in one.figures:
                key = (one.row["source_key"], kind)
                counts[key] = counts.get(key, 0) + 1
        return cls(name, errors, counts)

    @property
    def sources(self) -> list[str]:
        found = dict.fromkeys(source for source, _ in self.counts)
        return [s for s in found if sum(self.rows_of(s).values()) >= FEWEST_ROWS]

    def rows_of(self, source: str) -> dict[str, int]:
        """How many of every kind."""
        return {kind: count for (name, kind), count in self.counts.items() if name == source}

    def cost(self, choice: Choice, sources: Sequence[str]) -> float:
        """Mean error of these sources: kinds and sources weigh by the root of their rows."""
        errors = self.errors[choice]
        weights = {key: math.sqrt(n) for key, n in self.counts.items() if key[0] in sources}
        return sum(w * errors[key] for key, w in weights.items()) / sum(weights.values())

    def best(self, sources: Sequence[str]) -> Choice:
        return min(self.errors, key=lambda choice: self.cost(choice, sources))


def thinned(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `MOST_ROWS` of every source."""
    by_source: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_source.setdefault(row["source_key"], []).append(row)
    return [row for same in by_source.values() for row in same[:: 1 + len(same) // MOST_ROWS]]


def _medians(asked: Sequence[Asked], later: float) -> Errors:
    """Errors by source and kind, every first token coming `later` seconds later."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in asked:
        if one.estimate is None:
            continue
        moved = replace(one, estimate=_moved(one, later))
        for kind, figure in moved.figures.items():
            found.setdefault((one.row["source_key"], kind), []).append(abs(figure.error))
    return {key: median(errors) for key, errors in found.items()}


def _moved(one: Asked, later: float) -> Any:
    """The estimate with a later first token: where users wait for answers, they ask less."""
    known, outputs = one.estimate, one.row["workload"]["output_len"]
    answer_s = known.ttft_s + (outputs - 1) * known.tpot_s
    rate = one.row["workload"].get("request_rate")
    closed = rate is None or math.isinf(float(rate))
    slower = answer_s / (answer_s + later) if closed else 1.0
    return replace(
        known, ttft_s=known.ttft_s + later, output_tokens_per_s=slower * known.output_tokens_per_s
    )


def left_out(grid: Grid) -> Iterator[tuple[str, ...]]:
    """A source's error with constants as shipped, of the others, of all, of its own; and
    what the others chose.
    """
    everything = dict.fromkeys(source for source, _ in grid.counts)
    for source in grid.sources:
        others = [one for one in everything if one != source]
        if not others:
            continue
        chosen = grid.best(others)
        picks = (Choice(), chosen, grid.best(list(everything)), grid.best([source]))
        scores = [f"{grid.cost(choice, [source]):.1%}" for choice in picks]
        counts = grid.rows_of(source)
        kinds = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if kind in counts)
        yield (grid.name, source, kinds, *scores, str(chosen))
