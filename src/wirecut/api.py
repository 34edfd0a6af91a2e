"""The Python interface: price one layout, or rank all of them. Thin; `wirecut.estimate` and
`wirecut.plan` lead here.

    ranking = wirecut.plan("examples/demo-model", traffic=wirecut.Traffic(concurrency=8))
    ranking.chosen.layout, ranking.chosen.tpot_s
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path

from wirecut.cost.engines import WIRECUT, engine_profile
from wirecut.cost.estimate import Candidate, check_traffic, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import PlanError, UsageError, WirecutError
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.find import find_fabric
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Limits, PlanFile
from wirecut.planner.plan import Ranking, outcome_of, plan_over
from wirecut.planner.plan_file import ranking_of, to_plan_file
from wirecut.planner.prices import EVERY, Prices, device_prices
from wirecut.spec.dtypes import in_dtype
from wirecut.spec.find import find_model
from wirecut.spec.held import as_held
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic

Model = str | PathLike[str] | ModelSpec
AFabric = Fabric | str | PathLike[str] | None


def estimate(
    model: Model,
    fabric: AFabric = None,
    *,
    layout: Layout | str,
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
    device: str | None = None,
    memory_share: float | None = None,
) -> Estimate | Rejected:
    """Price one layout of a model on a fabric (default: this machine's). Raises WirecutError for
    bad input.
    """
    cut = layout if isinstance(layout, Layout) else parse_layout(layout)
    pricing = pricing_of(
        model, fabric, engine=engine, dtype=dtype, device=device, memory_share=memory_share
    )
    asked = traffic or Traffic()
    check_traffic(pricing.spec, asked)
    outcome = outcome_of(pricing, cut, asked)
    return price(outcome, asked) if isinstance(outcome, Candidate) else outcome


def plan(
    model: Model,
    fabric: AFabric | Sequence[AFabric] = None,
    *,
    goal: str = "throughput",
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
    device: str | None = None,
    memory_share: float | None = None,
    prices: Prices | float | None = None,
) -> Ranking:
    """Rank every layout of a model on a fabric; of several fabrics, on the one that serves the goal
    best, with the best of the others in `elsewhere`.

    `prices` are per device and hour, by name of device or one for all; the goal "cost" needs them.
    Raises NothingFits when no layout works, WirecutError for bad input.
    """
    pricings = _pricings(
        model, fabric, engine=engine, dtype=dtype, device=device, memory_share=memory_share
    )
    return plan_over(pricings, traffic or Traffic(), goal=goal, prices=_prices(prices))[1]


def plan_file_of(
    model: str | PathLike[str],
    fabric: AFabric | Sequence[AFabric] = None,
    *,
    goal: str = "throughput",
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
    device: str | None = None,
    memory_share: float | None = None,
    prices: Prices | float | None = None,
) -> PlanFile:
    """The same decision as a file for every later command; the model's folder is written as
    absolute path.
    """
    pricings = _pricings(
        model, fabric, engine=engine, dtype=dtype, device=device, memory_share=memory_share
    )
    asked = traffic or Traffic()
    if asked.rate == math.inf:
        raise UsageError("a plan file holds a finite rate; rate=inf is for `wirecut.estimate`")
    folder = Path(model).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else str(model)
    pricing, ranking = plan_over(pricings, asked, goal=goal, prices=_prices(prices))
    return to_plan_file(ranking, pricing, traffic=asked, model=name)


def _pricings(
    model: Model,
    fabric: AFabric | Sequence[AFabric],
    *,
    engine: str,
    dtype: str | None,
    device: str | None,
    memory_share: float | None,
) -> list[Pricing]:
    """One a fabric; the model is read once."""
    fabrics: list[AFabric]
    if fabric is None or isinstance(fabric, str | PathLike | Fabric):
        fabrics = [fabric]
    else:
        fabrics = list(fabric)
    if not fabrics:
        raise UsageError("the list of fabrics is empty: give one, or None for this machine")
    ask = partial(pricing_of, engine=engine, dtype=dtype, device=device, memory_share=memory_share)
    first = ask(model, fabrics[0])
    return [first, *(ask(first.spec, one) for one in fabrics[1:])]


def _prices(prices: Prices | float | None) -> Prices | None:
    return {EVERY: float(prices)} if isinstance(prices, int | float) else prices


def report(plan_file: PlanFile) -> str:
    """A plan as one page of HTML that needs nothing outside itself. Its layouts are priced again
    for the map of what wins where. Raises PlanError when the plan is damaged.
    """
    from wirecut.explain.report import report as page
    from wirecut.planner.map import map_of

    try:
        pricing = _pricing_again(plan_file)
    except WirecutError as error:
        return page(plan_file, None, f"Not drawn: {error}.")
    ranking, prices = ranking_of(plan_file), plan_file.prices
    each = device_prices(plan_file.fabric, prices) if prices else ()
    winners = map_of(
        ranking.ranked, pricing, plan_file.traffic, goal=ranking.goal, device_prices=each
    )
    return page(plan_file, winners)


def reprice(plan_file: PlanFile, layout: Layout) -> Estimate | Rejected:
    """What a plan's question makes of a layout that is not in its ranking."""
    outcome = outcome_of(_pricing_again(plan_file), layout, plan_file.traffic)
    return price(outcome, plan_file.traffic) if isinstance(outcome, Candidate) else outcome


def _pricing_again(plan_file: PlanFile) -> Pricing:
    """What the plan was made with. Raises PlanError when the model is another one now."""
    pricing = pricing_of(
        plan_file.model,
        plan_file.fabric,
        engine=plan_file.engine,
        dtype=plan_file.stored,
        memory_share=plan_file.memory_share,
        limits=replace(plan_file.limits, kv_tokens=0),
    )
    planned = plan_file.cut().stages[-1][1]
    if planned != pricing.spec.num_layers:
        raise PlanError(
            f"{plan_file.model} has {pricing.spec.num_layers} layers, the plan cuts {planned}: "
            "plan again"
        )
    return pricing


def pricing_of(
    model: Model,
    fabric: AFabric,
    *,
    engine: str = "wirecut",
    dtype: str | None = None,
    device: str | None = None,
    memory_share: float | None = None,
    limits: Limits | None = None,
) -> Pricing:
    """What pricing needs, from what a person gives. `dtype` None is the checkpoint's own, as
    `spec.dtypes.in_dtype` takes it; `device` names the GPUs of a saved topology; `memory_share` is
    what the engine is told to take of a device's memory (None: its default).
    """
    profile = engine_profile(engine, memory_share)
    found = model if isinstance(model, ModelSpec) else find_model(str(model))[1]
    spec, activations = in_dtype(found, dtype)
    wires = fabric if isinstance(fabric, Fabric) else find_fabric(fabric, device)
    if profile.name == WIRECUT.name and found.weights.linear:
        on_cpus = all(one.kind != "gpu" for one in wires.devices)
        spec = as_held(spec, dtype=activations, on_cpus=on_cpus)
    return Pricing(spec, wires, dtype=activations, limits=limits, engine=profile)
