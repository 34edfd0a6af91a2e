"""How long one collective takes, and why: measured where it was, else from the wires' physics.

    price = collective_price(fabric, "all_reduce", (0, 1, 2, 3), 65536)
    price.seconds, price.because     # 'ring, LL, 6 steps: 14.0 us + 212 KiB / 115 GB/s over ...'

Knows no model and no layout.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wirecut.cost.lanes import Lane, Wiring, users, wiring_of
from wirecut.cost.libraries import NCCL, Library, library_of
from wirecut.cost.terms import half_width
from wirecut.fabric.fabric import Curve, Fabric, Link, Op, Source
from wirecut.fabric.physics import ROOT_SHARE
from wirecut.units import show_bytes, show_rate, show_seconds

CPU_WIRES = {"shm": "shm", "tcp": "gloo"}  # wires between processes on cores, and what moves there
SWITCH_ADDS = 280e9  # bytes/s of a device: NVSwitch adds from NVLink 4 on


@dataclass(frozen=True, slots=True)
class Price:
    """How long one call takes, and why."""

    seconds: float
    because: str
    source: Source
    spread: float


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


def collective_price(
    fabric: Fabric,
    op: Op,
    group: Sequence[int],
    num_bytes: float,
    *,
    at_once: int = 1,
    library: str | Library | None = None,
) -> Price:
    """One `op` of `num_bytes` among the devices of `group`: the measured curve of such a group,
    else one of another size scaled by what physics says of both, else physics alone.

    `num_bytes` is the buffer of one rank; of all-gather and reduce-scatter the whole one. `at_once`
    groups like this one do it together. `library` None: NCCL, or what moves bytes between cores.
    Raises FabricError when devices that must talk have no link.
    """
    if len(group) < 2:
        return Price(0.0, "one rank", "measured", 0.0)
    kind = fabric.slowest_link(group).kind
    chosen = _library(kind, library)

    def physics(devices: Sequence[int], together: int) -> Price:
        return physics_price(fabric, op, devices, num_bytes, at_once=together, library=chosen)

    curve = fabric.curve(op, group, at_once=at_once)
    if curve is None:
        near = _other_sizes(fabric, op, kind, len(group))
        price = physics(group, at_once)
        return _scaled(price, near, len(group), num_bytes, physics) if near else price
    found = from_curve(curve, fabric.slowest_link(group), num_bytes)
    if curve.at_once == at_once:
        return found
    factor = physics(group, at_once).seconds / physics(group, curve.at_once).seconds
    if abs(factor - 1) < 1e-9:
        return found
    words = f"{factor:.2f} (computed: {at_once} at once, not {curve.at_once}) x {found.because}"
    spread = max(found.spread, half_width("published"))
    return Price(factor * found.seconds, words, found.source, spread)


def all_reduce_price(
    fabric: Fabric,
    group: Sequence[int],
    num_bytes: float,
    *,
    at_once: int = 1,
    library: str | None = None,
) -> Price:
    """One all-reduce of `num_bytes` among devices, `at_once` such groups together."""
    return collective_price(
        fabric, "all_reduce", group, num_bytes, at_once=at_once, library=library
    )


def gather_price(
    fabric: Fabric,
    group: Sequence[int],
    num_bytes: float,
    *,
    at_once: int = 1,
    library: str | None = None,
) -> Price:
    """Collect `num_bytes` that are spread evenly over `group` at one device: between cores n - 1
    sends of a share each, between GPUs as an all-gather.
    """
    link, sends = fabric.slowest_link(group), len(group) - 1
    if _library(link.kind, library).algorithms:
        return collective_price(
            fabric, "all_gather", group, num_bytes, at_once=at_once, library=library
        )
    one = send_price(fabric, link, num_bytes / len(group), at_once=at_once)
    because = f"{sends} send{'s' if sends > 1 else ''} of {one.because}"
    return Price(sends * one.seconds, because, one.source, one.spread)


def send_price(fabric: Fabric, link: Link, num_bytes: float, *, at_once: int = 1) -> Price:
    """One send of `num_bytes` over `link`: the measured curve of its kind, else latency plus bytes
    over bandwidth, `at_once` such sends together.
    """
    return collective_price(fabric, "send_recv", (link.a, link.b), num_bytes, at_once=at_once)


def _library(kind: str, wanted: str | Library | None) -> Library:
    """The one wanted, but what moves bytes between cores where the wire joins those."""
    if kind in CPU_WIRES:
        return library_of(CPU_WIRES[kind])
    return library_of(wanted or "nccl") if not isinstance(wanted, Library) else wanted


def physics_price(
    fabric: Fabric,
    op: Op,
    group: Sequence[int],
    num_bytes: float,
    *,
    at_once: int = 1,
    library: Library = NCCL,
) -> Price:
    """The same from latency, bandwidth and algorithm alone: the fastest way the library has."""
    if op == "send_recv" or not library.algorithms:
        link = fabric.slowest_link(group)
        together = users(fabric, link, at_once)
        return _line_by_line(op, link, len(group), num_bytes, link.bytes_per_s / together)
    wiring = wiring_of(fabric, group, at_once=at_once)
    way = min(ways(op, wiring, num_bytes, library), key=lambda way: way.seconds)
    seconds, because, slowest = way.seconds, str(way), wiring.slowest
    if library.host_s:
        copy_s = library.copies * num_bytes / wiring.memory_bytes_per_s
        seconds = max(seconds, library.host_s) + copy_s
        because = f"at least {show_seconds(library.host_s)} to launch; {because}"
        because += f"; copies {show_seconds(copy_s)}"
    return Price(seconds, because, slowest.source, half_width(slowest.source, slowest.spread))


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
    start_s = library.start * kernel_s + hops * (across.latency_s - kernel_s)
    low = [Leg(tree, across.bytes_per_s * library.net_ll_share, across.kind)]
    high = [Leg(ring, across.bytes_per_s, across.kind)]
    if inside is not None:
        start_s += steps_in * library.step * inside.latency_s
        own = _ring_bytes(op, box_ranks, num_bytes)
        low.append(Leg(own, inside.bytes_per_s * library.ll_share, inside.kind))
        high.append(Leg(own, inside.bytes_per_s, inside.kind))
        if op == "all_reduce" and _adds(inside, library):
            high[0] = Leg(tree, across.bytes_per_s, across.kind)
    name, simple_s = f"{boxes} boxes of {box_ranks}", library.net_simple_s
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
    return boxes - 1, leaves, leaves


def _line_by_line(op: Op, link: Link, ranks: int, num_bytes: float, rate: float) -> Price:
    """Steps that follow one another, each a latency and its bytes: a ring as Gloo and shared memory
    walk it, or one send.
    """
    steps = 1 if op == "send_recv" else 2 * (ranks - 1) if op == "all_reduce" else ranks - 1
    share = num_bytes if op == "send_recv" else num_bytes / ranks
    wire = f"{show_bytes(share)} / {show_rate(rate)} over {link.kind}"
    because = f"({show_seconds(link.latency_s)} + {wire})"
    if op != "send_recv":
        because = f"ring: {steps} step{'s' * (steps > 1)} x {because}"
    seconds = steps * (link.latency_s + share / rate)
    return Price(seconds, because, link.source, half_width(link.source, link.spread))


def from_curve(curve: Curve, link: Link, num_bytes: float) -> Price:
    """The price that a measured curve says."""
    seconds = curve.seconds(num_bytes)
    because = f"{show_seconds(seconds)} at {show_bytes(num_bytes)} over {curve.wire}"
    return Price(seconds, because, curve.source, half_width(curve.source, link.spread))


def _other_sizes(fabric: Fabric, op: Op, kind: str, ranks: int) -> list[Curve]:
    """The curve of the next smaller group and of the next larger over this kind of wire."""
    alike = [c for c in fabric.curves if (c.op, c.wire) == (op, kind)]
    below = [c for c in alike if len(c.devices) < ranks]
    above = [c for c in alike if len(c.devices) > ranks]
    return [
        *([max(below, key=lambda c: (len(c.devices), -c.at_once))] if below else []),
        *([min(above, key=lambda c: (len(c.devices), c.at_once))] if above else []),
    ]


def _scaled(
    price: Price,
    curves: Sequence[Curve],
    ranks: int,
    num_bytes: float,
    physics: Callable[[Sequence[int], int], Price],
) -> Price:
    """`price` times measured over physics of one curve, or of two, by how near their sizes are."""
    ratios = [
        curve.seconds(num_bytes) / physics(curve.devices, curve.at_once).seconds for curve in curves
    ]
    factor = ratios[0]
    if len(curves) == 2:
        low, high = (math.log(len(curve.devices)) for curve in curves)
        at = (math.log(ranks) - low) / (high - low)
        factor = ratios[0] ** (1 - at) * ratios[1] ** at
    sizes = " and ".join(
        f"{len(curve.devices)} ranks" + f" ({curve.at_once} at once)" * (curve.at_once > 1)
        for curve in curves
    )
    because = f"{factor:.2f} (measured over computed, {sizes}) x ({price.because})"
    spread = max(price.spread, half_width("published"))
    return Price(factor * price.seconds, because, "measured", spread)
