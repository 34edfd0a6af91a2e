"""Where a choice flips, in the units of whoever asked.

flip_rows(plan_file, ranking)   # [("at 28 users or more at once (now 2)", "dp2")]
"""

from wirecut.explain.words import wire_name
from wirecut.layout.plan import PlanFile
from wirecut.planner.flips import Flip
from wirecut.planner.plan import Ranking
from wirecut.units import show_rate, show_seconds


def flip_rows(plan: PlanFile, ranking: Ranking) -> list[tuple[str, str]]:
    """(condition, layout that wins then) of each flip."""
    return [row for flip in ranking.flips if (row := _in_words(plan, ranking, flip))]


def _in_words(plan: PlanFile, ranking: Ranking, flip: Flip) -> tuple[str, str] | None:
    match flip.what:
        case "wire":
            if flip.wire is None:
                return None
            word = "too" if flip.to == ranking.chosen.layout else "instead"
            return f"over {wire_name(flip.wire)} only", f"{flip.to} {word}"
        case "concurrency":
            now = plan.traffic.concurrency or 1
            return f"at {_beyond(float(flip.threshold), now)} at once (now {now})", flip.to
        case "wire speed":
            return _speed(flip)


def _beyond(threshold: float, now: float) -> str:
    return f"{threshold:.0f} {'or more' if threshold > now else 'or fewer'}"


def _speed(flip: Flip) -> tuple[str, str] | None:
    if flip.factor is None or flip.latency_s is None or flip.wire is None:
        return None
    times = f"{flip.factor:.3g}x" if flip.factor > 1 else f"1/{1 / flip.factor:.3g}"
    side = "faster than" if flip.factor > 1 else "slower than"
    wire = f"{show_rate(float(flip.threshold))} and {show_seconds(flip.latency_s)}"
    return f"on wires {side} {times} of these ({wire_name(flip.wire)}: {wire})", flip.to
