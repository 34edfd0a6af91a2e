"""Two layouts against each other: what decided, by how much, and how sure that is.

    duel = Duel.of(plan_file, chosen, other)
    duel.sentence, duel.close

Every number is a difference of terms.
"""

from collections.abc import Sequence

from wirecut.cost.terms import Estimate
from wirecut.explain.budget import Line, compare, doubt, whole_request
from wirecut.explain.page import Block, Grid, Paragraph
from wirecut.explain.words import (
    counted,
    listed,
    load_in_words,
    missed_in_words,
    percent,
    targets_in_words,
    tokens_per_s,
)
from wirecut.facts import fact
from wirecut.layout.plan import PlanFile
from wirecut.planner.contest import GOALS, TIE, Miss, misses
from wirecut.planner.prices import hourly, per_million
from wirecut.units import show_seconds

SHOWN_TERMS = 2  # on each side of a sentence
SMALLEST = 0.02  # of the largest difference; less decided nothing
NOTHING = 0.01  # a margin that no run would show, however well the difference is known
SHOWN_LINES = 12  # of a table; the others are summed


GAINS = {
    "latency": ("gives", "less time per request"),
    "throughput": ("gives", "more tokens per second"),
    "cost": ("costs", "less per token"),
}


def score(plan: PlanFile, one: Estimate) -> float:
    """What the plan's goal makes small."""
    return GOALS[plan.goal](one, plan.traffic.output_tokens, _hourly(plan, one))


def token_price(plan: PlanFile, one: Estimate) -> float:
    """The price of a million output tokens."""
    return per_million(_hourly(plan, one), one.output_tokens_per_s)


def _hourly(plan: PlanFile, one: Estimate) -> float:
    return hourly(plan.fabric, one.placement, plan.prices) if plan.prices else 0.0


def has_targets(plan: PlanFile) -> bool:
    """Whether there is anything that a layout may miss: a latency, or for cost the rate."""
    return bool(targets_in_words(plan.traffic)) or (
        plan.goal == "cost" and plan.traffic.rate is not None
    )


def worst_miss(plan: PlanFile, one: Estimate) -> Miss | None:
    """The target that is missed by the largest share of it; None when all are met."""
    rate = one.output_tokens_per_s
    missed = misses(one.ttft_s, one.tpot_s, rate, plan.traffic, goal=plan.goal)
    return max(missed, key=lambda miss: miss.by, default=None)


@fact
class Duel:
    """`margin` is by how much ours is better for the goal (0.3: 30 per cent), `wide` how far that
    may be off; both None where something else than the goal's number decided. `doubt_s` is by how
    much the difference of two requests may be off.
    """

    ours: Estimate
    theirs: Estimate
    lines: tuple[Line, ...]
    verdict: str
    margin: float | None = None
    wide: float | None = None
    doubt_s: float = 0.0

    @property
    def told_by_time(self) -> bool:
        """Whether ours is ahead because its requests take less time: then their difference says how
        sure that is. Where more of them run at once, it says nothing.
        """
        return sum(line.difference for line in self.lines) > 0

    @classmethod
    def of(cls, plan: PlanFile, ours: Estimate, theirs: Estimate) -> "Duel":
        """Compare two estimates of one plan, `ours` being ranked before `theirs`."""
        outputs = plan.traffic.output_tokens
        lines = tuple(compare(ours, theirs, outputs))
        doubt_s = doubt(ours, theirs, outputs)
        missed = [worst_miss(plan, one) for one in (ours, theirs)]
        by = [0.0 if miss is None else miss.by for miss in missed]
        if abs(by[0] - by[1]) > TIE:
            verdict = f"{_met(plan, ours, missed[0])}, {_met(plan, theirs, missed[1])}"
            return cls(ours, theirs, lines, verdict, doubt_s=doubt_s)
        seconds = [whole_request(one, outputs) for one in (ours, theirs)]
        scores = [score(plan, one) for one in (ours, theirs)]
        if abs(scores[0] - scores[1]) <= TIE * scores[0]:
            verdict = _tie(plan, ours, theirs)
            return cls(ours, theirs, lines, verdict, doubt_s=doubt_s)
        more = plan.goal == "throughput"
        margin = scores[1] / scores[0] - 1 if more else 1 - scores[0] / scores[1]
        verb, gain = GAINS[plan.goal]
        verdict = f"{ours.layout} {verb} {percent(margin)} {gain} than {theirs.layout}"
        # As the margin: more per time of ours, or less of the time of theirs.
        wide = doubt_s / seconds[0 if more else 1]
        return cls(ours, theirs, lines, verdict, margin, wide, doubt_s)

    @property
    def close(self) -> bool:
        """Whether the difference is smaller than what is known of it."""
        if self.margin is None or self.wide is None:
            return False
        return self.margin <= max(self.wide, NOTHING)

    @property
    def sentence(self) -> str:
        """'tp2 gives 32% less time per request than dp2 (25% to 39%): it saves ...'."""
        if self.margin is None or self.wide is None:
            return f"{self.verdict}."
        low, high = self.margin - self.wide, self.margin + self.wide
        return f"{self.verdict} ({percent(low)} to {percent(high)}): {decided(self.lines)}."


