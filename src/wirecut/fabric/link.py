"""Wires: a link joins two devices, a trunk every two devices of different hosts.

    Link(0, 1, "pcie4", 7e-6, 20e9, "datasheet").seconds(65536)
    Trunk("ib", 18e-6, 42e9, "datasheet", paths=("rail 0", "rail 1")).link(1, 9, "node0", 1).path

Every number carries its source.
"""

from dataclasses import replace
from typing import Literal, TypeVar

from wirecut.facts import fact
from wirecut.units import KIB

Source = Literal["measured", "published", "datasheet", "assumed"]
LEAST_RATE = 1.0  # bytes/s of a wire or a memory, FLOP/s: less is a mistake, and overflows sums
MOST_LATENCY_S = 100.0
TYPICAL_BYTES = 64 * KIB  # about what a decode step hands over


@fact
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
        check_latency(name, self.latency_s)
        check_rate(f"{name}: bytes_per_s", self.bytes_per_s)

    def seconds(self, num_bytes: float) -> float:
        """One message of `num_bytes`."""
        return self.latency_s + num_bytes / self.bytes_per_s


@fact
class Trunk:
    """A wire of one kind between any two devices of different hosts.

    `paths` are those of a host's devices, by their place in it (empty: none has a name). `shared`:
    devices of a host with the same path share it, as a NIC is shared.
    """

    kind: str
    latency_s: float
    bytes_per_s: float
    source: Source
    spread: float = 0.0
    paths: tuple[str, ...] = ()
    shared: bool = True

    def __post_init__(self) -> None:
        check_latency("trunk", self.latency_s)
        check_rate("trunk: bytes_per_s", self.bytes_per_s)

    def link(self, a: int, b: int, host: str, place: int) -> Link:
        """The link from device `a`, which is device `place` of `host`, to a device of another."""
        path = self.paths[place] if place < len(self.paths) else ""
        shares = f"nic of {host}, {path}" if self.shared else ""
        return Link(
            a,
            b,
            self.kind,
            self.latency_s,
            self.bytes_per_s,
            self.source,
            self.spread,
            path,
            shares,
        )


Wire = TypeVar("Wire", Link, Trunk)


def at_speed(wire: Wire, speed: float) -> Wire:
    """The wire `speed` times as fast, in bandwidth and in latency, within what a wire may be."""
    return replace(
        wire,
        latency_s=min(MOST_LATENCY_S, wire.latency_s / speed),
        bytes_per_s=max(LEAST_RATE, wire.bytes_per_s * speed),
    )


def check_latency(what: str, value: float) -> None:
    """Raise ValueError for a latency that no wire has."""
    if not 0 <= value <= MOST_LATENCY_S:  # false for NaN too
        raise ValueError(f"{what}: latency_s is {value}, expected 0 to {MOST_LATENCY_S:g} s")


def check_rate(what: str, value: float) -> None:
    """Raise ValueError for a rate that nothing has."""
    if not LEAST_RATE <= value < 1e18:  # false for NaN too
        raise ValueError(f"{what} is {value}, expected at least {LEAST_RATE:g} and below 1e18")
