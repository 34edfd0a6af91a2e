"""Layouts that work, in the order of a goal. A contest can be held again under other traffic or on
faster wires.

    contest = Contest(candidates, "throughput")
    contest.winner(traffic).cut.layout

Knows no words.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from wirecut.cost.estimate import Candidate
from wirecut.errors import UsageError
from wirecut.facts import fact
from wirecut.planner.prices import per_million
from wirecut.spec.traffic import Traffic

TIE = 1e-9  # relative; closer scores are the same arithmetic in another order
KEEPS_UP = 0.999  # of the requests that come: an open load is carried, rounding apart


class Timed(Protocol):
    """What goals are told of a layout: the timing of a candidate, or an estimate."""

    @property
    def ttft_s(self) -> float: ...

    @property
    def tpot_s(self) -> float: ...

    @property
    def output_tokens_per_s(self) -> float: ...


def _token_seconds(one: Timed, output_tokens: int, price: float) -> float:
    """Seconds per output token of all requests together."""
    return 1 / one.output_tokens_per_s


def answer_seconds(one: Timed, output_tokens: int, price: float = 0.0) -> float:
    """Seconds from a request to the last token of its answer."""
    return one.ttft_s + (output_tokens - 1) * one.tpot_s


def _token_price(one: Timed, output_tokens: int, price: float) -> float:
    """Price of a million output tokens, of devices that cost `price` an hour."""
    return per_million(price, one.output_tokens_per_s)


GOALS: dict[str, Callable[[Timed, int, float], float]] = {  # lower is better
    "throughput": _token_seconds,
    "latency": answer_seconds,
    "cost": _token_price,
}


def check_goal(goal: str, *, priced: bool = False) -> None:
    """Raise UsageError for a goal that cannot be planned for."""
    if goal not in GOALS:
        raise UsageError(f"goal is {goal!r}, expected one of {', '.join(GOALS)}")
    if goal == "cost" and not priced:
        raise UsageError(
            "goal 'cost' needs prices of devices per hour, which wirecut does not know: give "
            "--price H100-SXM=2.5 for each kind of device, or --price 2.5 for all"
        )


@fact
class Miss:
    """A target that a layout misses: `value` against `target`, both in the target's own unit (ms,
    or requests/s of an open load that is not carried).
    """

    what: Literal["ttft_ms", "tpot_ms", "rate"]
    value: float
    target: float

    @property
    def by(self) -> float:
        """How far off, as a share of the target."""
        return abs(self.value / self.target - 1)


def misses(
    ttft_s: float, tpot_s: float, output_tokens_per_s: float, traffic: Traffic, *, goal: str
) -> tuple[Miss, ...]:
    """The targets of `traffic` that such a layout misses; for cost, the rate that comes is one."""
    found: list[Miss] = []
    if traffic.ttft_ms is not None and ttft_s * 1e3 > traffic.ttft_ms:
        found.append(Miss("ttft_ms", ttft_s * 1e3, traffic.ttft_ms))
    if traffic.tpot_ms is not None and tpot_s * 1e3 > traffic.tpot_ms:
        found.append(Miss("tpot_ms", tpot_s * 1e3, traffic.tpot_ms))
    rate, served = traffic.rate, output_tokens_per_s / traffic.output_tokens
    if goal == "cost" and rate is not None and served < KEEPS_UP * rate < float("inf"):
        found.append(Miss("rate", served, rate))
    return tuple(found)


@fact
class Place:
    """A candidate in a contest: how it did, lower being better on every line. `missed` is by how
    much of it the worst missed target is missed; `open_load`: requests come by a rate.
    """

    candidate: Candidate
    missed: float
    score: float
    answer_s: float
    open_load: bool = False

    @property
    def rest(self) -> tuple[object, ...]:
        """What decides between equal scores: fewer devices, then the faster answer, then the
        plainer layout. Of layouts that all carry an open load, the faster answer first: how few
        devices would do is what the goal "cost" asks.
        """
        layout = self.candidate.cut.layout
        plain = (layout.ep, layout.pp, layout.tp, layout.dp)
        if self.open_load:
            return self.answer_s, layout.world_size, plain
        return layout.world_size, self.answer_s, plain


@fact
class Contest:
    """Candidates that are compared for one goal. `device_prices`: of an hour of each device of the
    fabric, for the goal "cost".
    """

    candidates: tuple[Candidate, ...]
    goal: str
    device_prices: tuple[float, ...] = ()

    def places(self, traffic: Traffic, *, speed: float = 1.0) -> list[Place]:
        """The best placement of each layout, best layout first; those that miss a target come after
        those that meet all, the nearest first.
        """
        places = sorted(
            (self.place(candidate, traffic, speed) for candidate in self.candidates),
            key=lambda place: (place.missed, place.score),
        )
        ordered: list[Place] = []
        seen: set[object] = set()
        at = 0
        while at < len(places):
            tied = _tied(places, at)
            for place in sorted(places[at:tied], key=lambda place: place.rest):
                if place.candidate.cut.layout not in seen:
                    seen.add(place.candidate.cut.layout)
                    ordered.append(place)
            at = tied
        return ordered

    def order(self, traffic: Traffic, *, speed: float = 1.0) -> list[Candidate]:
        """The candidates of `places`."""
        return [place.candidate for place in self.places(traffic, speed=speed)]

    def winner(self, traffic: Traffic, *, speed: float = 1.0) -> Candidate:
        """The best candidate."""
        places = [self.place(candidate, traffic, speed) for candidate in self.candidates]
        best = min(places, key=lambda place: (place.missed, place.score))
        tied = [place for place in places if _equal(place, best)]
        return min(tied, key=lambda place: place.rest).candidate

    def place(self, candidate: Candidate, traffic: Traffic, speed: float = 1.0) -> Place:
        """How one candidate does."""
        timing = candidate.timing(traffic, speed=speed)
        rate = timing.output_tokens_per_s
        missed = misses(timing.ttft_s, timing.tpot_s, rate, traffic, goal=self.goal)
        price = (
            sum(self.device_prices[i] for i in candidate.cut.placement)
            if self.device_prices
            else 0.0
        )
        score = GOALS[self.goal](timing, traffic.output_tokens, price)
        answer_s = answer_seconds(timing, traffic.output_tokens)
        worst = max((miss.by for miss in missed), default=0.0)
        return Place(candidate, worst, score, answer_s, traffic.rate is not None)

    def among(self, candidates: Sequence[Candidate]) -> "Contest":
        """The same contest among fewer."""
        return Contest(tuple(candidates), self.goal, self.device_prices)


def _equal(one: Place, other: Place) -> bool:
    near = abs(one.missed - other.missed) <= TIE * max(1.0, one.missed)
    return near and abs(one.score - other.score) <= TIE * abs(other.score)


def _tied(places: Sequence[Place], at: int) -> int:
    """One past the last of the sorted places that is as good as place `at`."""
    end = at + 1
    while end < len(places) and _equal(places[end], places[at]):
        end += 1
    return end
