"""The decision: every layout priced, those that work ranked for a goal, the others with their
reasons, and the flips.

    ranking = plan(Pricing(spec, fabric, dtype="bf16"), traffic, goal="latency")
    ranking.chosen.layout, ranking.rejected, ranking.flips
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from wirecut.cost.estimate import Candidate, check_traffic, consider, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import NothingFits
from wirecut.layout.layout import Layout
from wirecut.layout.rules import why_not
from wirecut.planner.contest import Contest, check_goal
from wirecut.planner.flips import Flip, concurrency_flips, other_wires, speed_flips
from wirecut.planner.space import all_layouts, cut_for
from wirecut.spec.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Ranking:
    """Layouts that work, best first (`chosen` is the first), those that do not, and where the
    choice flips.
    """

    goal: str
    chosen: Estimate
    ranked: tuple[Estimate, ...]
    rejected: tuple[Rejected, ...]
    flips: tuple[Flip, ...]


def plan(pricing: Pricing, traffic: Traffic, *, goal: str = "throughput") -> Ranking:
    """Rank every layout on the fabric's devices. Raises NothingFits when none works, UsageError for
    bad questions.
    """
    check_goal(goal)
    check_traffic(pricing.spec, traffic)
    outcomes = [outcome_of(pricing, layout, traffic) for layout in _layouts(pricing)]
    rejected = tuple(one for one in outcomes if isinstance(one, Rejected))
    candidates = tuple(one for one in outcomes if isinstance(one, Candidate))
    if not candidates:
        raise NothingFits(_nothing_fits(pricing, rejected))
    contest = Contest(candidates, goal)
    order = contest.order(traffic)
    ranked = tuple(price(candidate, traffic) for candidate in order)
    flips = (
        *speed_flips(contest, traffic, pricing.fabric),
        *concurrency_flips(contest, traffic),
        *_wire_flips(pricing, traffic, goal, order[0]),
    )
    return Ranking(goal, ranked[0], ranked, rejected, flips)


def outcome_of(pricing: Pricing, layout: Layout, traffic: Traffic) -> Candidate | Rejected:
    """One layout, placed and cut, ready for timing; or why it does not work."""
    reason = why_not(pricing.spec, layout, len(pricing.fabric.devices))
    if reason is not None:
        return Rejected(str(layout), reason)
    context = traffic.input_tokens + traffic.output_tokens / 2
    return consider(pricing, cut_for(pricing, layout, context=context), traffic)


def _layouts(pricing: Pricing) -> Iterator[Layout]:
    """Every layout; of one that is not legal without DP, no copies with it: the reason would only
    be repeated.
    """
    devices, illegal = len(pricing.fabric.devices), set[tuple[int, int]]()
    for layout in all_layouts(devices):
        if (layout.tp, layout.pp) in illegal:
            continue
        if why_not(pricing.spec, layout, devices) is not None:
            illegal.add((layout.tp, layout.pp))
        yield layout


def _wire_flips(pricing: Pricing, traffic: Traffic, goal: str, chosen: Candidate) -> Iterator[Flip]:
    """Which layout would win if only another kind of wire were used."""
    for kind in other_wires(pricing.fabric, chosen):
        other = pricing.over(pricing.fabric.only(kind))
        outcomes = (outcome_of(other, layout, traffic) for layout in _layouts(other))
        candidates = tuple(one for one in outcomes if isinstance(one, Candidate))
        if candidates:
            winner = Contest(candidates, goal).winner(traffic)
            yield Flip("wire", kind, "kind", str(winner.cut.layout), wire=kind)


def _nothing_fits(pricing: Pricing, rejected: tuple[Rejected, ...]) -> str:
    """Each reason once, with the layouts it holds for."""
    counts = Counter(one.reason for one in rejected)
    first = {reason: next(r.layout for r in rejected if r.reason == reason) for reason in counts}
    lines = [
        f"  {first[reason]}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
        for reason, count in counts.items()
    ]
    head = f"no layout of {pricing.spec.name} works on {len(pricing.fabric.devices)} devices:"
    return "\n".join([head, *lines])
