"""From a question to the layouts that work and those that do not.

    found = search(pricing, traffic, Contest((), "latency"))
    found.candidates, found.rejected

Up to `space.MOST_LISTED` devices every layout is priced on every placement that `place` gives. On
more, first each tp at more and more stages, until PATIENCE deeper pipelines in a row are worse,
with the most replicas that have a user (for cost and a given rate, with one and with the square
root of the most too); then the best (tp, pp) at fewer replicas. In a closed loop a replica without
a user changes nothing, and one more replica makes none slower, so that fewer are only asked about
near the most; for cost and a given rate, where fewer may be enough, at every number of
`space.replica_ladder`.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from wirecut.cost.estimate import Candidate, consider
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Rejected
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.rules import why_not
from wirecut.planner.contest import Contest, Place
from wirecut.planner.cutting import cut_for
from wirecut.planner.place import Placement, place, placements
from wirecut.planner.sharing import shares_for
from wirecut.planner.space import (
    MOST_LISTED,
    Degrees,
    all_layouts,
    has_experts,
    replica_ladder,
)
from wirecut.spec.traffic import Traffic

MOST_REJECTED = 256  # that are told apart, on large fabrics
KEPT = 32  # candidates, on large fabrics
REFINED = 6  # (tp, pp) whose number of replicas is searched, on large fabrics
PATIENCE = 3


@fact
class Found:
    """Cuts that work, every placement that was tried among them, and layouts that do not."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]


def search(pricing: Pricing, traffic: Traffic, contest: Contest) -> Found:
    """Every layout that is worth asking about; `contest` orders them where they are too many."""
    if len(pricing.fabric.devices) > MOST_LISTED:
        return _search_large(pricing, traffic, contest)
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for layout in _listed(pricing, rejected):
        found = outcomes(pricing, layout, traffic)
        candidates += [one for one in found if isinstance(one, Candidate)]
        if all(isinstance(one, Rejected) for one in found):
            rejected += [one for one in found[:1] if isinstance(one, Rejected)]
    return Found(tuple(candidates), tuple(rejected))


def _listed(pricing: Pricing, rejected: list[Rejected]) -> Iterator[Layout]:
    """Every layout; of one that does not work without DP, no copies with it: the reason would only
    be repeated.
    """
    devices, experts = len(pricing.fabric.devices), has_experts(pricing.spec)
    for layout in all_layouts(devices, experts=experts):
        alone = str(replace(layout, dp=1, ep=1))
        if layout.dp > 1 and layout.ep == 1 and any(one.layout == alone for one in rejected):
            continue
        yield layout


def outcomes(pricing: Pricing, layout: Layout, traffic: Traffic) -> list[Candidate | Rejected]:
    """One layout on every placement worth trying, ranks alike and by their devices' speed, ready
    for timing; or why it does not work.
    """
    reason = why_not(pricing.spec, layout, len(pricing.fabric.devices), pricing.engine.rules)
    if reason is not None:
        return [Rejected(str(layout), reason)]
    return [
        _outcome(pricing, layout, one, traffic, shares)
        for one in placements(pricing.fabric, layout)
        for shares in dict.fromkeys(((), shares_for(pricing, layout, one)))
    ]


def outcome_of(pricing: Pricing, layout: Layout, traffic: Traffic) -> Candidate | Rejected:
    """One layout where it answers soonest; or why it does not work."""
    found = outcomes(pricing, layout, traffic)
    works = [one for one in found if isinstance(one, Candidate)]
    if len(works) < 2:
        return works[0] if works else found[0]
    return Contest(tuple(works), "latency").winner(traffic)


