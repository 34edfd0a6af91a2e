"""Which device is which rank: the placements of a layout that are worth pricing.

    placements(fabric, Layout(tp=2, pp=2))[0]       # (0, 1, 2, 3)

TP groups go inside islands, stages of a replica into one island of islands, unequal devices the
fastest first. On a few devices every placement is tried that differs from the others in devices
or wires.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from wirecut.errors import FabricError
from wirecut.fabric.device import Device
from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout

FEW_DEVICES = 5  # up to here every placement is tried: at most 5! of one layout
ORDERED_DEVICES = 4  # up to here also in every order inside a TP group, where rings may differ
ALIKE = 0.05  # devices whose rates differ by less count as equal: probes scatter as much

Placement = tuple[int, ...]


def placements(fabric: Fabric, layout: Layout) -> list[Placement]:
    """Placements to price, the one by islands first.

    On at most FEW_DEVICES devices all that differ. On more: by islands, and the same within the
    fastest devices alone and within those with most memory, where devices are unequal.
    """
    if len(fabric.devices) <= FEW_DEVICES:
        return every_placement(fabric, layout)
    found = {place(fabric, layout): None}
    for devices in _better_devices(fabric, layout.world_size):
        found[place(fabric, layout, within=devices)] = None
    return list(found)


def _better_devices(fabric: Fabric, least: int) -> Iterator[frozenset[int]]:
    """Sets of at least so many devices that leave out only slower ones, or only smaller ones."""
    for steps in (_speeds(fabric), [(_step(d.memory_bytes), 0) for d in fabric.devices]):
        levels = sorted(set(steps), reverse=True)
        for level in levels[:-1]:
            found = frozenset(i for i, step in enumerate(steps) if step >= level)
            if len(found) >= least:
                yield found


def _speeds(fabric: Fabric) -> list[tuple[int, int]]:
    """Steps of ALIKE in memory bandwidth and in the highest rate, by device."""
    known: dict[tuple[float, float], tuple[int, int]] = {}
    found: list[tuple[int, int]] = []
    for device in fabric.devices:
        rates = device.bytes_per_s, max(device.flops_per_s.values(), default=1.0)
        if rates not in known:
            known[rates] = _step(rates[0]), _step(rates[1])
        found.append(known[rates])
    return found


def _step(rate: float) -> int:
    return round(math.log(rate) / ALIKE)


def every_placement(fabric: Fabric, layout: Layout) -> list[Placement]:
    """All placements that differ, the one by islands first; replicas in no order, nor the ranks of
    a TP group on more than ORDERED_DEVICES.
    """
    kinds: dict[object, int] = {}
    number = [kinds.setdefault(_facts(device), len(kinds)) for device in fabric.devices]
    size = layout.replica_size

    def key(placement: Placement) -> tuple[object, ...]:
        replicas = (placement[at : at + size] for at in range(0, len(placement), size))
        return tuple(sorted(_wiring(fabric, number, one) for one in replicas))

    ids = range(len(fabric.devices))
    found = {key(first := place(fabric, layout)): first}
    for one in _assignments(layout, tuple(ids)):
        found.setdefault(key(one), one)
    return list(found.values())


def _facts(device: Device) -> tuple[object, ...]:
    rates = tuple(device.flops_per_s.items())
    numbers = (device.memory_bytes, device.bytes_per_s, device.launch_s, rates)
    return (device.kind, device.name, numbers, device.points, device.attention, device.alone)


def _wiring(fabric: Fabric, number: Sequence[int], devices: Placement) -> tuple[object, ...]:
    """Kinds of devices and the wires between them, in order."""
    wires: list[tuple[object, ...]] = []
    for a, b in combinations(devices, 2):
        try:
            k = fabric.link(a, b)
            wires.append((k.kind, k.latency_s, k.bytes_per_s, k.path, k.spread))
        except FabricError:
            wires.append(())
    return (*(number[i] for i in devices), *wires)


def _assignments(layout: Layout, free: Placement) -> Iterator[Placement]:
    """Every choice of devices for the groups of every replica, each set of replicas once."""
    groups = permutations if len(free) <= ORDERED_DEVICES else combinations

    def stages(left: int, free: Placement) -> Iterator[Placement]:
        if left == 0:
            yield ()
            return
        for group in groups(free, layout.tp):
            rest = tuple(i for i in free if i not in group)
            for others in stages(left - 1, rest):
                yield (*group, *others)

    def replicas(left: int, free: Placement, least: int) -> Iterator[Placement]:
        if left == 0:
            yield ()
            return
        for one in stages(layout.pp, free):
            if min(one) > least:
                rest = tuple(i for i in free if i not in one)
                for others in replicas(left - 1, rest, min(one)):
                    yield (*one, *others)

    return replicas(layout.dp, free, -1)


def place(fabric: Fabric, layout: Layout, *, within: frozenset[int] | None = None) -> Placement:
    """The device of each rank, TP innermost, by islands; `within` so many of the devices.

    A TP group goes into the smallest island that has room for it, the stages of one replica into
    the smallest island of islands that has room for them all; devices of no island come last. Of
    islands of one size, and of devices of one island, the fastest come first. Fewer replicas stand
    where the first of more do.
    """
    pools = _pools(fabric, within)
    holders: dict[int, list[_Pool]] = {i: [] for i in pools[-1].members}
    for pool in pools:
        for device in pool.members:
            holders[device].append(pool)
    everywhere = _Choice(pools, pools[-1])
    racks = [
        _Choice(_inside(pool, holders), pool) for pool in pools if pool.nested and layout.pp > 1
    ]
    racks.reverse()
    placed: dict[int, None] = {}
    for _ in range(layout.dp):
        while racks and racks[-1].whole.free < layout.replica_size:
            racks.pop()  # devices never become free again
        choice = racks[-1] if racks else everywhere
        for _ in range(layout.pp):
            _take(choice.pool_for(layout.tp), layout.tp, placed, holders)
    return tuple(placed)


@dataclass(slots=True)
class _Pool:
    """Devices that a group may be put on, in order; `nested`: an island that holds islands."""

    queue: deque[int]
    members: frozenset[int]
    free: int
    nested: bool
    place: int


@dataclass(slots=True)
class _Choice:
    """Pools in the order in which they are filled, and what to fall back on."""

    pools: list[_Pool]
    whole: _Pool
    at: int = 0

    def pool_for(self, tp: int) -> _Pool:
        while self.at < len(self.pools) and self.pools[self.at].free < tp:
            self.at += 1
        return self.pools[self.at] if self.at < len(self.pools) else self.whole


def _inside(rack: _Pool, holders: dict[int, list[_Pool]]) -> list[_Pool]:
    """The pools of a rack in order, itself last."""
    found = {
        pool.place: pool for i in rack.queue for pool in holders[i] if pool.place <= rack.place
    }
    return [found[place] for place in sorted(found)]


def _take(pool: _Pool, tp: int, placed: dict[int, None], holders: dict[int, list[_Pool]]) -> None:
    for _ in range(tp):
        while pool.queue[0] in placed:
            pool.queue.popleft()
        device = pool.queue.popleft()
        placed[device] = None
        for holder in holders[device]:
            holder.free -= 1


def _pools(fabric: Fabric, within: frozenset[int] | None) -> list[_Pool]:
    """Every island, smallest first, each after those of its devices that no smaller one holds; last
    the devices of no island, and all devices, each island's together.
    """
    speed = {i: s for i, s in enumerate(_speeds(fabric)) if within is None or i in within}
    unequal = len(set(speed.values())) > 1

    def by_speed(devices: list[int]) -> list[int]:
        return sorted(devices, key=lambda i: speed[i], reverse=True) if unequal else devices

    islands = [[i for i in island if i in speed] for island in fabric.islands]
    islands = [by_speed(island) for island in islands if island]
    if unequal:
        islands.sort(key=lambda one: min(speed[i] for i in one), reverse=True)
    everyone = by_speed(list(speed))
    pools: list[_Pool] = []
    holder: dict[int, int] = {}  # the largest island so far that holds a device, as place in pools

    def add(devices: list[int], *, nested: bool) -> None:
        pools.append(_Pool(deque(devices), frozenset(devices), len(devices), nested, len(pools)))

    for island in (*sorted(islands, key=len), everyone):
        inner = sorted({holder[device] for device in island if device in holder})
        own = [device for device in island if device not in holder]
        if inner and own:
            add(own, nested=False)
        ordered = [device for place in inner for device in pools[place].queue]
        add(ordered + own, nested=bool(inner) and island is not everyone)
        holder |= dict.fromkeys(island, len(pools) - 1)
    return pools
