"""What a command is asked to run: a model, planned on the spot, or the cut of a plan file."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from wirecut.api import pricing_of
from wirecut.cost.estimate import Candidate, check_traffic
from wirecut.cost.replica import Pricing
from wirecut.errors import LayoutError, NothingFits, UsageError
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut, Limits, PlanFile, load_plan
from wirecut.layout.rules import why_not
from wirecut.planner.plan import outcome_of
from wirecut.planner.plan import plan as rank
from wirecut.spec.find import find_model
from wirecut.spec.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Source:
    """A model with the fabric to run it on, and the plan that it came from, if it came from one."""

    folder: Path
    pricing: Pricing
    plan: PlanFile | None


def find_source(name: str, *, fabric: str | None, dtype: str | None) -> Source:
    """`name` is a model folder, a Hugging Face id, or a plan.json. Raises UsageError."""
    path = Path(name)
    if path.suffix == ".json" or os.path.isfile(path):  # false for a name too long, and no error
        plan = load_plan(path)
        if fabric is not None:
            raise UsageError(
                "a plan has its fabric inside: leave out --fabric, or plan again with it"
            )
        folder, _ = find_model(plan.model)
        pricing = pricing_of(
            plan.model, plan.fabric, dtype=dtype or plan.stored, limits=plan.limits
        )
        return Source(folder, pricing, plan)
    folder, _ = find_model(name)
    return Source(folder, pricing_of(name, fabric, dtype=dtype), None)


def choose_cut(source: Source, layout: str | None, traffic: Traffic) -> Cut:
    """The cut to run: `layout` when given, else the plan's, else the fastest for `traffic`."""
    pricing = source.pricing
    if source.plan is not None:
        cut = source.plan.cut() if layout is None else source.plan.cut_of(layout)
        if cut.stages[-1][1] != pricing.spec.num_layers:
            raise UsageError(
                f"the plan cuts {cut.stages[-1][1]} layers, {source.folder} has "
                f"{pricing.spec.num_layers}: plan again"
            )
        return cut
    check_traffic(pricing.spec, traffic)
    if layout is None:
        return rank(pricing, traffic, goal="latency").chosen.cut
    wanted = parse_layout(layout)
    devices, rules = len(pricing.fabric.devices), pricing.engine.rules
    if reason := why_not(pricing.spec, wanted, devices, rules):
        on_cores = all(device.kind == "cpu-core" for device in pricing.fabric.devices)
        if wanted.world_size > devices and on_cores:
            reason += (
                f". Cores can be shared: `wirecut probe --ranks {wanted.world_size} --out "
                "shared.json` measures that, and --fabric shared.json runs it"
            )
        raise LayoutError(reason)
    outcome = outcome_of(pricing, wanted, traffic)
    if isinstance(outcome, Candidate):
        return outcome.cut
    raise NothingFits(f"{layout} does not fit: {outcome.reason}")


def limits_for(
    source: Source,
    prompt_tokens: list[int],
    new_tokens: int,
    *,
    max_batched_tokens: int | None,
    prefix_cache: bool,
) -> Limits:
    """The plan's limits, or KV room for exactly these prompts; rows a step as asked, which are
    never more than have KV room.
    """
    in_blocks = source.pricing.in_blocks
    needed = sum(in_blocks(tokens + new_tokens) for tokens in prompt_tokens)
    limits = replace(source.pricing.limits, prefix_cache=prefix_cache)
    if source.plan is None or limits.kv_tokens == 0:
        limits = replace(limits, kv_tokens=needed)
    if max_batched_tokens is not None:
        limits = replace(limits, max_batched_tokens=max_batched_tokens)
    return replace(limits, max_batched_tokens=min(limits.max_batched_tokens, limits.kv_tokens))