def _outcome(
    pricing: Pricing,
    layout: Layout,
    placement: Placement,
    traffic: Traffic,
    shares: tuple[int, ...] = (),
) -> Candidate | Rejected:
    cut = partial(
        cut_for,
        pricing,
        layout,
        placement,
        context=traffic.input_tokens + traffic.output_tokens / 2,
        sequences=traffic.requests_at_once,
        shares=shares,
    )
    found = consider(pricing, cut(), traffic)
    if isinstance(found, Candidate) or found.memory is None or layout.pp == 1:
        return found
    return consider(pricing, cut(slack=math.inf), traffic)


@fact
class _Kept:
    """The best layouts of a large search so far, reasons of those that do not work, and the longest
    placement by (tp, pp): fewer replicas stand where the first of more do.
    """

    places: dict[Layout, Place]
    rejected: dict[str, Rejected]
    placed: dict[tuple[int, int], Placement]

    def add(self, place: Place) -> None:
        self.places[place.candidate.cut.layout] = place
        if len(self.places) > 2 * KEPT:
            best = sorted(self.places.values(), key=_order)[:KEPT]
            self.places.clear()
            self.places.update((one.candidate.cut.layout, one) for one in best)

    def reject(self, one: Rejected) -> None:
        if len(self.rejected) < MOST_REJECTED:
            self.rejected.setdefault(one.reason, one)


def _order(place: Place) -> tuple[float, float, int]:
    return place.missed, place.score, place.candidate.cut.layout.world_size


def _search_large(pricing: Pricing, traffic: Traffic, contest: Contest) -> Found:
    degrees = Degrees.of(pricing.spec, pricing.engine.rules, pricing.fabric)
    kept = _Kept({}, {}, {})
    users = traffic.requests_at_once or len(pricing.fabric.devices)

    def best_of(tp: int, pp: int, replicas: list[int]) -> Place | None:
        found: list[Place] = []
        for layout in degrees.layouts(tp, pp, replicas):
            one = _priced(pricing, layout, traffic, kept)
            if isinstance(one, Rejected):
                kept.reject(one)
            else:
                found.append(contest.place(one, traffic))
                kept.add(found[-1])
        return min(found, key=_order, default=None)

    fewest_counts = contest.goal == "cost" or traffic.rate is not None
    best: dict[tuple[int, int], Place] = {}
    for tp in degrees.sizes:
        leading, worse = None, 0
        for pp in degrees.depths(tp):
            most = min(users, degrees.most_replicas(tp, pp))
            some = {1, round(most**0.5), most} if fewest_counts else {most}
            found = best_of(tp, pp, sorted(some))
            if found is None:
                continue
            best[tp, pp] = found
            if leading is None or _order(found) < leading:
                leading, worse = _order(found), 0
            elif (worse := worse + 1) == PATIENCE:
                break
    for tp, pp in sorted(best, key=lambda pair: _order(best[pair]))[:REFINED]:
        most = min(users, degrees.most_replicas(tp, pp))
        fewer = {most // 4, most // 2, most * 3 // 4} - {0, most}
        best_of(tp, pp, replica_ladder(most) if fewest_counts else sorted(fewer))
    ordered = sorted(kept.places.values(), key=_order)[:KEPT]
    return Found(tuple(one.candidate for one in ordered), tuple(kept.rejected.values()))


def _priced(
    pricing: Pricing, layout: Layout, traffic: Traffic, kept: _Kept
) -> Candidate | Rejected:
    """One layout of many devices; the best of its placements where devices are unequal."""
    fabric, key = pricing.fabric, (layout.tp, layout.pp)
    reason = why_not(pricing.spec, layout, len(fabric.devices), pricing.engine.rules)
    if reason is not None:
        return Rejected(str(layout), reason)
    if len({(d.name, d.bytes_per_s, d.memory_bytes) for d in fabric.devices}) > 1:
        return outcome_of(pricing, layout, traffic)
    if len(kept.placed.get(key, ())) < layout.world_size:
        kept.placed[key] = place(fabric, layout)
    placement = kept.placed[key][: layout.world_size]
    return _outcome(pricing, layout, placement, traffic)
