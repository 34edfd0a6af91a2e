"""What a price is made of: terms, the memory of the worst rank, and the two outcomes of pricing a
layout.

    Term("weights", "decode", 1.3e-3, "11.2 MiB at 9.00 GB/s with 4 rows", "measured")

The explanation of a decision is this list of terms: nothing is explained by a second computation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from wirecut.fabric.fabric import Source
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut
from wirecut.layout.stages import Stages

Phase = Literal["prefill", "decode"]
# What a term is spent on: arithmetic, reading memory, wires by axis, stages that wait, the
# runtime's own work, and other requests.
Kind = Literal[
    "compute", "memory", "all-reduce", "all-to-all", "hand-off", "bubble", "overhead", "wait"
]

# Relative half-width of a prediction, by where its numbers come from: judgement, until predictions
# have been compared with runs. Measured: kernels of other shapes than those that were measured;
# datasheet: peaks that no kernel reaches; assumed: an order of magnitude.
HALF_WIDTH: dict[Source, float] = {
    "measured": 0.15,
    "published": 0.25,
    "datasheet": 0.4,
    "assumed": 0.6,
}


def half_width(source: Source, spread: float = 0.0) -> float:
    """Relative half-width of one number: a measured one's own spread where known, else by its
    source.
    """
    return spread if source == "measured" and spread > 0 else HALF_WIDTH[source]


@dataclass(frozen=True, slots=True)
class Term:
    """One named share of a phase: of TTFT ("prefill") or of the time per output token ("decode").

    `because` is the formula with its numbers. `wire_bytes` is the payload that one replica puts on
    wires of `axis` in this time, each group counted once. `spread` is the relative half-width of
    `seconds`. `kind` is what the time is spent on.
    """

    name: str
    phase: Phase
    seconds: float
    because: str
    source: Source
    wire_bytes: int = 0
    axis: Literal["tp", "pp", "ep"] | None = None
    spread: float = 0.0
    kind: Kind = "overhead"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the rank with the least room. `kv_bytes` is what the running requests fill,
    `kv_tokens` the room.

    `buffer_bytes` are communication buffers, CUDA graphs and the runtime's own. `rank` is which
    rank it is, `wasted_bytes` what the others could still hold together when it is full.
    """

    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    capacity_bytes: int
    kv_tokens: int
    buffer_bytes: int = 0
    rank: int = 0
    wasted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A layout that works, priced. `interval` holds (low, high) of ttft_s, tpot_s and
    output_tokens_per_s.

    `devices_used` counts devices; `running` is how many requests a replica runs at once.
    """

    layout: str
    placement: tuple[int, ...]
    stages: Stages
    memory: Memory
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    requests_per_s: float
    bubble_fraction: float
    running: int
    interval: dict[str, tuple[float, float]]
    terms: tuple[Term, ...]
    fits: bool = True
    reason: str | None = None

    @property
    def cut(self) -> Cut:
        """The layout with its placement and stages, as runtimes take it."""
        return Cut(parse_layout(self.layout), self.placement, self.stages)

    @property
    def devices_used(self) -> int:
        return len(self.placement)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A layout that does not work, and why, with numbers. `memory` is there when memory is why."""

    layout: str
    reason: str
    memory: Memory | None = None
    fits: bool = False


class Priced(Protocol):
    """Anything with seconds, where they come from and how wide they are."""

    @property
    def seconds(self) -> float: ...
    @property
    def source(self) -> Source: ...
    @property
    def spread(self) -> float: ...


def blend(parts: Iterable[Priced]) -> tuple[Source, float]:
    """Source and half-width of a number made of `parts`: the weakest source, the half-widths
    weighted by seconds.
    """
    known = [part for part in parts if part.seconds > 0]
    total = sum(part.seconds for part in known)
    if not known:
        return "measured", 0.0
    source = max(known, key=lambda part: HALF_WIDTH[part.source]).source
    return source, sum(part.seconds * part.spread for part in known) / total


def intervals(
    terms: Sequence[Term], *, output_tokens: int, output_tokens_per_s: float
) -> dict[str, tuple[float, float]]:
    """(low, high) of TTFT, TPOT and throughput.

    A phase's relative half-width is its terms' half-widths weighted by their seconds: errors are
    taken to go the same way, since most come from one kernel or one wire being faster or slower
    than thought. Throughput takes the one of a whole request: TTFT plus `output_tokens` - 1 times
    TPOT.
    """
    found: dict[str, tuple[float, float]] = {}
    whole = wide = 0.0
    for name, phase, times in (("ttft_s", "prefill", 1), ("tpot_s", "decode", output_tokens - 1)):
        seconds = sum(term.seconds for term in terms if term.phase == phase)
        width = sum(term.seconds * term.spread for term in terms if term.phase == phase)
        found[name] = (seconds - width, seconds + width)
        whole, wide = whole + seconds * times, wide + width * times
    share = wide / whole if whole else 0.0
    found["output_tokens_per_s"] = (
        output_tokens_per_s * (1 - share),
        output_tokens_per_s * (1 + share),
    )
    return found
