"""The algorithms of collectives over the wires of a group: what each starts with and what it moves.

    min(ways("all_reduce", wiring, 65536, NCCL), key=lambda way: way.seconds)

Every time is a start and one or more legs, bytes over a rate, so that it prints as it is computed.
"""

import math

from wirecut.cost.lanes import Lane, Wiring
from wirecut.cost.libraries import Library
from wirecut.fabric.fabric import Op
from wirecut.fabric.physics import ROOT_SHARE
from wirecut.facts import fact
from wirecut.units import show_bytes, show_rate, show_seconds

SWITCH_ADDS = 280e9  # bytes/s of a device: NVSwitch adds from NVLink 4 on


@fact
class Leg:
    """`bytes` that go over a lane at a rate."""

    bytes: float
    bytes_per_s: float
    kind: str

    @property
    def seconds(self) -> float:
        return self.bytes / self.bytes_per_s

    def __str__(self) -> str:
        return f"{show_bytes(self.bytes)} / {show_rate(self.bytes_per_s)} over {self.kind}"


@fact
class Way:
    """One algorithm in one protocol: a start and the legs, which run at once or one by one."""

    words: str
    start_s: float
    legs: tuple[Leg, ...]
    at_once: bool = False

    @property
    def seconds(self) -> float:
        legs = [leg.seconds for leg in self.legs]
        return self.start_s + (max(legs) if self.at_once else sum(legs))

    def __str__(self) -> str:
        legs = self.legs
        if self.at_once:
            legs = (max(legs, key=lambda leg: leg.seconds),)
        return f"{self.words}: {' + '.join([show_seconds(self.start_s), *map(str, legs)])}"


def ways(op: Op, wiring: Wiring, num_bytes: float, library: Library) -> list[Way]:
    """Every algorithm and protocol that the library has for these wires."""
    if wiring.across is not None:
        return _hierarchical(op, wiring, wiring.across, num_bytes, library)
    assert wiring.inside is not None
    found = _rings(op, wiring, wiring.inside, num_bytes, library)
    if op == "all_reduce":
        found += _in_switch(wiring.ranks, wiring.inside, num_bytes, library)
        found += _custom(wiring, wiring.inside, num_bytes, library)
    return found


def _steps(op: Op, ranks: int) -> int:
    """Messages one after another round a ring; all-to-all sends all of its own at once."""
    return {"all_reduce": 2 * (ranks - 1), "all_to_all": 1}.get(op, ranks - 1)


def _ring_bytes(op: Op, ranks: int, num_bytes: float) -> float:
    """What a rank sends round a ring (Patarasuk and Yuan 2009), or in an all-to-all."""
    return (2 if op == "all_reduce" else 1) * (ranks - 1) / ranks * num_bytes


def _rings(op: Op, wiring: Wiring, lane: Lane, num_bytes: float, library: Library) -> list[Way]:
    ranks, latency_s, rate = wiring.ranks, lane.latency_s, lane.bytes_per_s
    steps, volume = _steps(op, ranks), _ring_bytes(op, ranks, num_bytes)
    start_s = latency_s * (library.start * (1 - library.step) + steps * library.step)
    ll_rate, few = library.ll_share * rate, op == "all_to_all" or lane.kind in ROOT_SHARE
    if op == "all_to_all":
        ll_rate = min(ll_rate, (ranks - 1) * library.channel_bytes_per_s)
    filling_s = library.few_simple_s if few else library.simple_s
    simple_s = start_s + filling_s + steps * library.simple_step_s
    own = Leg(library.own_copies * num_bytes / ranks, wiring.memory_bytes_per_s, "memory")
    name = f"{'ring' if op != 'all_to_all' else 'all at once'}, {steps} step{'s' * (steps > 1)}"
    return [
        Way(f"{name}, LL", start_s, (Leg(volume, ll_rate, lane.kind), own)),
        Way(f"{name}, Simple", simple_s, (Leg(volume, rate, lane.kind), own)),
    ]


def _adds(lane: Lane, library: Library) -> bool:
    able = lane.kind == "nvswitch" and lane.bytes_per_s >= SWITCH_ADDS
    return able and "in-switch" in library.algorithms