def _met(plan: PlanFile, one: Estimate, miss: Miss | None) -> str:
    """'tp2 meets TPOT 9 ms' or 'tp1 is 41% over TPOT 9 ms'."""
    if miss is None:
        return f"{one.layout} meets {targets_in_words(plan.traffic) or load_in_words(plan.traffic)}"
    return f"{one.layout} {missed_in_words(miss)}"


def _tie(plan: PlanFile, ours: Estimate, theirs: Estimate) -> str:
    """What broke a tie: fewer devices, then the sooner answer, then the plainer layout; under an
    open load the sooner answer first.
    """
    seconds = [whole_request(one, plan.traffic.output_tokens) for one in (ours, theirs)]
    if plan.goal == "latency":
        same = f"Both answer in {show_seconds(seconds[0])}"
    else:
        same = f"Both give {tokens_per_s(ours.output_tokens_per_s)} tok/s"
    if ours.devices_used < theirs.devices_used and plan.traffic.rate is None:
        taken = f"takes {counted(ours.devices_used, 'device')}, not {theirs.devices_used}"
        return f"{same}; {ours.layout} {taken}"
    sooner = seconds[1] - seconds[0]
    what = f"answers {show_seconds(sooner)} sooner" if sooner > TIE * seconds[0] else "is plainer"
    return f"{same}; {ours.layout} {what}"


def decided(lines: Sequence[Line]) -> str:
    """'it saves 62.4 ms of weights, and pays 22.5 ms of all-reduce'."""
    least = SMALLEST * max(abs(line.difference) for line in lines)
    told = [line for line in lines if abs(line.difference) >= least > 0]
    saved = [line for line in told if line.difference > 0][:SHOWN_TERMS]
    paid = [line for line in told if line.difference < 0][:SHOWN_TERMS]
    parts: list[str] = []
    for verb, side in (("saves", saved), ("pays", paid)):
        if side:
            terms = [f"{show_seconds(abs(one.difference))} of {one.name}" for one in side]
            parts.append(f"{verb} {listed(terms)}")
    return "it " + ", and ".join(parts) if parts else "they take the same time"


def duel_blocks(duel: Duel, output_tokens: int) -> list[Block]:
    """Both term by term over one request, and how sure the difference is."""
    rows = [(one.name, *_triple(one.ours, one.theirs)) for one in told_lines(duel.lines)]
    rows.append(("one request", *_triple(*_sums(duel.lines))))
    grid = Grid(
        ("", f">{duel.ours.layout}", f">{duel.theirs.layout}", ">difference", ""),
        [(*row, "") for row in rows],
        frozenset({len(rows) - 1}),
    )
    blocks: list[Block] = [Paragraph(f"One request is TTFT + {output_tokens - 1} x TPOT:"), grid]
    return [*blocks, Paragraph(sure)] if (sure := sureness(duel)) else blocks


def told_lines(lines: Sequence[Line]) -> list[Line]:
    """The lines that matter, then one that sums the others."""
    least = SMALLEST * max((abs(line.difference) for line in lines), default=0.0)
    told = [line for line in lines if abs(line.difference) >= least > 0][:SHOWN_LINES]
    rest = [line for line in lines[len(told) :] if line.ours or line.theirs]
    if len(rest) < 2:
        return [*told, *rest]
    return [*told, Line(f"{len(rest)} other terms", *_sums(rest))]


def _sums(lines: Sequence[Line]) -> tuple[float, float]:
    return sum(line.ours for line in lines), sum(line.theirs for line in lines)


def sureness(duel: Duel) -> str:
    """'The 727 ms between them are known to 167 ms: the choice stands.'"""
    if duel.margin is None:
        return ""
    gap = abs(sum(line.difference for line in duel.lines))
    sure = "too close to call, so run both" if duel.close else "the choice stands"
    if not duel.told_by_time:
        ours = f"{duel.ours.layout} answers more at once"
        return f"Each request takes {show_seconds(gap)} longer and {ours}: {sure}."
    known = f"known to {show_seconds(duel.doubt_s)}"
    return f"The {show_seconds(gap)} between them are {known}: {sure}."


def _triple(ours: float, theirs: float) -> tuple[str, str, str]:
    difference = theirs - ours
    sign = "+" if difference > 0 else ""
    ours_text, theirs_text = (show_seconds(one) if one else "-" for one in (ours, theirs))
    return ours_text, theirs_text, sign + show_seconds(difference)
