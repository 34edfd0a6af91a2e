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
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal

import msgspec

from wirecut.errors import FabricError, UsageError
from wirecut.fabric.device import Device
from wirecut.fabric.host import HostFacts
from wirecut.fabric.link import TYPICAL_BYTES, Link, Source, Trunk, at_speed
from wirecut.fabric.wires import is_network
from wirecut.facts import fact
from wirecut.files import write_whole

FORMAT = "wirecut-fabric-1"
Op = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
Severity = Literal["wrong", "slow", "note"]


@fact
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


@fact
class Finding:
    """Something about this machine that a person should know, and what to do about it.

    `what` says what was measured or reported against what was expected. "wrong": it hurts now;
    "slow": below its like; "note": worth knowing.
    """

    severity: Severity
    what: str
    advice: str
    devices: tuple[int, ...] = ()


@fact
class Made:
    """How the numbers came about."""

    when: str
    how: str
    version: str
    notes: tuple[str, ...] = ()


def now() -> str:
    """UTC time to the second, ISO 8601, as `Made` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Fabric:
    """Devices and the wires between them.

    `trunks` join every two devices of different hosts, beside the `links` of single pairs: large
    fabrics need no link per pair. `islands` are sets of devices joined by faster wires than those
    around them, smallest first; two of them have no device in common, or one holds the other.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    islands: tuple[tuple[int, ...], ...]
    made: Made
    curves: tuple[Curve, ...] = ()
    machines: tuple[HostFacts, ...] = ()
    findings: tuple[Finding, ...] = ()
    trunks: tuple[Trunk, ...] = ()
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
        pair = (a, b) if a < b else (b, a)
        known = self._seen.get(pair)
        if known is None:
            known = self._seen[pair] = self._fastest(a, b)
        return known

    @cached_property
    def _seen(self) -> dict[tuple[int, int], Link]:
        """Links that were asked for: of trunks they are made then."""
        return {}

    def _fastest(self, a: int, b: int) -> Link:
        first, last = min(a, b), max(a, b)
        found = [self._best_link[first, last]] if (first, last) in self._best_link else []
        host = self.devices[first].host
        if self.trunks and host != self.devices[last].host:
            place = self.host_devices[host].index(first)
            found += [trunk.link(first, last, host, place) for trunk in self.trunks]
        if not found:
            raise FabricError(f"no link joins devices {a} and {b}: add one to `links`")
        return min(found, key=lambda link: link.seconds(TYPICAL_BYTES))

    def slowest_link(self, devices: Sequence[int]) -> Link:
        """The wire that a ring over `devices` waits for."""
        ring = tuple(devices)
        known = self._slowest.get(ring)
        if known is None:
            pairs = zip(ring, (*ring[1:], ring[0]), strict=True)
            known = self._slowest[ring] = max(
                (self.link(a, b) for a, b in pairs if a != b),
                key=lambda link: (-link.bytes_per_s, link.latency_s),
            )
        return known

    @cached_property
    def _slowest(self) -> dict[tuple[int, ...], Link]:
        """The slowest wires of the groups that were asked for."""
        return {}

    def share_memory(self, devices: Sequence[int]) -> bool:
        """Whether no network lies between any two of them."""
        pairs = combinations(devices, 2)
        return not any(is_network(self.link(a, b).kind) for a, b in pairs)

    def curve(self, op: Op, devices: Sequence[int], *, at_once: int = 1) -> Curve | None:
        """The curve of `op` that was measured among these devices, or among as many that are
        joined by the same kind of wire, the most like theirs; None when there is none.

        `at_once` groups do it together: of curves that are equally near, the one with as many.
        """
        if not self.curves:
            return None
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

    @cached_property
    def host_devices(self) -> dict[str, tuple[int, ...]]:
        """The devices of each host, by name in order of the hosts' first devices."""
        found: dict[str, list[int]] = {}
        for device in self.devices:
            found.setdefault(device.host, []).append(device.id)
        return {host: tuple(ids) for host, ids in found.items()}

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, in order of their first device."""
        return tuple(self.host_devices)

    @property
    def wire_kinds(self) -> tuple[str, ...]:
        """Kinds of wire, those of single pairs first."""
        return tuple(dict.fromkeys(wire.kind for wire in (*self.links, *self.trunks)))

    @cached_property
    def worked_out(self) -> dict[object, object]:
        """What was worked out of this fabric, by keys of those who did."""
        return {}

    @cached_property
    def sample_links(self) -> tuple[Link, ...]:
        """The links, and of trunks those between the first host and the next: enough to show."""
        if not self.trunks:
            return self.links
        first, second = (self.host_devices[host] for host in self.hosts[:2])
        return (*self.links, *(self.link(a, b) for a in first for b in second))

    def likeness(self, devices: Sequence[int]) -> tuple[object, ...]:
        """What decides how a group is wired and how fast its devices are: groups of one likeness
        may be taken for each other.

        Devices count by their place in their host and by what their host is like, as far as trunks
        join all hosts alike; else by themselves.
        """
        places = self._places
        if places is None:
            return tuple(devices)
        order: dict[str, int] = {}
        found = tuple(
            (order.setdefault(self.devices[i].host, len(order)), *places[i]) for i in devices
        )
        return self._likenesses.setdefault(found, found)

    @cached_property
    def _likenesses(self) -> dict[tuple[object, ...], tuple[object, ...]]:
        """Those that were asked for, each held once: of thousands of devices they are large."""
        return {}

    @property
    def hosts_are_alike(self) -> bool:
        """Whether nothing but trunks joins hosts, so that one pair of hosts is as any other."""
        return self._places is not None

    @cached_property
    def _places(self) -> tuple[tuple[int, int], ...] | None:
        """(what its host is like, place in its host) of each device; None where hosts are joined by
        links of their own, whose numbers may differ, or were measured together.
        """
        devices = self.devices
        if self.curves or any(devices[k.a].host != devices[k.b].host for k in self.links):
            return None
        place = {i: at for ids in self.host_devices.values() for at, i in enumerate(ids)}
        inside: dict[str, list[object]] = {host: [] for host in self.host_devices}
        for d in devices:
            rates = (d.memory_bytes, d.bytes_per_s, *d.flops_per_s.items(), d.launch_s, d.source)
            inside[d.host].append((d.kind, d.name, rates, d.points, d.attention, d.alone))
        for k in self.links:
            host = devices[k.a].host
            numbers = (k.latency_s, k.bytes_per_s, k.source, k.spread)
            shares = k.shares.replace(host, "")
            inside[host].append((place[k.a], place[k.b], k.kind, numbers, k.path, shares))
        kinds: dict[tuple[object, ...], int] = {}
        like = {host: kinds.setdefault(tuple(of), len(kinds)) for host, of in inside.items()}
        return tuple((like[device.host], place[device.id]) for device in devices)

    def with_wires(self, *, speed: float, source: Source | None = None) -> "Fabric":
        """The same machine with every wire `speed` times as fast, in bandwidth and in latency; with
        `source` only those whose numbers come from there.
        """

        def by(wire: Link | Trunk | Curve) -> float:
            return speed if source in (None, wire.source) else 1.0

        links = (at_speed(k, by(k)) for k in self.links)
        trunks = (at_speed(k, by(k)) for k in self.trunks)
        curves = (
            replace(c, points=tuple((size, s / by(c)) for size, s in c.points)) for c in self.curves
        )
        return replace(self, links=tuple(links), trunks=tuple(trunks), curves=tuple(curves))

    def only(self, wire: str) -> "Fabric":
        """The same machine when only this kind of wire is used."""
        return replace(
            self,
            links=tuple(link for link in self.links if link.kind == wire),
            trunks=tuple(trunk for trunk in self.trunks if trunk.kind == wire),
        )


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
