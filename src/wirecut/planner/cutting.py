"""Layers to stages: a layout on its devices becomes a cut.

    cut_for(pricing, Layout(tp=2, pp=2), (0, 1, 2, 3), context=576)

Knows no load but the mean context, so that flips compare like with like. Stages weigh what they
stream in a decode step: layers by their weights and cache, the last one the head too; where devices
are unequal, each stage by its own devices' speed and memory.
"""

from functools import lru_cache

from wirecut.cost.replica import Pricing
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.shards import belongs_to, held_bytes, kv_elements_per_token
from wirecut.layout.stages import Room, Stages, cut_stages
from wirecut.spec.model import Layer
from wirecut.units import DTYPE_BYTES

USABLE = (
    0.85  # of a device's memory for weights, where devices are unequal: the rest is the runtime's
)
DIGITS = 6  # weights of layers that agree so far are cut alike


def cut_for(pricing: Pricing, layout: Layout, placement: tuple[int, ...], *, context: float) -> Cut:
    """The layout with its placement and its stages."""
    return Cut(layout, placement, stages_for(pricing, layout, placement, context=context))


def stages_for(
    pricing: Pricing, layout: Layout, placement: tuple[int, ...], *, context: float
) -> Stages:
    """Stages whose slowest is fastest in a decode step, on these devices."""
    if layout.pp == 1:
        return ((0, pricing.spec.num_layers),)
    speeds, rooms = _devices(pricing, layout, placement)
    key = (layout.tp, layout.pp, layout.ep, layout.dp if layout.ep > 1 else 1, speeds, rooms)
    if (key, context) not in pricing.stages:
        pricing.stages[key, context] = _stages(pricing, layout, speeds, rooms, context)
    return pricing.stages[key, context]


def _devices(
    pricing: Pricing, layout: Layout, placement: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """By stage, the least memory bandwidth and the least memory among its devices in all replicas;
    where all are alike, one of each.
    """
    devices, tp, size = pricing.fabric.devices, layout.tp, layout.replica_size
    kinds = {(devices[i].bytes_per_s, devices[i].memory_bytes) for i in placement}
    if len(kinds) == 1:
        bytes_per_s, _ = kinds.pop()
        return (bytes_per_s,), ()
    stages = [
        [
            devices[i]
            for at in range(stage * tp, len(placement), size)
            for i in placement[at : at + tp]
        ]
        for stage in range(layout.pp)
    ]
    return (
        tuple(min(d.bytes_per_s for d in stage) for stage in stages),
        tuple(min(d.memory_bytes for d in stage) for stage in stages),
    )


def _stages(
    pricing: Pricing,
    layout: Layout,
    speeds: tuple[float, ...],
    rooms: tuple[int, ...],
    context: float,
) -> Stages:
    spec, dtype, steps = pricing.spec, pricing.dtype, pricing.engine.steps
    launch_s = pricing.fabric.devices[0].launch_s
    weights = {
        layer: held_bytes(spec.layer_tensors(layer), layout, dtype=dtype) for layer in spec.kinds
    }
    cache = {
        layer: context
        * DTYPE_BYTES[dtype]
        * kv_elements_per_token(spec, (i, i + 1), tp=layout.tp, tp_rank=0)
        for layer, i in _first_of_each(spec.layers).items()
    }
    most = max(speeds)
    layer_s = [
        (weights[layer] + cache[layer]) / most + steps.ops_per_layer * launch_s
        for layer in spec.layers
    ]
    ends = {
        last: [
            t for t in spec.outside_tensors if belongs_to(t, spec, is_first=not last, is_last=last)
        ]
        for last in (False, True)
    }
    head = [t for t in ends[True] if t.part in ("head", "embed")]
    head_s = held_bytes(head, layout, dtype=dtype) / most + steps.ops_per_sequence * launch_s
    first_s = (steps.step_ops - steps.stage_ops) * launch_s
    room = None
    if rooms:
        free = [USABLE * room for room in rooms]
        free[0] -= held_bytes(ends[False], layout, dtype=dtype)
        free[-1] -= held_bytes(ends[True], layout, dtype=dtype)
        room = Room([weights[layer] for layer in spec.layers], free)
    unit = max(layer_s)
    shape = tuple(round(second / unit, DIGITS) for second in layer_s)
    extras = max(0.0, round(first_s / unit, DIGITS)), round(head_s / unit, DIGITS)
    if room is None:
        return _even_devices(shape, layout.pp, *extras)
    relative = [speed / most for speed in speeds]
    first, last = extras
    return cut_stages(
        shape, layout.pp, first_extra=first, last_extra=last, speeds=relative, room=room
    )


@lru_cache(maxsize=4096)
def _even_devices(shape: tuple[float, ...], pp: int, first: float, last: float) -> Stages:
    return cut_stages(shape, pp, first_extra=first, last_extra=last)


def _first_of_each(layers: tuple[Layer, ...]) -> dict[Layer, int]:
    found: dict[Layer, int] = {}
    for i, layer in enumerate(layers):
        found.setdefault(layer, i)
    return found
