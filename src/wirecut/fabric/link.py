"""Wires: a link joins two devices, a trunk every two devices of different hosts.

    Link(0, 1, "pcie4", 7e-6, 20e9, "datasheet").seconds(65536)
    Trunk("ib", 18e-6, 42e9, "datasheet", paths=("rail 0", "rail 1")).link(1, 9, "node0", 1).path

Every number carries its source.
"""

from dataclasses import dataclass
from typing import Literal

from wirecut.units import KIB

Source = Literal["measured", "published", "datasheet", "assumed"]
TYPICAL_BYTES = 64 * KIB  # about what a decode step hands over


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
        check_rate(f"{name}: bytes_per_s", self.bytes_per_s)

    def seconds(self, num_bytes: float) -> float:
        """One message of `num_bytes`."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
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
        if not 0 <= self.latency_s < 100:
            raise ValueError(f"trunk: latency_s is {self.latency_s}, expected 0 to 100 s")
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


def check_rate(what: str, value: float) -> None:
    """Raise ValueError for a rate that is no positive number."""
    if not 0 < value < 1e18:  # false for NaN too
        raise ValueError(f"{what} is {value}, expected a positive number below 1e18")
