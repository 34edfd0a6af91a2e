"""The wires as facts: devices, links, measured curves, islands, and the `fabric.json` for them.

    fabric = load_fabric(Path("fabric.json"))
    fabric.link(0, 1)                # the fastest wire between two devices
    fabric.curve("all_reduce", (0, 1))

Knows no model. Every number carries its source; raw points are kept, since they are what the cost
model interpolates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from wirecut.errors import FabricError, UsageError
from wirecut.fabric.host import HostFacts
from wirecut.files import write_whole
from wirecut.units import KIB

FORMAT = "wirecut-fabric-1"
Source = Literal["measured", "published", "datasheet", "assumed"]
Op = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
Severity = Literal["wrong", "slow", "note"]
TYPICAL_BYTES = 64 * KIB  # about what a decode step hands over


@dataclass(frozen=True, slots=True)
class MatrixPoint:
    """One measured product of `rows` x weights of `weight_bytes` in all, streamed once.

    `weight_bytes` is the working set, so small ones show the caches and large ones memory. What
    else was busy meanwhile, the `Device` says.
    """

    dtype: str
    rows: int
    weight_bytes: int
    seconds: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.weight_bytes < 1 or not 0 < self.seconds < 1e6:
            raise ValueError(f"measured point {self} makes no sense")


@dataclass(frozen=True, slots=True)
class AttentionPoint:
    """Attention of one sequence, measured: `queries` new tokens that look at `keys` in all.

    `width` is heads x head_dim of the queries, `kv_width` of the keys.
    """

    dtype: str
    queries: int
    keys: int
    width: int
    kv_width: int
    seconds: float

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= self.keys or not 0 < self.seconds < 1e6:
            raise ValueError(f"measured point {self} makes no sense")


@dataclass(frozen=True, slots=True)
class Device:
    """One place where one rank runs. Rates are of this device with all its like busy too.

    `memory_bytes` is this device's share of its host's. `launch_s` is the time to start one small
    operation. `index` is its number at its driver (CUDA's for a GPU), `numa` its NUMA node.

    `alone` are products that one device of this host made while all others waited, and
    `launch_alone_s` its time to start an operation then: faster where devices share memory or
    caches. Empty and 0 where not measured, as of GPUs, whose memories are their own.
    `launch_cold_s` is that time right after large weights have passed through the caches, 0 where
    not measured.
    """

    id: int
    host: str
    kind: str
    name: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: dict[str, float]
    launch_s: float
    source: Source
    cpus: tuple[int, ...] = ()
    points: tuple[MatrixPoint, ...] = ()
    attention: tuple[AttentionPoint, ...] = ()
    index: int | None = None
    numa: int | None = None
    alone: tuple[MatrixPoint, ...] = ()
    launch_alone_s: float = 0.0
    launch_cold_s: float = 0.0

    def __post_init__(self) -> None:
        name = f"device {self.id}"
        _check_rate(f"{name}: bytes_per_s", self.bytes_per_s)
        _check_rate(f"{name}: memory_bytes", self.memory_bytes)
        for dtype, rate in self.flops_per_s.items():
            _check_rate(f"{name}: flops_per_s of {dtype}", rate)
        for field, seconds in (
            ("launch_s", self.launch_s),
            ("launch_alone_s", self.launch_alone_s),
            ("launch_cold_s", self.launch_cold_s),
        ):
            if not 0 <= seconds < 1:
                raise ValueError(f"{name}: {field} is {seconds}, expected 0 to 1 s")


@dataclass(frozen=True, slots=True)
class Link:
    """A wire of one kind (`wires.WIRES`) between devices `a` and `b`.

    Seconds for n bytes = latency_s + n / bytes_per_s.
    `spread` is the relative spread of repeated measurements about that line (0.1: ten per cent).
    `path` is what it runs through, as its tool names it (NV12, PIX, SYS). Links that name the same
    `shares` run through one thing, a PCIe switch or a NIC, and slow each other.
    """

    a: int
    b: int
    kind: str
    latency_s: float
    bytes_per_s: float
    source: Source
    spread: float = 0.0
    path: str = ""
    shares: str = ""

    def __post_init__(self) -> None:
        name = f"link {self.a}-{self.b}"
        if not 0 <= self.latency_s < 100:
            raise ValueError(f"{name}: latency_s is {self.latency_s}, expected 0 to 100 s")
        _check_rate(f"{name}: bytes_per_s", self.bytes_per_s)

    def seconds(self, num_bytes: float) -> float:
        """One message of `num_bytes`."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Curve:
    """Measured times of one collective over one kind of wire: (bytes, seconds), smallest first.

    `bytes` is the buffer of one rank; of all-gather and reduce-scatter the whole one. `at_once`
    groups of this size did the same at the same time.
    """

    op: Op
    wire: str
    devices: tuple[int, ...]
    points: tuple[tuple[int, float], ...]
    source: Source = "measured"
    at_once: int = 1

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        rising = len(sizes) >= 2 and sizes[0] >= 1 and sizes == sorted(set(sizes))
        if not rising or not all(0 < seconds < 1e6 for _, seconds in self.points):
            raise ValueError(
                f"curve {self.op} over {self.wire}: needs rising sizes with positive seconds"
            )

    def seconds(self, num_bytes: float) -> float:
        """Time for `num_bytes`: straight between points, then in proportion to the last one."""
        points = self.points
        if num_bytes <= points[0][0]:
            return points[0][1]
        above = next(
            (i for i, (size, _) in enumerate(points) if size >= num_bytes), len(points) - 1
        )
        (x0, y0), (x1, y1) = points[above - 1], points[above]
        return (
            max(y0, y0 + (y1 - y0) * (num_bytes - x0) / (x1 - x0))
            if num_bytes <= x1
            else y1 * num_bytes / x1
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about this machine that a person should know, and what to do about it.

    `what` says what was measured or reported against what was expected. "wrong": it hurts now;
    "slow": below its like; "note": worth knowing.
    """

    severity: Severity
    what: str
    advice: str
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """How the numbers came about."""

    when: str
    how: str
    version: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fabric:
    """Devices and the wires between them.

    `islands` are sets of devices joined by faster wires than those around them, smallest first;
    two of them have no device in common, or one holds the other.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    islands: tuple[tuple[int, ...], ...]
    made: Made
    curves: tuple[Curve, ...] = ()
    machines: tuple[HostFacts, ...] = ()
    findings: tuple[Finding, ...] = ()
    format: str = FORMAT

    def __post_init__(self) -> None:
        ids = [device.id for device in self.devices]
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format!r}, expected {FORMAT!r}")
        if not ids or ids != list(range(len(ids))):
            raise ValueError(f"device ids are {ids[:8]}, expected 0, 1, 2, ... in order")
        known = frozenset(ids)
        _check_islands(self.islands, known)
        for link in self.links:
            if link.a == link.b or link.a not in known or link.b not in known:
                raise ValueError(f"link {link.a}-{link.b} joins no two devices of this fabric")
        for curve in self.curves:
            if not known.issuperset(curve.devices) or len(set(curve.devices)) < 2:
                raise ValueError(f"curve {curve.op} of {curve.devices} is of no group here")

    @cached_property
    def _best_link(self) -> dict[tuple[int, int], Link]:
        best: dict[tuple[int, int], Link] = {}
        for link in self.links:
            pair = (min(link.a, link.b), max(link.a, link.b))
            if pair not in best or link.seconds(TYPICAL_BYTES) < best[pair].seconds(TYPICAL_BYTES):
                best[pair] = link
        return best

    def link(self, a: int, b: int) -> Link:
        """The fastest wire between two devices. Raises FabricError when none joins them."""
        try:
            return self._best_link[min(a, b), max(a, b)]
        except KeyError:
            raise FabricError(f"no link joins devices {a} and {b}: add one to `links`") from None

    def slowest_link(self, devices: Sequence[int]) -> Link:
        """The wire that a ring over `devices` waits for."""
        pairs = zip(devices, [*devices[1:], devices[0]], strict=True)
        return max(
            (self.link(a, b) for a, b in pairs if a != b),
            key=lambda link: (-link.bytes_per_s, link.latency_s),
        )

    def curve(self, op: Op, devices: Sequence[int], *, at_once: int = 1) -> Curve | None:
        """The curve of `op` that was measured among these devices, or among as many that are
        joined by the same kind of wire, the most like theirs; None when there is none.

        `at_once` groups do it together: of curves that are equally near, the one with as many.
        """
        link = self.slowest_link(devices)
        alike = [
            c
            for c in self.curves
            if (c.op, c.wire, len(c.devices)) == (op, link.kind, len(devices))
        ]

        def distance(curve: Curve) -> tuple[float, float, int]:
            others = abs(math.log(curve.at_once / at_once))
            if set(curve.devices) == set(devices):
                return (0.0, others, 0)
            theirs = self._slowest_of_kind(curve.devices, curve.wire)
            if theirs is None:
                return (math.inf, others, 1)
            ratio = theirs.seconds(TYPICAL_BYTES) / link.seconds(TYPICAL_BYTES)
            return (round(abs(math.log(ratio)), 1), others, 1)

        return min(alike, key=distance, default=None)

    def _slowest_of_kind(self, devices: Sequence[int], kind: str) -> Link | None:
        """The slowest wire of this kind round a ring of `devices`; None when a pair has none."""
        ring = zip(devices, [*devices[1:], devices[0]], strict=True)
        pairs = {(min(a, b), max(a, b)) for a, b in ring if a != b}
        found = [self._by_kind.get((*pair, kind)) for pair in pairs]
        known = [link for link in found if link is not None]
        if len(known) < len(found) or not known:
            return None
        return max(known, key=lambda link: link.seconds(TYPICAL_BYTES))

    @cached_property
    def _by_kind(self) -> dict[tuple[int, int, str], Link]:
        return {(min(k.a, k.b), max(k.a, k.b), k.kind): k for k in self.links}

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, in order of their first device."""
        return tuple(dict.fromkeys(device.host for device in self.devices))

    def with_wires(self, *, speed: float) -> "Fabric":
        """The same machine with every wire `speed` times as fast, in bandwidth and in latency."""
        links = (
            replace(k, latency_s=k.latency_s / speed, bytes_per_s=k.bytes_per_s * speed)
            for k in self.links
        )
        curves = (
            replace(c, points=tuple((size, s / speed) for size, s in c.points)) for c in self.curves
        )
        return replace(self, links=tuple(links), curves=tuple(curves))

    def only(self, wire: str) -> "Fabric":
        """The same machine when only this kind of wire is used."""
        return replace(self, links=tuple(link for link in self.links if link.kind == wire))


def _check_islands(islands: Sequence[Sequence[int]], known: frozenset[int]) -> None:
    sets = [frozenset(island) for island in islands]
    for island, members in zip(islands, sets, strict=True):
        if not known.issuperset(members):
            raise ValueError(f"island {island} names devices that are not in `devices`")
        if len(members) < len(island):
            raise ValueError(f"island {island} names a device twice")
    holder: dict[int, frozenset[int]] = {}  # the largest island so far that holds a device
    for members in sorted(sets, key=len):
        for inner in {holder[device] for device in members if device in holder}:
            if not inner <= members:
                raise ValueError(
                    f"islands {tuple(sorted(inner))} and {tuple(sorted(members))} share devices, "
                    "and neither holds the other"
                )
        holder |= dict.fromkeys(members, members)


def _check_rate(what: str, value: float) -> None:
    if not 0 < value < 1e18:  # false for NaN too
        raise ValueError(f"{what} is {value}, expected a positive number below 1e18")


def load_fabric(path: Path) -> Fabric:
    """Read a `fabric.json`. Raises FabricError that says what is wrong with it and where."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fabric)
    except OSError as error:
        raise FabricError(
            f"cannot read fabric {path}: {error.strerror}. `wirecut probe --out {path}` makes one"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FabricError(
            f"{path} is not a fabric.json of wirecut: {error}. `wirecut probe --out FILE` makes one"
        ) from error


def save_fabric(fabric: Fabric, path: Path) -> None:
    """Write `fabric.json`, whole or not at all."""
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(fabric), indent=1) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
