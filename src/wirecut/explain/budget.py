"""Where the time of one request goes, by term and by kind: the common measure of layouts.

    for row in shown_rows(ranking.ranked, outputs):
        by_kind(row.estimate, outputs)   # {"memory": 1.01, "all-reduce": 0.014}: seconds

Sums, differences and shares of terms only; every number is a term's own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from wirecut.cost.terms import Estimate, Kind
from wirecut.facts import fact
from wirecut.layout.layout import Layout, parse_layout

KINDS: tuple[Kind, ...] = get_args(Kind)
IDLE: tuple[Kind, ...] = ("bubble", "wait")
MOST_ROWS, FILLED_ROWS = 10, 8  # every cut up to the first, then more of the same up to the second
ALIKE = 0.01  # relative; nearer than any prediction is right


@fact
class Line:
    """One term of a request in two layouts: seconds over the whole request."""

    name: str
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        """Seconds that the other layout takes longer."""
        return self.theirs - self.ours


@fact
class Row:
    """A layout that is shown, its place in the ranking (from 1), and layouts that it stands for."""

    place: int
    estimate: Estimate
    alike: tuple[str, ...] = ()


def request_seconds(estimate: Estimate, output_tokens: int) -> dict[str, float]:
    """Seconds of one request by term: prefill once, decode once for each token after the first."""
    seconds: dict[str, float] = {}
    for term in estimate.terms:
        times = 1 if term.phase == "prefill" else output_tokens - 1
        seconds[term.name] = seconds.get(term.name, 0.0) + times * term.seconds
    return seconds


def by_kind(estimate: Estimate, output_tokens: int) -> dict[Kind, float]:
    """Seconds of one request by kind of time, in the order of `KINDS`, those that occur."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for term in estimate.terms:
        times = 1 if term.phase == "prefill" else output_tokens - 1
        seconds[term.kind] += times * term.seconds
    return {kind: one for kind, one in seconds.items() if one}


def whole_request(estimate: Estimate, output_tokens: int) -> float:
    """Seconds from asking to the last token."""
    return estimate.ttft_s + (output_tokens - 1) * estimate.tpot_s


def compare(ours: Estimate, theirs: Estimate, output_tokens: int) -> list[Line]:
    """Both layouts term by term, the largest difference first."""
    mine, other = (request_seconds(one, output_tokens) for one in (ours, theirs))
    names = dict.fromkeys((*mine, *other))
    lines = [Line(name, mine.get(name, 0.0), other.get(name, 0.0)) for name in names]
    return sorted(lines, key=lambda line: -abs(line.difference))


def doubt(ours: Estimate, theirs: Estimate, output_tokens: int) -> float:
    """Seconds by which the difference of two requests may be off.

    Time of one kind is wrong in both layouts alike, so only its difference counts, by its terms'
    own half-width. Bubbles and waiting are other stages' and requests' work: they are as wrong as
    the work is, and so count as more of it.
    """
    sides = [_work(one, output_tokens) for one in (ours, theirs)]
    total = 0.0
    for kind in KINDS:
        seconds = [side[kind][0] for side in sides]
        wide = [side[kind][1] for side in sides]
        if sum(seconds):
            total += abs(seconds[0] - seconds[1]) * sum(wide) / sum(seconds)
    return total


def _work(estimate: Estimate, output_tokens: int) -> dict[Kind, tuple[float, float]]:
    """Seconds by kind of work and by how much they may be off, the idle kinds dealt out over
    them.
    """
    seconds, wide = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    for term in estimate.terms:
        spent = term.seconds * (1 if term.phase == "prefill" else output_tokens - 1)
        seconds[term.kind] += spent
        wide[term.kind] += spent * term.spread
    idle = sum(seconds[kind] for kind in IDLE)
    busy = sum(seconds.values()) - idle
    scale = 1 + idle / busy if busy else 1.0
    return {
        kind: (0.0, 0.0) if kind in IDLE and busy else (seconds[kind] * scale, wide[kind] * scale)
        for kind in KINDS
    }


def cut_of(estimate: Estimate) -> tuple[int, int, int]:
    """How one replica is cut: TP, PP, EP. Layouts of one cut differ in replicas only."""
    layout = parse_layout(estimate.layout)
    return layout.tp, layout.pp, layout.ep


def shown_rows(ranked: Sequence[Estimate], output_tokens: int) -> list[Row]:
    """The layouts worth a row: the best of each cut, then others that differ from those shown."""
    first: dict[tuple[int, int, int], int] = {}
    for i, estimate in enumerate(ranked):
        first.setdefault(cut_of(estimate), i)
    shown = {i: list[str]() for i in sorted(first.values())[:MOST_ROWS]}
    for i, estimate in enumerate(ranked):
        if i in shown:
            continue
        same = (j for j in shown if _tell_no_difference(ranked[j], estimate, output_tokens))
        if (near := next(same, None)) is not None:
            shown[near].append(estimate.layout)
        elif len(shown) < FILLED_ROWS:
            shown[i] = []
    return [Row(i + 1, ranked[i], tuple(shown[i])) for i in sorted(shown)]


def _tell_no_difference(a: Estimate, b: Estimate, output_tokens: int) -> bool:
    """Whether two numbers of replicas of one cut answer alike: the load does not fill them."""
    if cut_of(a) != cut_of(b):
        return False
    pairs = (
        (whole_request(a, output_tokens), whole_request(b, output_tokens)),
        (a.output_tokens_per_s, b.output_tokens_per_s),
    )
    return all(abs(one - other) <= ALIKE * one for one, other in pairs)


def runner_up(ranked: Sequence[Estimate]) -> Estimate | None:
    """The best layout that cuts the model in another way than the first; where there is none, the
    second.
    """
    others = (one for one in ranked[1:] if cut_of(one) != cut_of(ranked[0]))
    return next(others, ranked[1] if len(ranked) > 1 else None)


def thrifty(ranked: Sequence[Estimate], *, share: float = 0.9) -> Estimate | None:
    """The layout of fewest devices that gives `share` of the first's tokens per second and takes no
    longer than 1/`share` a token, on at most half its devices.
    """
    best = ranked[0]
    enough = (
        one
        for one in ranked[1:]
        if one.devices_used * 2 <= best.devices_used
        and one.output_tokens_per_s >= share * best.output_tokens_per_s
        and one.tpot_s * share <= best.tpot_s
    )
    return min(enough, key=lambda one: one.devices_used, default=None)


def in_steps(parts: Mapping[Kind, float], step: float) -> dict[Kind, int]:
    """Seconds as whole numbers of `step` that add up to the sum as a whole number: rounded down,
    then up by one where most is missing.
    """
    counts: dict[Kind, int] = {kind: math.floor(seconds / step) for kind, seconds in parts.items()}
    missing = round(sum(parts.values()) / step) - sum(counts.values())
    rest = sorted(parts, key=lambda kind: counts[kind] - parts[kind] / step)
    for kind in rest[: max(0, missing)]:
        counts[kind] += 1
    return counts


def replica_of(layout: Layout) -> Layout:
    """The same layout with one replica; an EP that spans replicas shrinks with them."""
    return Layout(tp=layout.tp, pp=layout.pp, ep=math.gcd(layout.ep, layout.tp))
