"""Whether an assumed number decided: the question again with assumed numbers at the ends of what
they may be.

    list(fragile_spots(field, pricing))     # [Fragile("wires", ("ethernet",), 0.625, "pp2")]
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from wirecut.cost.estimate import Candidate
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import HALF_WIDTH
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.link import LEAST_RATE
from wirecut.facts import fact
from wirecut.planner.field import Field
from wirecut.planner.search import outcomes

# An assumed number x lies within x / (1 + w) to x (1 + w), as `cost.terms.intervals` takes it.
ENDS = (1 / (1 + HALF_WIDTH["assumed"]), 1 + HALF_WIDTH["assumed"])


@fact
class Fragile:
    """Were the assumed `what` of these names (kinds of wire, or devices) `factor` times as fast,
    layout `to` would win.
    """

    what: Literal["wires", "devices"]
    names: tuple[str, ...]
    factor: float
    to: str


def fragile_spots(field: Field, pricing: Pricing) -> Iterator[Fragile]:
    """Each end of the interval of assumed numbers at which another of the best layouts wins."""
    fabric = pricing.fabric
    wires = (*fabric.links, *fabric.trunks)
    kinds = [wire.kind for wire in wires if wire.source == "assumed"]
    names = [device.name for device in fabric.devices if device.source == "assumed"]
    if kinds:
        yield from _ends(field, pricing, "wires", tuple(dict.fromkeys(kinds)))
    if names:
        yield from _ends(field, pricing, "devices", tuple(dict.fromkeys(names)))


def _ends(
    field: Field, pricing: Pricing, what: Literal["wires", "devices"], names: tuple[str, ...]
) -> Iterator[Fragile]:
    for factor in ENDS:
        if what == "wires":
            other = pricing.over(pricing.fabric.with_wires(speed=factor, source="assumed"))
        else:
            other = Pricing(
                pricing.spec,
                _faster_devices(pricing.fabric, factor),
                dtype=pricing.dtype,
                limits=pricing.limits,
                engine=pricing.engine,
            )
        layouts = dict.fromkeys(one.cut.layout for one in field.candidates.values())
        found = [one for layout in layouts for one in outcomes(other, layout, field.traffic)]
        works = [one for one in found if isinstance(one, Candidate)]
        if not works:
            continue
        winner = field.whole.among(works).winner(field.traffic)
        if winner.cut.layout != field.chosen.cut.layout:
            yield Fragile(what, names, factor, str(winner.cut.layout))


def _faster_devices(fabric: Fabric, factor: float) -> Fabric:
    devices = (
        replace(
            device,
            bytes_per_s=max(LEAST_RATE, device.bytes_per_s * factor),
            flops_per_s={
                name: max(LEAST_RATE, rate * factor) for name, rate in device.flops_per_s.items()
            },
        )
        if device.source == "assumed"
        else device
        for device in fabric.devices
    )
    return replace(fabric, devices=tuple(devices))
