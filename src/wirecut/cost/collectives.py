"""How long one collective takes, and why: measured where it was, else from the wires' physics.

    price = collective_price(fabric, "all_reduce", (0, 1, 2, 3), 65536)
    price.seconds, price.because     # 'ring, LL, 6 steps: 14.0 us + 212 KiB / 115 GB/s over ...'

Knows no model and no layout.
"""

import math
from collections.abc import Callable, Sequence

from wirecut.cost.algorithms import ways
from wirecut.cost.lanes import users, wiring_of
from wirecut.cost.libraries import NCCL, Library, library_of
from wirecut.cost.terms import half_width
from wirecut.fabric.fabric import Curve, Fabric, Link, Op, Source
from wirecut.facts import fact
from wirecut.units import show_bytes, show_rate, show_seconds

CPU_WIRES = {"shm": "shm", "tcp": "gloo"}  # wires between processes on cores, and what moves there


@fact
class Price:
    """How long one call takes, and why; the words are made when asked for."""

    seconds: float
    words: Callable[[], str]
    source: Source
    spread: float

    @property
    def because(self) -> str:
        return self.words()


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
    groups like this one do it together. `library` None: NCCL, or what moves bytes between cores;
    curves are taken to be measured with those, and another library's price follows from theirs.
    Raises FabricError when devices that must talk have no link.
    """
    if len(group) < 2:
        return Price(0.0, lambda: "one rank", "measured", 0.0)
    asked = (op, fabric.likeness(group), num_bytes, at_once, library)
    known = fabric.worked_out.get(asked)
    if not isinstance(known, Price):
        known = _collective_price(fabric, op, group, num_bytes, at_once, library)
        fabric.worked_out[asked] = known
    return known


def _collective_price(
    fabric: Fabric,
    op: Op,
    group: Sequence[int],
    num_bytes: float,
    at_once: int,
    library: str | Library | None,
) -> Price:
    kind = fabric.slowest_link(group).kind
    chosen, measured = _library(kind, library), _library(kind, None)

    def physics(devices: Sequence[int], together: int, by: Library) -> Price:
        return physics_price(fabric, op, devices, num_bytes, at_once=together, library=by)

    curve = fabric.curve(op, group, at_once=at_once)
    if curve is None:
        near = _other_sizes(fabric, op, kind, len(group))
        price = physics(group, at_once, chosen)
        ratios = [
            near_by.seconds(num_bytes) / physics(near_by.devices, near_by.at_once, measured).seconds
            for near_by in near
        ]
        return _scaled(price, near, ratios, len(group)) if near else price
    found = from_curve(curve, fabric.slowest_link(group), num_bytes)
    if curve.at_once == at_once and chosen == measured:
        return found
    computed = physics(group, at_once, chosen).seconds
    factor = computed / physics(group, curve.at_once, measured).seconds
    if abs(factor - 1) < 1e-9:
        return found

    def words() -> str:
        asked = f"{chosen.name}, {at_once} at once"
        known = f"{measured.name}, {curve.at_once} at once"
        return f"{factor:.2f} (computed: {asked}, over {known}) x {found.because}"

    spread = max(found.spread, half_width("published"))
    return Price(factor * found.seconds, words, found.source, spread)


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

    def words() -> str:
        return f"{sends} send{'s' if sends > 1 else ''} of {one.because}"

    return Price(sends * one.seconds, words, one.source, one.spread)


def send_price(fabric: Fabric, link: Link, num_bytes: float, *, at_once: int = 1) -> Price:
    """One send of `num_bytes` over `link`: the measured curve of its kind, else latency plus bytes
    over bandwidth, `at_once` such sends together.
    """
    return collective_price(fabric, "send_recv", (link.a, link.b), num_bytes, at_once=at_once)


def _library(kind: str, wanted: str | Library | None) -> Library:
    """The one wanted, but what moves bytes between cores where the wire joins those, and RCCL for
    NCCL between AMD's.
    """
    if kind in CPU_WIRES:
        return library_of(CPU_WIRES[kind])
    if kind == "xgmi" and wanted in (None, "nccl"):
        return library_of("rccl")
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
    slowest, host_s = wiring.slowest, library.host_s
    copy_s = library.copies * num_bytes / wiring.memory_bytes_per_s if host_s else 0.0

    def words() -> str:
        if not host_s:
            return str(way)
        return f"at least {show_seconds(host_s)} to launch; {way}; copies {show_seconds(copy_s)}"

    seconds = max(way.seconds, host_s) + copy_s
    return Price(seconds, words, slowest.source, half_width(slowest.source, slowest.spread))


def _line_by_line(op: Op, link: Link, ranks: int, num_bytes: float, rate: float) -> Price:
    """Steps that follow one another, each a latency and its bytes: a ring as Gloo and shared memory
    walk it, or one send.
    """
    steps = 1 if op == "send_recv" else 2 * (ranks - 1) if op == "all_reduce" else ranks - 1
    share = num_bytes if op == "send_recv" else num_bytes / ranks

    def words() -> str:
        wire = f"{show_bytes(share)} / {show_rate(rate)} over {link.kind}"
        one = f"({show_seconds(link.latency_s)} + {wire})"
        return one if op == "send_recv" else f"ring: {steps} step{'s' * (steps > 1)} x {one}"

    seconds = steps * (link.latency_s + share / rate)
    return Price(seconds, words, link.source, half_width(link.source, link.spread))


def from_curve(curve: Curve, link: Link, num_bytes: float) -> Price:
    """The price that a measured curve says."""
    seconds = curve.seconds(num_bytes)

    def words() -> str:
        return f"{show_seconds(seconds)} at {show_bytes(num_bytes)} over {curve.wire}"

    return Price(seconds, words, curve.source, half_width(curve.source, link.spread))


def _other_sizes(fabric: Fabric, op: Op, kind: str, ranks: int) -> list[Curve]:
    """The curve of the next smaller group and of the next larger over this kind of wire."""
    alike = [c for c in fabric.curves if (c.op, c.wire) == (op, kind)]
    below = [c for c in alike if len(c.devices) < ranks]
    above = [c for c in alike if len(c.devices) > ranks]
    return [
        *([max(below, key=lambda c: (len(c.devices), -c.at_once))] if below else []),
        *([min(above, key=lambda c: (len(c.devices), c.at_once))] if above else []),
    ]


def _scaled(price: Price, curves: Sequence[Curve], ratios: Sequence[float], ranks: int) -> Price:
    """`price` times measured over computed of one curve, or of two, by how near their sizes are."""
    factor = ratios[0]
    if len(curves) == 2:
        low, high = (math.log(len(curve.devices)) for curve in curves)
        at = (math.log(ranks) - low) / (high - low)
        factor = ratios[0] ** (1 - at) * ratios[1] ** at

    def words() -> str:
        sizes = " and ".join(
            f"{len(curve.devices)} ranks" + f" ({curve.at_once} at once)" * (curve.at_once > 1)
            for curve in curves
        )
        return f"{factor:.2f} (measured over computed, {sizes}) x ({price.because})"

    spread = max(price.spread, half_width("published"))
    return Price(factor * price.seconds, words, "measured", spread)
