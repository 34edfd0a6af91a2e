"""Layers to stages: a layout on its devices becomes a cut.

    cut_for(pricing, Layout(tp=2, pp=2), (0, 1, 2, 3), context=576, sequences=8)

Of the cuts whose slowest stage is nearly the fastest there can be, the one that leaves most room
for the cache. A stage's time is what it streams in a decode step at its own devices' speed, and its
launches: weights that the step's rows touch and the cache of its layers, the last one the head too;
its memory is all weights, the cache, and the embedding in the first.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

from wirecut.cost.attend import cache_bytes
from wirecut.cost.host import layer_host_s, shared_half_s
from wirecut.cost.kernels_experts import routed
from wirecut.cost.memory import RankSizes
from wirecut.cost.replica import Pricing
from wirecut.cost.work import LayerWork
from wirecut.fabric.device import Device
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.stages import Room, Stages, cut_stages

USABLE = 0.85  # of a device's memory for weights and cache: the rest is the runtime's
SLACK = 0.04  # of the slowest stage's time, given up for room
DIGITS = 6  # weights of layers that agree so far are cut alike


@fact
class _Slowest:
    """The slowest of the devices of one stage in all replicas, on every count. `half_s` is 0 where
    native code cannot sum over one of its TP groups.
    """

    bytes_per_s: float
    launch_s: float
    half_s: float
    memory_bytes: int

    @classmethod
    def of(cls, devices: Sequence[Device]) -> "_Slowest":
        return cls(
            min(device.bytes_per_s for device in devices),
            max(device.launch_s for device in devices),
            _slowest_half(devices),
            min(device.memory_bytes for device in devices),
        )


def _slowest_half(devices: Sequence[Device]) -> float:
    """0 where one of them goes operation by operation."""
    halves = [device.half_s for device in devices]
    return max(halves) if all(halves) else 0.0


def cut_for(
    pricing: Pricing,
    layout: Layout,
    placement: tuple[int, ...],
    *,
    context: float,
    sequences: int | None = 1,
    slack: float = SLACK,
    shares: tuple[int, ...] = (),
) -> Cut:
    """The layout with its placement and its stages, for `sequences` requests at once over all
    replicas (None: as many as there is room for) that have `context` tokens each, mean. `slack`:
    how much slower than the fastest cut its slowest stage may be for the sake of room; infinite,
    room alone decides. `shares` of the ranks of a TP group, as in `Cut`.
    """
    if layout.pp == 1:
        return Cut(layout, placement, ((0, pricing.spec.num_layers),), shares)
    on = _devices(pricing, layout, placement)
    most = pricing.limits.max_seqs
    wanted = most if sequences is None else min(most, -(-sequences // layout.dp))
    running = 1 << round(math.log2(wanted))  # so that loads nearly alike are cut alike
    same = (layout.tp, layout.pp, layout.ep, layout.dp if layout.ep > 1 else 1)
    key = (same, on, context, running, slack, shares)
    if key not in pricing.stages:
        sizes = pricing.sizes(layout, shares)
        pricing.stages[key] = _stages(pricing, layout, sizes, on, context, running, slack)
    return Cut(layout, placement, pricing.stages[key], shares)


def _devices(pricing: Pricing, layout: Layout, placement: tuple[int, ...]) -> tuple[_Slowest, ...]:
    """The slowest device of each stage."""
    fabric, tp, size = pricing.fabric, layout.tp, layout.replica_size
    stages = [
        [placement[at : at + tp] for at in range(stage * tp, len(placement), size)]
        for stage in range(layout.pp)
    ]
    found = _slowest(fabric.devices, placement, stages)
    return tuple(
        replace(one, half_s=min(shared_half_s(fabric, one.half_s, group) for group in groups))
        for one, groups in zip(found, stages, strict=True)
    )


def _slowest(
    devices: Sequence[Device],
    placement: tuple[int, ...],
    stages: Sequence[Sequence[tuple[int, ...]]],
) -> Sequence[_Slowest]:
    """On each stage, of whatever groups."""
    kinds = {
        (d.bytes_per_s, d.launch_s, d.half_s, d.memory_bytes)
        for d in map(devices.__getitem__, placement)
    }
    if len(kinds) == 1:
        return [_Slowest(*kinds.pop())] * len(stages)
    return [_Slowest.of([devices[i] for group in groups for i in group]) for groups in stages]


def _stages(
    pricing: Pricing,
    layout: Layout,
    sizes: Sequence[RankSizes],
    on: tuple[_Slowest, ...],
    context: float,
    running: int,
    slack: float,
) -> Stages:
    steps = pricing.engine.steps
    weights, request = _held(sizes, math.ceil(context))
    first, last = (
        max(one.weight_bytes((0, 0), is_first=is_first, is_last=not is_first) for one in sizes)
        for is_first in (True, False)
    )
    free = USABLE * sum(one.memory_bytes for one in on) - sum(weights) - first - last
    fit = max(0.0, free / max(1.0, sum(request)))
    rows = math.ceil(max(1.0, min(running, fit)) / layout.pp)
    streamed = _streamed(sizes, layout, rows, context)
    works, layer_s = sizes[0].works, partial(_layer_s, pricing, rows, layout.tp)
    each = [  # seconds of a mean layer
        sum(layer_s(*layer, one) for layer in zip(works, streamed, strict=True)) / len(works)
        for one in on
    ]
    fastest = on[each.index(min(each))]
    speeds = tuple(min(each) / one for one in each)
    besides = [steps.stage_ops * one.launch_s for one in on]  # seconds on the stage's own device
    besides[0] = max(steps.step_ops, steps.stage_ops) * on[0].launch_s
    head = max(one.head.weight_bytes for one in sizes)
    besides[-1] += head / on[-1].bytes_per_s + rows * steps.ops_per_sequence * on[-1].launch_s
    return _cut(
        _relative(
            [layer_s(work, one, fastest) for work, one in zip(works, streamed, strict=True)],
            [seconds * speed for seconds, speed in zip(besides, speeds, strict=True)],
        ),
        _relative(
            [w + fit * one for w, one in zip(weights, request, strict=True)],
            [first, *[0.0] * (layout.pp - 2), last],
        ),
        speeds,
        tuple(one.memory_bytes / max(other.memory_bytes for other in on) for one in on),
        slack,
    )


def _layer_s(
    pricing: Pricing, rows: int, ranks: int, work: LayerWork, streamed: float, on: _Slowest
) -> float:
    """Seconds of a layer that streams so many bytes for `rows` rows."""
    host_s = layer_host_s(
        pricing, work, rows=rows, ranks=ranks, half_s=on.half_s, launch_s=on.launch_s
    )
    return streamed / on.bytes_per_s + host_s


def _held(sizes: Sequence[RankSizes], tokens: int) -> tuple[list[float], list[float]]:
    """By layer, bytes of weights, and of cache of a request of `tokens`, on the rank with most."""
    firsts = sizes[0].spec.first_alike
    weights = {i: max(one.works[i].weight_bytes for one in sizes) for i in set(firsts)}
    request = {i: max(one.request_bytes((i, i + 1), tokens) for one in sizes) for i in weights}
    return [weights[i] for i in firsts], [request[i] for i in firsts]


def _streamed(sizes: Sequence[RankSizes], layout: Layout, rows: int, context: float) -> list[float]:
    """By layer, bytes that a decode step of `rows` sequences reads on the rank that reads most."""
    tokens = rows * (layout.dp if layout.ep > 1 else 1)  # EP: of all replicas

    def read(work: LayerWork, size: float) -> float:
        own = work.linear_bytes + cache_bytes(work, sequences=rows, context=context, size=size)
        if (experts := work.routed) is None:
            return own
        touched = routed(tokens, experts.here, experts.experts, experts.top_k).touched
        return own - experts.weight_bytes * (1 - touched / experts.here)

    firsts = sizes[0].spec.first_alike
    most = {i: max(read(one.works[i], one.kv_size) for one in sizes) for i in set(firsts)}
    return [most[i] for i in firsts]


@fact
class _Loads:
    """Weights of layers, and what each stage carries besides, as shares of the heaviest layer."""

    layers: tuple[float, ...]
    extras: tuple[float, ...]

    def of(self, stages: Stages, speeds: Sequence[float]) -> float:
        """The heaviest stage."""
        return max(
            (sum(self.layers[a:b]) + extra) / speed
            for (a, b), extra, speed in zip(stages, self.extras, speeds, strict=True)
        )


def _relative(layers: Sequence[float], extras: Sequence[float]) -> _Loads:
    unit = max(layers)
    shares, besides = (tuple(round(one / unit, DIGITS) for one in of) for of in (layers, extras))
    return _Loads(shares, besides)


@lru_cache(maxsize=4096)
def _cut(
    times: _Loads, held: _Loads, speeds: tuple[float, ...], rooms: tuple[float, ...], slack: float
) -> Stages:
    """The cut that fills memory least, with no stage slower than the fastest cut's and `slack`."""
    pp = len(speeds)
    fastest = cut_stages(times.layers, pp, extras=times.extras, speeds=speeds)
    limit = times.of(fastest, speeds) * (1 + slack)
    free = [limit * speed - extra for speed, extra in zip(speeds, times.extras, strict=True)]
    return cut_stages(
        held.layers, pp, extras=held.extras, speeds=rooms, room=Room(times.layers, free)
    )
