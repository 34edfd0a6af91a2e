"""Where the time of one request goes, term by term: the common measure of two layouts.

Differences and shares of terms only; every number is a term's own.
"""

from dataclasses import dataclass

from wirecut.cost.terms import Estimate


@dataclass(frozen=True, slots=True)
class Line:
    """One term of a request in two layouts: seconds over the whole request, and how wide the
    difference is.
    """

    name: str
    ours: float
    theirs: float
    width: float

    @property
    def difference(self) -> float:
        """Seconds that the other layout takes longer."""
        return self.theirs - self.ours


def request_seconds(estimate: Estimate, output_tokens: int) -> dict[str, float]:
    """Seconds of one request by term: prefill once, decode once for each token after the first."""
    seconds: dict[str, float] = {}
    for term in estimate.terms:
        times = 1 if term.phase == "prefill" else output_tokens - 1
        seconds[term.name] = seconds.get(term.name, 0.0) + times * term.seconds
    return seconds


def biggest(estimate: Estimate, output_tokens: int) -> tuple[str, float]:
    """The term that takes most of a request, and its share."""
    seconds = request_seconds(estimate, output_tokens)
    name = max(seconds, key=lambda one: seconds[one])
    return name, seconds[name] / sum(seconds.values())


def compare(ours: Estimate, theirs: Estimate, output_tokens: int) -> list[Line]:
    """Both layouts term by term, the largest difference first."""
    mine, other = (request_seconds(one, output_tokens) for one in (ours, theirs))
    widths: dict[str, float] = {}
    for term in (*ours.terms, *theirs.terms):
        widths[term.name] = max(widths.get(term.name, 0.0), term.spread)
    lines = [
        Line(name, mine.get(name, 0.0), other.get(name, 0.0), widths[name])
        for name in dict.fromkeys((*mine, *other))
    ]
    return sorted(lines, key=lambda line: -abs(line.difference))


def doubt(lines: list[Line]) -> float:
    """Seconds by which a comparison may be wrong: what two layouts share is wrong in both alike and
    cancels.
    """
    return sum(abs(line.difference) * line.width for line in lines)
