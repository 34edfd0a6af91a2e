"""Layouts that work, in the order of a goal. A contest can be held again under other traffic or on
faster wires.

    contest = Contest(candidates, "throughput")
    contest.winner(traffic).cut.layout

Knows no words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wirecut.cost.estimate import Candidate
from wirecut.cost.load import Timing
from wirecut.errors import UsageError
from wirecut.spec.traffic import Traffic

TIE = 1e-9  # relative; closer scores are the same arithmetic in another order


def _output_rate(timing: Timing, traffic: Traffic) -> float:
    """Output tokens per second, fewer being worse."""
    return -timing.output_tokens_per_s


def _answer_seconds(timing: Timing, traffic: Traffic) -> float:
    """Seconds from a request to the last token of its answer."""
    return timing.ttft_s + (traffic.output_tokens - 1) * timing.tpot_s


GOALS: dict[str, Callable[[Timing, Traffic], float]] = {  # lower is better
    "throughput": _output_rate,
    "latency": _answer_seconds,
}


def check_goal(goal: str) -> None:
    """Raise UsageError for a goal that cannot be planned for."""
    if goal == "cost":
        raise UsageError("goal 'cost' needs prices of devices, which wirecut does not know yet")
    if goal not in GOALS:
        raise UsageError(f"goal is {goal!r}, expected one of {', '.join(GOALS)}")


@dataclass(frozen=True, slots=True)
class Place:
    """A candidate in a contest: how it did, lower being better on every line."""

    candidate: Candidate
    missed_targets: int
    score: float
    answer_s: float

    @property
    def rest(self) -> tuple[object, ...]:
        """What decides between equal scores: fewer devices, then the faster answer, then the
        plainer layout.
        """
        layout = self.candidate.cut.layout
        return layout.world_size, self.answer_s, (layout.pp, layout.tp, layout.dp)


@dataclass(frozen=True, slots=True)
class Contest:
    """Candidates that are compared for one goal."""

    candidates: tuple[Candidate, ...]
    goal: str

    def order(self, traffic: Traffic, *, speed: float = 1.0) -> list[Candidate]:
        """Candidates, best first; those that miss a latency target come after those that meet
        all.
        """
        places = sorted(
            (self._place(candidate, traffic, speed) for candidate in self.candidates),
            key=lambda place: (place.missed_targets, place.score),
        )
        ordered: list[Place] = []
        while places:
            tied = _tied_with_first(places)
            ordered += sorted(places[:tied], key=lambda place: place.rest)
            del places[:tied]
        return [place.candidate for place in ordered]

    def winner(self, traffic: Traffic, *, speed: float = 1.0) -> Candidate:
        """The best candidate."""
        return self.order(traffic, speed=speed)[0]

    def _place(self, candidate: Candidate, traffic: Traffic, speed: float) -> Place:
        timing = candidate.timing(traffic, speed=speed)
        met = meets_targets(timing.ttft_s, timing.tpot_s, traffic)
        score = GOALS[self.goal](timing, traffic)
        return Place(candidate, int(not met), score, _answer_seconds(timing, traffic))


def meets_targets(ttft_s: float, tpot_s: float, traffic: Traffic) -> bool:
    """Whether both latencies are within the traffic's targets, where it has any."""
    targets = ((ttft_s, traffic.ttft_ms), (tpot_s, traffic.tpot_ms))
    return all(limit is None or seconds * 1e3 <= limit for seconds, limit in targets)


def _tied_with_first(places: Sequence[Place]) -> int:
    """How many of the sorted places are as good as the first."""
    first = places[0]
    for i, place in enumerate(places):
        apart = abs(place.score - first.score) > TIE * abs(first.score)
        if apart or place.missed_targets != first.missed_targets:
            return i
    return len(places)
