"""Where a choice flips, in the units of whoever asked.

flip_rows(plan_file, ranking)   # [("at 28 users or more at once (now 2)", "dp2")]
"""

from wirecut.explain.words import counted, listed, numbers, wire_name
from wirecut.layout.plan import PlanFile
from wirecut.planner.flips import (
    DECADES,
    LEAST_PROMPT,
    LOAD_STEP,
    MOST_CONCURRENT,
    RATE_STEPS,
    AllReduce,
    Flip,
    is_endless,
)
from wirecut.planner.plan import Ranking
from wirecut.spec.traffic import LEAST, MOST
from wirecut.units import show_bytes, show_rate, show_seconds

# Words of typed fabrics that are no kinds of wire.
TYPED = {
    "nvlink-pairs": "NVLink pairs",
    "nvlink-mesh": "NVLink to each",
    "100gbe": "100 Gbit/s Ethernet",
    "ib-400x8": "InfiniBand of 8 x 400 Gbit/s",
}
ALIKE = 0.02  # relative; nearer than any prediction is right


def flip_rows(plan: PlanFile, ranking: Ranking) -> list[tuple[str, str]]:
    """(condition, layout that wins then) of each flip."""
    return [row for flip in ranking.flips if (row := _in_words(plan, ranking, flip))]


def nowhere(plan: PlanFile) -> str:
    """That nothing flips, and where that was searched: 'Nowhere from 1 to 4096 users ...'."""
    traffic, most = plan.traffic, 10**DECADES
    ranges = (
        [f"on wires from 1/{most} to {most} times as fast"] if len(plan.fabric.devices) > 1 else []
    )
    if is_endless(traffic):
        low, high = LOAD_STEP**-RATE_STEPS, LOAD_STEP**RATE_STEPS
        rates = (
            [max(LEAST, traffic.rate * low), min(MOST, traffic.rate * high)] if traffic.rate else []
        )
        users = max(MOST_CONCURRENT, traffic.concurrency or 1)
        ranges.append(
            f"from {rates[0]:.3g} to {rates[1]:.3g} requests/s"
            if rates
            else f"from 1 to {users} users at once"
        )
    least = min(LEAST_PROMPT, traffic.input_tokens)
    ranges.append(f"with prompts from {counted(least, 'token')} to the model's window")
    return f"Nowhere, one thing changed at a time: {listed(ranges)}."


def _in_words(plan: PlanFile, ranking: Ranking, flip: Flip) -> tuple[str, str] | None:
    chosen = ranking.chosen.layout
    match flip.what:
        case "wire speed":
            return _speed(flip)
        case "concurrency":
            now = plan.traffic.concurrency or 1
            more = "or more" if float(flip.threshold) > now else "or fewer"
            return f"at {float(flip.threshold):.0f} users {more} at once (now {now})", flip.to
        case "rate":
            return _beyond(flip, "requests/s", plan.traffic.rate or 0.0), flip.to
        case "input tokens":
            words = _beyond(flip, "tokens", plan.traffic.input_tokens)
            return f"with prompts {words}", flip.to
        case "wire":
            return f"over {wire_name(flip.wire or '')} only", _result(flip, chosen)
        case "wires inside":
            return f"with {_typed(flip)} in each host", _result(flip, chosen)
        case "wires between":
            return f"with {_typed(flip)} between hosts", _result(flip, chosen)


def _beyond(flip: Flip, unit: str, now: float) -> str:
    threshold = float(flip.threshold)
    side = "above" if threshold > now else "below"
    shown = f"{threshold:.0f}" if threshold >= 100 else f"{threshold:.3g}"
    return f"{side} {shown} {unit} (now {now:g})"


def _typed(flip: Flip) -> str:
    word = str(flip.threshold)
    return TYPED.get(word, wire_name(word))


def _result(flip: Flip, chosen: str) -> str:
    """'tp8, 2.3 times as good' or 'tp4 too, 12% worse'."""
    layout = f"{flip.to} {'too' if flip.to == chosen else 'instead'}"
    if flip.times is None or abs(flip.times - 1) < ALIKE:
        return layout
    if flip.times >= 2:
        return f"{layout}, {flip.times:.2g} times as good"
    return f"{layout}, {abs(flip.times - 1):.0%} {'better' if flip.times > 1 else 'worse'}"


def _speed(flip: Flip) -> tuple[str, str] | None:
    if flip.factor is None or flip.latency_s is None or flip.wire is None:
        return None
    times = f"{flip.factor:.3g}x" if flip.factor > 1 else f"1/{1 / flip.factor:.3g}"
    wires = f"wires {times} as fast" if flip.factor > 1 else f"wires at {times} of their speed"
    if flip.all_reduce is not None:
        return f"{_reduced(flip.all_reduce, flip.factor)} ({wires})", flip.to
    rates = f"{show_rate(float(flip.threshold))} and {show_seconds(flip.latency_s)}"
    side = "faster" if flip.factor > 1 else "slower"
    return f"on {side} wires than {rates} over {wire_name(flip.wire)} ({wires})", flip.to


def _reduced(reduce: AllReduce, factor: float) -> str:
    """'once all-reduce of 256 KiB among devices 0-3 exceeds 11.0 GB/s, now 1.90 GB/s'."""
    verb = "exceeds" if factor > 1 else "falls below"
    rates = f"{verb} {show_rate(reduce.threshold)}, now {show_rate(reduce.now)}"
    size = show_bytes(reduce.num_bytes)
    return f"once all-reduce of {size} among devices {numbers(reduce.devices)} {rates}"