def _in_switch(ranks: int, lane: Lane, num_bytes: float, library: Library) -> list[Way]:
    """The switch adds what all send and gives the sum to all (NVLink SHARP)."""
    if ranks < 3 or not _adds(lane, library):
        return []
    start_s = lane.latency_s + library.simple_s + library.in_switch_s
    leg = Leg(num_bytes, library.in_switch * lane.bytes_per_s, lane.kind)
    return [Way("added in the switch", start_s, (leg,))]


def _custom(wiring: Wiring, lane: Lane, num_bytes: float, library: Library) -> list[Way]:
    """One shot: each reads all others' buffers. Two: each adds one part, then all read the sums."""
    n, nvlink = wiring.ranks, lane.kind not in ROOT_SHARE and lane.direct
    fits = num_bytes <= library.most_bytes and (wiring.hosts == 1 or library.across_hosts)
    if not fits or not lane.direct or (library.nvlink_only and not nvlink):
        return []
    found: list[Way] = []
    barrier_s = library.barrier * lane.latency_s
    if "one-shot" in library.algorithms:
        leg = Leg((n - 1) * num_bytes, lane.bytes_per_s, lane.kind)
        found.append(Way("one shot", barrier_s, (leg,)))
    if "two-shot" in library.algorithms and n > 2:
        leg = Leg(2 * (n - 1) / n * num_bytes, lane.bytes_per_s, lane.kind)
        found.append(Way("two shots", 2 * barrier_s, (leg,)))
    return found


def _hierarchical(
    op: Op, wiring: Wiring, across: Lane, num_bytes: float, library: Library
) -> list[Way]:
    """Inside the boxes and between them at once, in chunks. Small all-reduces go up and down a tree
    of boxes (Sanders, Speck and Traeff 2009), large ones too where a switch adds inside the boxes;
    else round a ring of all ranks, which leaves every box by all its rails.
    """
    boxes, box_ranks, inside = wiring.boxes, wiring.box_ranks, wiring.inside
    kernel_s = min(library.kernel_s, across.latency_s / 2)
    steps_in = _steps(op, box_ranks) if inside is not None else 0
    hops, tree, ring = _between(op, wiring, across, num_bytes)
    hop_s = across.latency_s - kernel_s
    start_s = library.start * kernel_s + hops * hop_s
    low = [Leg(tree, across.bytes_per_s * library.net_ll_share, across.kind)]
    high = [Leg(ring, across.bytes_per_s, across.kind)]
    if inside is not None:
        start_s += steps_in * library.step * inside.latency_s
        own = _ring_bytes(op, box_ranks, num_bytes)
        low.append(Leg(own, inside.bytes_per_s * library.ll_share, inside.kind))
        high.append(Leg(own, inside.bytes_per_s, inside.kind))
        if op == "all_reduce" and _adds(inside, library):
            high[0] = Leg(tree, across.bytes_per_s, across.kind)
    name, simple_s = f"{boxes} boxes of {box_ranks}", library.net_simple * hop_s
    return [
        Way(f"{name}, LL", start_s, tuple(low), at_once=True),
        Way(f"{name}, Simple", start_s + simple_s, tuple(high), at_once=True),
    ]


def _between(op: Op, wiring: Wiring, across: Lane, num_bytes: float) -> tuple[float, float, float]:
    """Messages between boxes one after another; bytes that leave a box by a tree, and by a ring."""
    boxes, box_ranks, ranks = wiring.boxes, wiring.box_ranks, wiring.ranks
    if op == "all_reduce":
        tree = 2 * (boxes - 1) / boxes * num_bytes
        return 2 * math.ceil(math.log2(boxes)), tree, 2 * (ranks - 1) / ranks * num_bytes
    if op == "all_to_all":
        leaves = box_ranks * (ranks - box_ranks) / ranks * num_bytes
        return max(1.0, (boxes - 1) * box_ranks / across.rails), leaves, leaves
    leaves = (ranks - 1) / ranks * num_bytes
    # of n - 1 hops round the ring, a chunk that starts at a box's edge crosses every edge
    return boxes if box_ranks > 1 else boxes - 1, leaves, leaves
