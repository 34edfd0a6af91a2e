"""The wires as facts: devices, links, measured curves, islands, and the `fabric.json` for them.

    fabric = load_fabric(Path("fabric.json"))
    fabric.wire((0, 1))              # the best kind of wire that joins these devices
    fabric.curve("all_reduce", "shm", 2)

Knows no model. Every number carries its source; raw points are kept, since they are what the cost
model interpolates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from wirecut.errors import FabricError, UsageError
from wirecut.files import write_whole

FORMAT = "wirecut-fabric-1"
Source = Literal["measured", "published", "datasheet", "assumed"]
Op = Literal["all_reduce", "send_recv"]
WIRES = {  # kinds of wire, and what a person calls them
    "shm": "shared memory",
    "tcp": "TCP (Gloo)",
}


@dataclass(frozen=True, slots=True)
class MatrixPoint:
    """One measured product of `rows` x weights of `weight_bytes` in all, streamed once.

    All ranks were busy at once. `weight_bytes` is the working set, so small ones show the caches
    and large ones memory.
    """

    dtype: str
    rows: int
    weight_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Device:
    """One place where one rank runs. Rates are of this device with all its like busy too.

    `memory_bytes` is this device's share of its host's. `launch_s` is the time to start one small
    operation.
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


@dataclass(frozen=True, slots=True)
class Link:
    """A wire of one kind between devices `a` and `b`.

    Seconds for n bytes = latency_s + n / bytes_per_s.
    `spread` is the relative spread of repeated measurements about that line (0.1: ten per cent).
    """

    a: int
    b: int
    kind: str
    latency_s: float
    bytes_per_s: float
    source: Source
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Measured times of one collective over one kind of wire: (bytes, seconds), smallest first."""

    op: Op
    wire: str
    devices: tuple[int, ...]
    points: tuple[tuple[int, float], ...]
    source: Source = "measured"

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
class Made:
    """How the numbers came about."""

    when: str
    how: str
    version: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fabric:
    """Devices and the wires between them."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    islands: tuple[tuple[int, ...], ...]
    made: Made
    curves: tuple[Curve, ...] = ()
    format: str = FORMAT

    def __post_init__(self) -> None:
        ids = [device.id for device in self.devices]
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format!r}, expected {FORMAT!r}")
        if not ids or ids != list(range(len(ids))):
            raise ValueError(f"device ids are {ids[:8]}, expected 0, 1, 2, ... in order")
        for device in self.devices:
            _check_device(device)
        known = frozenset(ids)
        for island in self.islands:
            if not known.issuperset(island):
                raise ValueError(f"island {island} names devices that are not in `devices`")
            if len(set(island)) < len(island):
                raise ValueError(f"island {island} names a device twice")
        for link in self.links:
            if link.a == link.b or not known.issuperset((link.a, link.b)):
                raise ValueError(f"link {link.a}-{link.b} joins no two devices of this fabric")
            _check_link(link)
        for curve in self.curves:
            _check_curve(curve)

    @cached_property
    def _best_link(self) -> dict[tuple[int, int], Link]:
        best: dict[tuple[int, int], Link] = {}
        for link in self.links:
            pair = (min(link.a, link.b), max(link.a, link.b))
            if pair not in best or _goodness(link) > _goodness(best[pair]):
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

    def curve(self, op: Op, wire: str, num_devices: int) -> Curve | None:
        """The curve of `op` among that many devices over that kind of wire, if it was measured."""
        found = (
            c for c in self.curves if (c.op, c.wire, len(c.devices)) == (op, wire, num_devices)
        )
        return next(found, None)

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


def _goodness(link: Link) -> float:
    """Speed at 64 KiB, about what a decode step hands over: latency and bandwidth in one number."""
    return -(link.latency_s + 65536 / link.bytes_per_s)


def _check_device(device: Device) -> None:
    name = f"device {device.id}"
    _check_rate(f"{name}: bytes_per_s", device.bytes_per_s)
    _check_rate(f"{name}: memory_bytes", device.memory_bytes)
    for dtype, rate in device.flops_per_s.items():
        _check_rate(f"{name}: flops_per_s of {dtype}", rate)
    if not 0 <= device.launch_s < 1:
        raise ValueError(f"{name}: launch_s is {device.launch_s}, expected 0 to 1 s")
    for point in device.points:
        if point.rows < 1 or point.weight_bytes < 1 or not 0 < point.seconds < 1e6:
            raise ValueError(f"{name}: measured point {point} makes no sense")


def _check_link(link: Link) -> None:
    name = f"link {link.a}-{link.b}"
    if not 0 <= link.latency_s < 100:
        raise ValueError(f"{name}: latency_s is {link.latency_s}, expected 0 to 100 s")
    _check_rate(f"{name}: bytes_per_s", link.bytes_per_s)


def _check_curve(curve: Curve) -> None:
    sizes = [size for size, _ in curve.points]
    rising = len(sizes) >= 2 and sizes[0] >= 1 and sizes == sorted(set(sizes))
    if not rising or not all(0 < seconds < 1e6 for _, seconds in curve.points):
        raise ValueError(
            f"curve {curve.op} over {curve.wire}: needs rising sizes with positive seconds"
        )


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
