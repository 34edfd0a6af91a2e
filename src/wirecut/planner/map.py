"""Which layout wins where: over the speed of the wires and over the load.

    winners = map_of(ranking.ranked, pricing, traffic, goal="latency")
    winners.cells[row][column]        # the layout at loads[row] and speeds[column]

Knows no words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

from wirecut.cost.estimate import Candidate, consider
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate
from wirecut.facts import fact
from wirecut.layout.plan import Cut
from wirecut.layout.rules import why_not
from wirecut.planner.contest import Contest
from wirecut.spec.traffic import LEAST, MOST, Traffic

MOST_CUTS, MOST_BEST = 24, 24  # candidates
MOST_VARIED = 8  # cuts that fewer replicas are asked of
SPEEDS = tuple(10 ** (step / 6) for step in range(-12, 13))  # a hundredth to a hundred times
CONCURRENCIES = tuple(float(2**power) for power in range(11))
RATES = tuple(2.0**power for power in range(-5, 6))  # times the rate that was asked for
SAMPLE = 2, 4  # every so manieth row and column says which candidates are worth timing everywhere
KEPT = 3  # best candidates of each sampled cell
BLOCK = 3  # rows and columns of a block that is filled when its corners agree


@fact
class WinnerMap:
    """The winning layout of each (load, wire speed), a row a load, smallest first.

    `speeds` are multiples of the wires as they are; `loads` are users at once or requests/s, as
    `by` says; `here` is (row, column) of the load that was asked for on the wires that there are.
    """

    speeds: tuple[float, ...]
    loads: tuple[float, ...]
    by: Literal["concurrency", "rate"]
    cells: tuple[tuple[str, ...], ...]
    here: tuple[int, int]


def map_of(
    ranked: Sequence[Estimate],
    pricing: Pricing,
    traffic: Traffic,
    *,
    goal: str,
    device_prices: tuple[float, ...] = (),
) -> WinnerMap | None:
    """The map of a ranking, among the best of each cut, the best cuts with fewer replicas, and the
    best of all.
    """
    first: dict[tuple[int, int, int], Estimate] = {}
    for estimate in ranked:
        layout = estimate.cut.layout
        first.setdefault((layout.tp, layout.pp, layout.ep), estimate)
    best = list(first.values())
    fewer = (cut for one in best[:MOST_VARIED] for cut in _with_fewer_replicas(one.cut, pricing))
    cuts = {cut.layout: cut for cut in fewer}
    cuts |= {one.cut.layout: one.cut for one in (*best[:MOST_CUTS], *ranked[:MOST_BEST])}
    outcomes = (consider(pricing, cut, traffic) for cut in cuts.values())
    candidates = tuple(one for one in outcomes if isinstance(one, Candidate))
    return winner_map(Contest(candidates, goal, device_prices), traffic) if candidates else None


def _with_fewer_replicas(cut: Cut, pricing: Pricing) -> Iterator[Cut]:
    """The first replicas of a cut alone: 1, 2, 4, ... of them, with experts dealt as widely as the
    layout deals them.
    """
    whole, devices = cut.layout, len(pricing.fabric.devices)
    dp = 1
    while dp < whole.dp:
        ep = whole.ep * dp // whole.dp if whole.ep == whole.dp * whole.tp else whole.ep
        if (dp * whole.tp) % max(ep, 1) == 0:
            layout = replace(whole, dp=dp, ep=max(ep, 1))
            if why_not(pricing.spec, layout, devices, pricing.engine.rules) is None:
                yield Cut(layout, cut.placement[: layout.world_size], cut.stages, cut.shares)
        dp *= 2


def winner_map(contest: Contest, traffic: Traffic) -> WinnerMap | None:
    """Hold the contest over wires and loads; None for loads that have no more or less of them.

    Candidates that are among the best in no sampled cell are left out, and a block of cells whose
    corners agree is not timed inside: a region smaller than a block may be missed.
    """
    if traffic.static_batch or traffic.num_requests is not None:
        return None
    loads = _loads(traffic)
    sampled = product(
        *(_sample(*both) for both in zip((len(loads), len(SPEEDS)), SAMPLE, strict=True))
    )
    kept: dict[int, Candidate] = {}
    for row, column in sampled:
        load = _with_load(traffic, loads[row])
        for candidate in contest.order(load, speed=SPEEDS[column])[:KEPT]:
            kept[id(candidate)] = candidate
    field = contest.among(tuple(kept.values()))
    winners: dict[tuple[int, int], Candidate] = {}

    def winner(row: int, column: int) -> Candidate:
        if (row, column) not in winners:
            load = _with_load(traffic, loads[row])
            winners[row, column] = field.winner(load, speed=SPEEDS[column])
        return winners[row, column]

    for top in range(0, len(loads) - 1, BLOCK):
        for left in range(0, len(SPEEDS) - 1, BLOCK):
            rows = range(top, min(top + BLOCK, len(loads) - 1) + 1)
            columns = range(left, min(left + BLOCK, len(SPEEDS) - 1) + 1)
            corners = {id(winner(row, column)) for row in _ends(rows) for column in _ends(columns)}
            for row in rows:
                for column in columns:
                    if len(corners) == 1:
                        winners.setdefault((row, column), winner(top, left))
                    winner(row, column)
    cells = tuple(
        tuple(str(winners[row, column].cut.layout) for column in range(len(SPEEDS)))
        for row in range(len(loads))
    )
    here = loads.index(_load_of(traffic)), SPEEDS.index(1.0)
    by = "concurrency" if traffic.rate is None else "rate"
    return WinnerMap(SPEEDS, loads, by, cells, here)


def _loads(traffic: Traffic) -> tuple[float, ...]:
    """Loads round the one asked for, which is one of them."""
    asked = _load_of(traffic)
    if traffic.rate is None:
        return tuple(sorted({*CONCURRENCIES, asked}))
    return tuple(rate for times in RATES if LEAST <= (rate := asked * times) <= MOST)


def _load_of(traffic: Traffic) -> float:
    return float(traffic.concurrency or 1) if traffic.rate is None else traffic.rate


def _with_load(traffic: Traffic, load: float) -> Traffic:
    if traffic.rate is None:
        return replace(traffic, concurrency=int(load))
    return replace(traffic, rate=load)


def _sample(count: int, step: int) -> list[int]:
    return sorted({*range(0, count, step), count - 1})


def _ends(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[-1]
