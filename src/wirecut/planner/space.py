"""Every layout worth asking about, and where each would sit: placement on devices, layers to
stages.

    cut_for(pricing, Layout(tp=2, pp=2), context=576)

Knows no load: a cut is the same under every traffic and on wires of every speed, so that flips
compare like with like.
"""

from collections.abc import Iterator

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
    """The device of each rank: consecutive ids, TP innermost, a TP group within one island where
    one has room.
    """
    listed = {device for island in fabric.islands for device in island}
    alone = tuple(device.id for device in fabric.devices if device.id not in listed)
    pools = [list(island) for island in (*fabric.islands, alone) if island]
    placement: list[int] = []
    for _ in range(layout.pp * layout.dp):
        pool = next((pool for pool in pools if len(pool) >= layout.tp), None)
        if pool is None:  # no island has room for a whole group: take what is left, in order
            pool = [device for pool in pools for device in pool]
            pools = [pool]
        placement += pool[: layout.tp]
        del pool[: layout.tp]
    return tuple(placement)


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
        first_extra=engine.step_ops * device.launch_s,
        last_extra=seconds(sizes.head) + engine.ops_per_sequence * device.launch_s,
    )
