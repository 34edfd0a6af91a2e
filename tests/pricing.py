"""Cuts priced for tests: on hand-made fabrics of cores, and on typed ones of GPUs."""

from functools import cache

from fabrics import fabric, model
from wirecut.cost.engines import Batching, EngineProfile, engine_profile
from wirecut.cost.estimate import Candidate, consider, estimate
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.terms import Estimate, Phase, Rejected
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.planner.cutting import cut_for
from wirecut.spec.bundled import find_bundled
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic

# A runtime that adds nothing to the arithmetic.
BARE = EngineProfile(name="bare", batching=Batching(block_tokens=1), message_bytes=0)
US = 1e-6


@cache
def bundled(name: str) -> ModelSpec:
    """A model of the bundled catalogue."""
    spec = find_bundled(name)
    assert spec is not None, name
    return spec


def first_cut(pricing: Pricing, layout: str, context: float = 100.0) -> Cut:
    """The layout on the first devices."""
    degrees = parse_layout(layout)
    return cut_for(pricing, degrees, tuple(range(degrees.world_size)), context=context)


def price(
    layout: str,
    traffic: Traffic,
    *,
    spec: ModelSpec | None = None,
    wires: Fabric | None = None,
    limits: Limits | None = None,
    engine: EngineProfile = BARE,
) -> Estimate | Rejected:
    """The price on equal cores, unless other wires are given."""
    pricing = Pricing(
        spec or model(), wires or fabric(8), dtype="bf16", limits=limits, engine=engine
    )
    return estimate(pricing, first_cut(pricing, layout), traffic)


def priced(layout: str, traffic: Traffic, **options: object) -> Estimate:
    """The same of a cut that must fit."""
    outcome = price(layout, traffic, **options)  # type: ignore[arg-type]
    assert isinstance(outcome, Estimate), outcome
    return outcome


@cache
def on_gpus(
    name: str, wires: str, engine: str = "vllm", dtype: str = "bf16", quantized: str = ""
) -> Pricing:
    """The question of a bundled model on a typed fabric."""
    spec = bundled(name).quantized(quantized) if quantized else bundled(name)
    return Pricing(spec, typed_fabric(wires), dtype=dtype, engine=engine_profile(engine))


def replica_of(pricing: Pricing, layout: str) -> Replica:
    """The layout on the first devices, ready to be priced."""
    return Replica(pricing, first_cut(pricing, layout))


def candidate_of(pricing: Pricing, layout: str, traffic: Traffic) -> Candidate:
    """The layout on the first devices, which must hold the traffic."""
    found = consider(pricing, first_cut(pricing, layout), traffic)
    assert isinstance(found, Candidate), found
    return found


def terms_of(estimate: Estimate, phase: Phase) -> dict[str, float]:
    """Seconds by name of term."""
    return {term.name: term.seconds for term in estimate.terms if term.phase == phase}


def seconds_of(estimate: Estimate, phase: Phase) -> float:
    """All terms of a phase together."""
    return sum(term.seconds for term in estimate.terms if term.phase == phase)
