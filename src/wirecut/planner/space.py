"""Every layout worth asking about, and where each would sit: placement on devices, layers to
stages.

    cut_for(pricing, Layout(tp=2, pp=2), context=576)

Knows no load: a cut is the same under every traffic and on wires of every speed, so that flips
compare like with like.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from wirecut.cost.replica import Pricing
from wirecut.fabric.fabric import Device, Fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.stages import Stages, cut_stages
from wirecut.units import DTYPE_BYTES


def all_layouts(num_devices: int) -> Iterator[Layout]:
    """Every tp x pp x dp of at most that many ranks, legal or not, fewest ranks first."""
    layouts = (
        Layout(tp=tp, pp=pp, dp=dp)
        for tp in range(1, num_devices + 1)
        for pp in range(1, num_devices // tp + 1)
        for dp in range(1, num_devices // (tp * pp) + 1)
    )
    return iter(sorted(layouts, key=lambda one: (one.world_size, one)))


def place(fabric: Fabric, layout: Layout) -> tuple[int, ...]:
    """The device of each rank: consecutive ids, TP innermost.

    A TP group goes into the smallest island that has room for it, the stages of one replica into
    the smallest island of islands that has room for them all; devices of no island come last.
    """
    pools = _pools(fabric)
    holders: dict[int, list[_Pool]] = {device.id: [] for device in fabric.devices}
    for pool in pools:
        for device in pool.members:
            holders[device].append(pool)
    racks = [
        (rack, [pool for pool in pools if pool.members <= rack.members])
        for rack in pools
        if rack.nested and layout.pp > 1
    ]
    placed: dict[int, None] = {}
    for _ in range(layout.dp):
        roomy = (both for both in racks if both[0].free >= layout.replica_size)
        whole, within = next(roomy, (pools[-1], pools))
        for _ in range(layout.pp):
            pool = next((one for one in within if one.free >= layout.tp), whole)
            while pool.queue and pool.queue[0] in placed:
                pool.queue.popleft()
            free = (device for device in pool.queue if device not in placed)
            for device in list(islice(free, layout.tp)):
                placed[device] = None
                for holder in holders[device]:
                    holder.free -= 1
    return tuple(placed)


@dataclass(slots=True)
class _Pool:
    """Devices that a group may be put on, in order; `nested`: an island that holds islands."""

    queue: deque[int]
    members: frozenset[int]
    free: int
    nested: bool


def _pools(fabric: Fabric) -> list[_Pool]:
    """Every island, smallest first, each after those of its devices that no smaller one holds; last
    the devices of no island, and all devices, each island's together.
    """
    everyone = tuple(device.id for device in fabric.devices)
    pools: list[_Pool] = []
    holder: dict[int, int] = {}  # the largest island so far that holds a device, as place in pools

    def add(devices: list[int], *, nested: bool) -> None:
        pools.append(_Pool(deque(devices), frozenset(devices), len(devices), nested))

    for island in (*sorted(fabric.islands, key=len), everyone):
        inner = sorted({holder[device] for device in island if device in holder})
        own = [device for device in island if device not in holder]
        if inner and own:
            add(own, nested=False)
        ordered = [device for place in inner for device in pools[place].queue]
        add(ordered + own, nested=bool(inner) and island is not everyone)
        holder |= dict.fromkeys(island, len(pools) - 1)
    return pools


def cut_for(pricing: Pricing, layout: Layout, *, context: float) -> Cut:
    """The layout with its placement and its stages. Layers are dealt by their time at one row,
    without wires.
    """
    placement = place(pricing.fabric, layout)
    device = pricing.fabric.devices[placement[0]]
    key = (layout.tp, layout.pp, device.id, context)
    if key not in pricing.stages:
        pricing.stages[key] = balanced_stages(pricing, layout, device, context=context)
    return Cut(layout, placement, pricing.stages[key])


def balanced_stages(pricing: Pricing, layout: Layout, device: Device, *, context: float) -> Stages:
    """Stages whose slowest is fastest in a decode step: layers weigh what they cost, so do step and
    LM head.
    """
    if layout.pp == 1:
        return ((0, pricing.spec.num_layers),)
    size, engine, rate = DTYPE_BYTES[pricing.dtype], pricing.engine, pricing.rate(device.id)
    sizes = pricing.sizes(layout.tp)[0]
    working_set = (sizes.linears[-1] + sizes.head) * size / layout.pp

    def seconds(elements: int) -> float:
        return rate.seconds(weight_bytes=elements * size, rows=1, working_set_bytes=working_set)

    def layer_seconds(layer: int) -> float:
        linears, kv, width = (
            sums[layer + 1] - sums[layer] for sums in (sizes.linears, sizes.kv, sizes.width)
        )
        cache = rate.kv_seconds(context * kv * size) + rate.attention_seconds(width, context)
        launches = engine.ops_per_layer + engine.ops_per_sequence_layer
        return seconds(linears) + cache + launches * device.launch_s

    return cut_stages(
        [layer_seconds(layer) for layer in range(pricing.spec.num_layers)],
        layout.pp,
        first_extra=(engine.step_ops - engine.stage_ops) * device.launch_s,  # over a later stage's
        last_extra=seconds(sizes.head) + engine.ops_per_sequence * device.launch_s,
    )
