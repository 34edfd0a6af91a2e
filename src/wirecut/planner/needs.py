"""What would hold a model that nothing at hand holds: how many of the same device, or which one
alone.

    needs_of(pricing, traffic)      # Needs(weights_bytes=140e9, count=2, layout="tp2", ...)

Asks the same memory arithmetic as the search, on devices that are joined as the fabric's are.
"""

from dataclasses import replace

from wirecut.cost.estimate import Candidate, consider
from wirecut.cost.replica import Pricing
from wirecut.fabric.catalogue import DeviceSpec, all_devices
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.link import Trunk
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.rules import allowed_tp, most_stages
from wirecut.planner.cutting import cut_for
from wirecut.spec.traffic import Traffic

MOST_TP = 8  # of the counts that are proposed: what a box has
MOST_COUNT = 1024


@fact
class Needs:
    """`count` devices like the fabric's largest would do, cut as `layout`; 0: no number of them.
    `alone`: the smallest known device that holds the model by itself, with its bytes.
    """

    weights_bytes: int
    device: str
    count: int
    layout: str
    alone: str
    alone_bytes: int


def needs_of(pricing: Pricing, traffic: Traffic) -> Needs:
    """What would hold the model and one request."""
    largest = max(pricing.fabric.devices, key=lambda device: device.memory_bytes)
    count, layout = _how_many(pricing, traffic)
    alone = _alone(pricing, traffic)
    return Needs(
        weights_bytes=pricing.spec.weight_bytes(pricing.dtype),
        device=largest.name,
        count=count,
        layout=layout,
        alone=alone.name if alone else "",
        alone_bytes=alone.memory_bytes if alone else 0,
    )


def _how_many(pricing: Pricing, traffic: Traffic) -> tuple[int, str]:
    """The least number, doubled from 1 and then by the layouts between, and its layout."""
    spec = pricing.spec
    sizes = [tp for tp in allowed_tp(spec, pricing.engine.rules) if tp <= MOST_TP]
    deepest = most_stages(spec, pricing.engine.rules)
    shapes = sorted(
        ((tp, pp) for tp in sizes for pp in range(1, deepest + 1) if tp * pp <= MOST_COUNT),
        key=lambda shape: (shape[0] * shape[1], -shape[0]),
    )
    low, high = 0, len(shapes) - 1
    if not shapes or not _holds(pricing, traffic, *shapes[high]):
        return 0, ""
    while low < high:  # more devices hold more, nearly: the first that does is found near there
        middle = (low + high) // 2
        if _holds(pricing, traffic, *shapes[middle]):
            high = middle
        else:
            low = middle + 1
    near = range(max(0, high - len(sizes)), high + 1)
    tp, pp = next(shapes[i] for i in near if _holds(pricing, traffic, *shapes[i]))
    return tp * pp, str(Layout(tp=tp, pp=pp))


def _holds(pricing: Pricing, traffic: Traffic, tp: int, pp: int) -> bool:
    layout = Layout(tp=tp, pp=pp)
    other = _on(pricing, _many(pricing.fabric, layout.world_size))
    cut = cut_for(other, layout, tuple(range(layout.world_size)), context=traffic.input_tokens)
    return isinstance(consider(other, cut, traffic), Candidate)


def _on(pricing: Pricing, fabric: Fabric) -> Pricing:
    return Pricing(
        pricing.spec, fabric, dtype=pricing.dtype, limits=pricing.limits, engine=pricing.engine
    )


def _many(fabric: Fabric, count: int) -> Fabric:
    """So many of the largest device, each on a host of its own, joined by the fabric's usual
    wire.
    """
    largest = max(fabric.devices, key=lambda device: device.memory_bytes)
    devices = tuple(replace(largest, id=i, host=f"host{i}") for i in range(count))
    wires = (*fabric.trunks, *fabric.links)
    line = (wires[0].latency_s, wires[0].bytes_per_s) if wires else (1e-5, 1e10)
    trunk = Trunk("ib", *line, "assumed", shared=False)
    return Fabric(devices, (), (), fabric.made, trunks=(trunk,) if count > 1 else ())


def _alone(pricing: Pricing, traffic: Traffic) -> DeviceSpec | None:
    """The smallest known device that holds the model by itself; for GPUs."""
    if pricing.fabric.devices[0].kind != "gpu":
        return None
    for spec in sorted(all_devices().values(), key=lambda one: one.memory_bytes):
        one = replace(pricing.fabric.devices[0], id=0, memory_bytes=spec.memory_bytes)
        if spec.memory_bytes < pricing.spec.weight_bytes(pricing.dtype):
            continue
        other = _on(pricing, Fabric((one,), (), (), pricing.fabric.made))
        cut = cut_for(other, Layout(), (0,), context=traffic.input_tokens)
        if isinstance(consider(other, cut, traffic), Candidate):
            return spec
    return None
