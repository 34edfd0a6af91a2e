"""The decision: every layout priced, those that work ranked for a goal, the others with their
reasons, and the flips.

    ranking = plan(Pricing(spec, fabric, dtype="bf16"), traffic, goal="latency")
    ranking.chosen.layout, ranking.rejected, ranking.flips
    best = plan_over([pricing_8xh100, pricing_4xl40s], traffic, goal="cost", prices={"*": 2.0})
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import field, replace

from wirecut.cost.estimate import check_traffic, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import NothingFits, UsageError
from wirecut.facts import fact
from wirecut.layout.rules import allowed_tp
from wirecut.planner.contest import Contest, Place, check_goal
from wirecut.planner.doubt import Fragile, fragile_spots
from wirecut.planner.field import Field
from wirecut.planner.flips import Flip, load_flips, prompt_flips, speed_flips
from wirecut.planner.needs import Needs, needs_of
from wirecut.planner.other_wires import wire_flips
from wirecut.planner.prices import Prices, check_prices, device_prices, hourly, per_million
from wirecut.planner.search import outcome_of, search
from wirecut.spec.traffic import Traffic
from wirecut.units import show_bytes

__all__ = ["Elsewhere", "Ranking", "outcome_of", "plan", "plan_over"]

SHOWN_REASONS = 12  # of an error


@fact
class Elsewhere:
    """What came of another fabric of the same question: its best layout and that one's runner-up,
    or why nothing works there. Prices are 0 where none was given.
    """

    fabric: str
    chosen: Estimate | None = None
    runner_up: Estimate | None = None
    reason: str | None = None
    price_per_hour: float = 0.0
    price_per_million: float = 0.0


@fact
class Ranking:
    """Layouts that work, best first (`chosen` is the first), those that do not, and where the
    choice flips. `fragile`: where an assumed number decided. `prices` are the user's, per device
    and hour; `elsewhere` are the other fabrics that were asked about.
    """

    goal: str
    chosen: Estimate
    ranked: tuple[Estimate, ...]
    rejected: tuple[Rejected, ...]
    flips: tuple[Flip, ...]
    fragile: tuple[Fragile, ...] = ()
    prices: dict[str, float] = field(default_factory=dict[str, float])
    elsewhere: tuple[Elsewhere, ...] = ()


@fact
class _Held:
    """A contest that was held on one fabric."""

    pricing: Pricing
    contest: Contest
    places: tuple[Place, ...]
    rejected: tuple[Rejected, ...]


def plan(
    pricing: Pricing, traffic: Traffic, *, goal: str = "throughput", prices: Prices | None = None
) -> Ranking:
    """Rank every layout on the fabric's devices. Raises NothingFits when none works, UsageError for
    bad questions, as for the goal "cost" without `prices`.
    """
    return plan_over([pricing], traffic, goal=goal, prices=prices)[1]


def plan_over(
    pricings: Sequence[Pricing],
    traffic: Traffic,
    *,
    goal: str = "throughput",
    prices: Prices | None = None,
) -> tuple[Pricing, Ranking]:
    """The same over several fabrics: the one whose best layout is best, and its ranking. Raises
    NothingFits when nothing works on any.
    """
    if not pricings:
        raise UsageError("no fabric to plan for")
    known = check_prices(prices or {})
    check_goal(goal, priced=bool(known))
    for pricing in pricings:
        check_traffic(pricing.spec, traffic)
    held: list[_Held] = []
    failed: list[tuple[Pricing, NothingFits]] = []
    for pricing in pricings:
        try:
            held.append(_hold(pricing, traffic, goal, known))
        except NothingFits as error:
            failed.append((pricing, error))
    if not held:
        raise (
            failed[0][1] if len(failed) == 1 else NothingFits("\n".join(str(e) for _, e in failed))
        )
    best = min(held, key=lambda one: (one.places[0].missed, one.places[0].score))
    others = [_elsewhere(one, traffic, known) for one in held if one is not best]
    others += [Elsewhere(_name(pricing), reason=str(error)) for pricing, error in failed]
    return best.pricing, replace(_ranking(best, traffic), prices=known, elsewhere=tuple(others))


def _hold(pricing: Pricing, traffic: Traffic, goal: str, prices: dict[str, float]) -> _Held:
    each = device_prices(pricing.fabric, prices) if goal == "cost" else ()
    empty = Contest((), goal, each)
    found = search(pricing, traffic, empty)
    if not found.candidates:
        raise NothingFits(_nothing_fits(pricing, traffic, found.rejected))
    contest = empty.among(found.candidates)
    return _Held(pricing, contest, tuple(contest.places(traffic)), found.rejected)


def _ranking(held: _Held, traffic: Traffic) -> Ranking:
    pricing, contest = held.pricing, held.contest
    ranked = tuple(price(place.candidate, traffic) for place in held.places)
    near = Field.near(contest, traffic, [place.candidate for place in held.places])
    flips = (
        *speed_flips(near, pricing),
        *load_flips(near),
        *prompt_flips(near, pricing),
        *wire_flips(near, pricing),
    )
    fragile = tuple(fragile_spots(near, pricing))
    return Ranking(contest.goal, ranked[0], ranked, held.rejected, flips, fragile)


def _name(pricing: Pricing) -> str:
    return pricing.fabric.made.how.removeprefix("typed: ")


def _elsewhere(held: _Held, traffic: Traffic, prices: Prices) -> Elsewhere:
    ranked = [price(place.candidate, traffic) for place in held.places[:2]]
    chosen, each = ranked[0], 0.0
    if prices:
        each = hourly(held.pricing.fabric, chosen.placement, prices)
    return Elsewhere(
        _name(held.pricing),
        chosen,
        ranked[1] if len(ranked) > 1 else None,
        price_per_hour=each,
        price_per_million=per_million(each, chosen.output_tokens_per_s),
    )


def _nothing_fits(pricing: Pricing, traffic: Traffic, rejected: Sequence[Rejected]) -> str:
    """Each reason once, with the layouts it holds for, and what would do."""
    counts = Counter(one.reason for one in rejected)
    first = {reason: next(r.layout for r in rejected if r.reason == reason) for reason in counts}
    lines = [
        f"  {first[reason]}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
        for reason, count in list(counts.items())[:SHOWN_REASONS]
    ]
    if len(counts) > SHOWN_REASONS:
        lines.append(f"  and {len(counts) - SHOWN_REASONS} more reasons")
    spec, devices = pricing.spec, len(pricing.fabric.devices)
    head = f"no layout of {spec.name} works on {devices} device{'s' * (devices > 1)}:"
    return "\n".join([head, *lines, _what_would_do(pricing, needs_of(pricing, traffic))])


def _what_would_do(pricing: Pricing, needs: Needs) -> str:
    """What the model weighs, and what would hold it."""
    size, unit = (1e9, "GB") if needs.weights_bytes >= 1e9 else (1e6, "MB")
    weighs = f"{pricing.spec.name} has {needs.weights_bytes / size:.0f} {unit} of weights"
    ways: list[str] = []
    if needs.count:
        cut = f" ({needs.layout})" if needs.count > 1 else ""
        ways.append(f"{needs.count} x {needs.device}{cut}")
    if needs.alone:
        ways.append(f"one {needs.alone} of {show_bytes(needs.alone_bytes)}")
    if not ways:
        sizes = ", ".join(map(str, allowed_tp(pricing.spec, pricing.engine.rules)))
        many = f"no number of devices like {needs.device} would hold it"
        return f"{weighs}; {many} (tp sizes that work: {sizes})"
    return f"{weighs}; what would hold it: {', or '.join(ways)}"
