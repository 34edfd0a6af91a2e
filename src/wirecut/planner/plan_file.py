"""A ranking as the file that every later command reads, and back.

    plan_file = to_plan_file(ranking, pricing, traffic=traffic, model="/models/demo")
    ranking_of(plan_file) == ranking

Knows no words: `explain` reads what this writes.
"""

import math
from dataclasses import replace
from typing import Any

import msgspec

from wirecut.cost.engines import WIRECUT, engine_profile
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import PlanError, UsageError
from wirecut.layout.plan import FORMAT, Limits, PlanFile
from wirecut.planner.contest import check_goal
from wirecut.planner.doubt import Fragile
from wirecut.planner.flips import Flip
from wirecut.planner.plan import Elsewhere, Ranking
from wirecut.planner.prices import check_prices
from wirecut.spec.runnable import why_not_run
from wirecut.spec.traffic import Traffic
from wirecut.version import __version__


def to_plan_file(ranking: Ranking, pricing: Pricing, *, traffic: Traffic, model: str) -> PlanFile:
    """The plan file of a ranking; `model` is a folder's absolute path or a Hugging Face id."""
    return PlanFile(
        format=FORMAT,
        version=__version__,
        model=model,
        dtype=pricing.dtype,
        weights=pricing.spec.weights.linear,
        goal=ranking.goal,
        engine=pricing.engine.name,
        memory_share=pricing.engine.room.share,
        traffic=traffic,
        limits=runtime_limits(ranking.chosen, pricing, traffic),
        fabric=pricing.fabric,
        chosen=to_json(ranking.chosen),
        ranking=[to_json(one) for one in ranking.ranked],
        rejected=[to_json(one) for one in ranking.rejected],
        flips=[to_json(one) for one in ranking.flips],
        fragile=[to_json(one) for one in ranking.fragile],
        not_run=(why_not_run(pricing.spec) or "") if pricing.engine.name == WIRECUT.name else "",
        prices=ranking.prices,
        elsewhere=[to_json(one) for one in ranking.elsewhere],
    )


def ranking_of(plan_file: PlanFile) -> Ranking:
    """The ranking in a plan file. Raises PlanError when a part of it is damaged."""
    _check_question(plan_file)
    try:
        ranked = msgspec.convert(plan_file.ranking, tuple[Estimate, ...])
        chosen = msgspec.convert(plan_file.chosen, Estimate)
        rejected = msgspec.convert(plan_file.rejected, tuple[Rejected, ...])
        flips = msgspec.convert(plan_file.flips, tuple[Flip, ...])
        fragile = msgspec.convert(plan_file.fragile, tuple[Fragile, ...])
        elsewhere = msgspec.convert(plan_file.elsewhere, tuple[Elsewhere, ...])
        for estimate in (chosen, *ranked):
            _check(estimate, len(plan_file.fabric.devices))
        if not all(flip.factor is None or flip.factor > 0 for flip in flips):
            raise ValueError("a flip's factor is not positive")
    except (msgspec.ValidationError, ValueError) as error:
        raise PlanError(
            f"the plan's estimates are damaged: {error}. Make it again with `wirecut plan`"
        ) from error
    if not ranked or ranked[0].layout != chosen.layout:
        raise PlanError(f"the plan chooses {chosen.layout}, which does not lead its ranking")
    return Ranking(
        plan_file.goal, chosen, ranked, rejected, flips, fragile, plan_file.prices, elsewhere
    )


def _check_question(plan_file: PlanFile) -> None:
    """Raise PlanError for a goal, an engine, its share or prices that nothing is planned for."""
    try:
        check_goal(plan_file.goal, priced=bool(plan_file.prices))
        engine_profile(plan_file.engine, plan_file.memory_share)
        check_prices(plan_file.prices)
    except UsageError as error:
        raise PlanError(
            f"the plan's question is damaged: {error}. Make it again with `wirecut plan`"
        ) from error


def _check(estimate: Estimate, num_devices: int) -> None:
    """Raise ValueError for an estimate that no pricing makes."""
    placement, memory = estimate.cut.placement, estimate.memory
    if not all(0 <= device < num_devices for device in placement):
        raise ValueError(f"{estimate.layout} is placed on devices that the fabric does not have")
    if not 0 <= memory.rank < len(placement) or memory.capacity_bytes <= 0:
        raise ValueError(f"{estimate.layout} has the memory of no rank: {memory}")
    rates = estimate.ttft_s, estimate.tpot_s, estimate.output_tokens_per_s
    if not all(0 < rate < math.inf for rate in rates) or not estimate.terms:
        raise ValueError(f"{estimate.layout} is not priced: {rates}, {len(estimate.terms)} terms")
    if missing := {"ttft_s", "tpot_s", "output_tokens_per_s"} - estimate.interval.keys():
        raise ValueError(f"{estimate.layout} has no interval of {', '.join(sorted(missing))}")


def to_json(value: object) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return msgspec.to_builtins(value)


def runtime_limits(chosen: Estimate, pricing: Pricing, traffic: Traffic) -> Limits:
    """The limits with KV room: what the running requests need or one longest request, within what
    there is.
    """
    request = pricing.in_blocks(traffic.input_tokens + traffic.output_tokens)
    longest = pricing.in_blocks(pricing.spec.max_positions)
    room = min(chosen.memory.kv_tokens, max(chosen.running * request, longest))
    return replace(pricing.limits, kv_tokens=min(room, 10**9))
