"""The few candidates that win anywhere near a question, and the nearest value at which another one
does.

    field = Field.near(contest, traffic, contest.order(traffic))
    field.nearest([1.0, 2.0, 4.0], lambda contest, factor: ..., within(0.01))

Every step asks only the few; what is found is checked against all, and who turns up there joins.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from wirecut.cost.estimate import Candidate
from wirecut.facts import fact
from wirecut.planner.contest import Contest
from wirecut.spec.traffic import Traffic

SAMPLED = (1e-3, 0.03, 0.3, 3.0, 30.0, 1e3)  # wire speeds at which the best is looked for
BEST = 3  # of the load that was asked for
ROUNDS = 3  # of looking again when a candidate turns up that was not among the best

Wins = Callable[[Contest, float], Candidate]
Near = Callable[[float, float], bool]


@fact
class Field:
    """A contest, who wins it under `traffic`, the candidates that are among the best near, and the
    best of each (tp, pp): what to ask first about other loads.
    """

    whole: Contest
    traffic: Traffic
    chosen: Candidate
    candidates: dict[int, Candidate]
    unlike: Contest

    @classmethod
    def near(cls, contest: Contest, traffic: Traffic, order: Sequence[Candidate]) -> "Field":
        """The best of this load on slow, these (`order`) and fast wires."""
        best, of_pair = order[:BEST], dict[tuple[int, int], Candidate]()
        for one in order:
            of_pair.setdefault((one.cut.layout.tp, one.cut.layout.pp), one)
        unlike = contest.among(tuple(of_pair.values()))
        field = cls(contest, traffic, best[0], {id(one): one for one in best}, unlike)
        field.join(contest.winner(traffic, speed=speed) for speed in SAMPLED)
        return field

    def join(self, candidates: Iterable[Candidate]) -> None:
        """These are among the best somewhere."""
        self.candidates.update((id(one), one) for one in candidates)

    @property
    def few(self) -> Contest:
        """The contest among them alone."""
        return self.whole.among(tuple(self.candidates.values()))

    def alone(self) -> "Field":
        """The same few, asked without the rest."""
        return Field(self.few, self.traffic, self.chosen, dict(self.candidates), self.few)

    def nearest(
        self, steps: Sequence[float], wins: Wins, near: Near
    ) -> tuple[float, Candidate] | None:
        """The first of the values away from here, `steps[0]`, at which another than the chosen
        wins, and who; bisected until two values are `near`.
        """
        found = self._nearest(steps, wins, near)
        for _ in range(ROUNDS):
            if found is None:
                return None
            winner = wins(self.whole, found[0])
            if winner.cut.layout == found[1].cut.layout:
                break
            self.join([winner])
            found = self._nearest(steps, wins, near)
        return found

    def _nearest(
        self, steps: Sequence[float], wins: Wins, near: Near
    ) -> tuple[float, Candidate] | None:
        few, inside, own = self.few, steps[0], self.chosen.cut.layout
        for outside in steps[1:]:
            winner = wins(few, outside)
            if winner.cut.layout == own:
                inside = outside
                continue
            while not near(inside, outside):
                middle = _between(inside, outside)
                found = wins(few, middle)
                if found.cut.layout == own:
                    inside = middle
                else:
                    outside, winner = middle, found
            return outside, winner
        return None


def _between(a: float, b: float) -> float:
    """The middle: of whole numbers the whole one, else the geometric."""
    if isinstance(a, int) and isinstance(b, int):
        return (a + b) // 2
    return math.sqrt(a * b)


def within(relative: float) -> Near:
    """Whether two values differ by no more than that share; whole numbers, by no more than one or
    that share.
    """

    def near(a: float, b: float) -> bool:
        if isinstance(a, int) and isinstance(b, int):
            return abs(a - b) <= max(1, int(relative * min(a, b)))
        return abs(math.log(a / b)) <= relative

    return near
