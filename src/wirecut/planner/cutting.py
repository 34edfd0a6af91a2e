"""Layers to stages: a layout on its devices becomes a cut.

    cut_for(pricing, Layout(tp=2, pp=2), (0, 1, 2, 3), context=576)

Knows no load but the mean context, so that flips compare like with like. Of the cuts whose slowest
stage is nearly the fastest there can be, the one that leaves most room for the cache. A stage's
time is what it streams in a decode step: weights and cache of its layers, the last one the head
too, at its own devices' speed; its memory is those, and the embedding in the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from wirecut.cost.replica import Pricing
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.shards import belongs_to, held_bytes, kv_elements_per_token
from wirecut.layout.stages import Room, Stages, cut_stages
from wirecut.spec.model import Layer
from wirecut.units import DTYPE_BYTES

USABLE = 0.85  # of a device's memory for weights and cache: the rest is the runtime's
SLACK = 0.04  # of the slowest stage's time, given up for room
DIGITS = 6  # weights of layers that agree so far are cut alike


def cut_for(
    pricing: Pricing,
    layout: Layout,
    placement: tuple[int, ...],
    *,
    context: float,
    slack: float = SLACK,
) -> Cut:
    """The layout with its placement and its stages. `slack`: how much slower than the fastest cut
    its slowest stage may be for the sake of room; infinite, room alone decides.
    """
    if layout.pp == 1:
        return Cut(layout, placement, ((0, pricing.spec.num_layers),))
    speeds, rooms = _devices(pricing, layout, placement)
    same = (layout.tp, layout.pp, layout.ep, layout.dp if layout.ep > 1 else 1)
    key = (same, speeds, rooms, context, slack)
    if key not in pricing.stages:
        pricing.stages[key] = _stages(pricing, layout, speeds, rooms, context, slack)
    return Cut(layout, placement, pricing.stages[key])


def _devices(
    pricing: Pricing, layout: Layout, placement: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """By stage, the least memory bandwidth and the least memory among its devices in all
    replicas.
    """
    devices, tp, size = pricing.fabric.devices, layout.tp, layout.replica_size
    kinds = {(devices[i].bytes_per_s, devices[i].memory_bytes) for i in placement}
    if len(kinds) == 1:
        bytes_per_s, memory_bytes = kinds.pop()
        return (bytes_per_s,) * layout.pp, (memory_bytes,) * layout.pp
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
    slack: float,
) -> Stages:
    spec, dtype, steps = pricing.spec, pricing.dtype, pricing.engine.steps
    launch_s, most = pricing.fabric.devices[0].launch_s, max(speeds)
    weights = {
        layer: held_bytes(spec.layer_tensors(layer), layout, dtype=dtype) for layer in spec.kinds
    }
    token = {
        layer: DTYPE_BYTES[dtype] * kv_elements_per_token(spec, (i, i + 1), tp=layout.tp, tp_rank=0)
        for layer, i in _first_of_each(spec.layers).items()
    }
    first, last = (_end_bytes(pricing, layout, is_last=is_last) for is_last in (False, True))
    free = USABLE * sum(rooms) - sum(weights[layer] for layer in spec.layers) - first - last
    tokens = max(0.0, free / max(1.0, sum(token[layer] for layer in spec.layers)))
    own_s = steps.ops_per_layer * launch_s
    seconds = [(weights[one] + context * token[one]) / most + own_s for one in spec.layers]
    held = [weights[one] + tokens * token[one] for one in spec.layers]
    return _cut(
        _relative(
            seconds,
            max(0.0, (steps.step_ops - steps.stage_ops) * launch_s),
            last / most + steps.ops_per_sequence * launch_s,
        ),
        _relative(held, first, last),
        tuple(speed / most for speed in speeds),
        tuple(room / max(rooms) for room in rooms),
        slack,
    )


def _end_bytes(pricing: Pricing, layout: Layout, *, is_last: bool) -> float:
    """What the first stage holds beside layers, or the last one."""
    spec = pricing.spec
    own = (
        tensor
        for tensor in spec.outside_tensors
        if belongs_to(tensor, spec, is_first=not is_last, is_last=is_last)
    )
    return held_bytes(own, layout, dtype=pricing.dtype)


@dataclass(frozen=True, slots=True)
class _Loads:
    """Weights of layers, what is added to the first stage and to the last, as shares of the
    heaviest layer.
    """

    layers: tuple[float, ...]
    first: float
    last: float

    def of(self, stages: Stages, speeds: Sequence[float]) -> float:
        """The heaviest stage."""
        extras = [self.first, *[0.0] * (len(stages) - 2), self.last]
        return max(
            (sum(self.layers[a:b]) + extra) / speed
            for (a, b), extra, speed in zip(stages, extras, speeds, strict=True)
        )


def _relative(layers: Sequence[float], first: float, last: float) -> _Loads:
    unit = max(layers)
    shares = tuple(round(one / unit, DIGITS) for one in layers)
    return _Loads(shares, round(first / unit, DIGITS), round(last / unit, DIGITS))


@lru_cache(maxsize=4096)
def _cut(
    times: _Loads, held: _Loads, speeds: tuple[float, ...], rooms: tuple[float, ...], slack: float
) -> Stages:
    """The cut that fills memory least, with no stage slower than the fastest cut's and `slack`."""
    pp = len(speeds)
    fastest = cut_stages(
        times.layers, pp, first_extra=times.first, last_extra=times.last, speeds=speeds
    )
    limit = times.of(fastest, speeds) * (1 + slack)
    free = [limit * speed for speed in speeds]
    free[0] -= times.first
    free[-1] -= times.last
    return cut_stages(
        held.layers,
        pp,
        first_extra=held.first,
        last_extra=held.last,
        speeds=rooms,
        room=Room(times.layers, free),
    )


def _first_of_each(layers: tuple[Layer, ...]) -> dict[Layer, int]:
    found: dict[Layer, int] = {}
    for i, layer in enumerate(layers):
        found.setdefault(layer, i)
    return found
