"""What a price is made of: terms, the memory of the worst rank, and the two outcomes of pricing a
layout.

    Term("weights", "decode", 1.3e-3, "11.2 MiB at 9.00 GB/s with 4 rows", "measured")

The explanation of a decision is this list of terms: nothing is explained by a second computation.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from wirecut.fabric.fabric import Source
from wirecut.facts import fact
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut
from wirecut.layout.stages import Stages

Phase = Literal["prefill", "decode"]
# What a term is spent on: arithmetic, reading memory, wires by axis, stages that wait, the
# runtime's own work, and other requests.
Kind = Literal[
    "compute", "memory", "all-reduce", "all-to-all", "hand-off", "bubble", "overhead", "wait"
]

# Relative half-width of one rate or latency by where it comes from; judgement. Measured: kernels of
# other shapes than those that were measured; datasheet: peaks that no kernel reaches; assumed: an
# order of magnitude.
HALF_WIDTH: dict[Source, float] = {
    "measured": 0.15,
    "published": 0.25,
    "datasheet": 0.4,
    "assumed": 0.6,
}
# Relative half-width w of a calculated time by what it is spent on: four of five measured TTFT,
# TPOT and throughputs lie within x / (1 + w) to x (1 + w) (fitted by benchmarks/intervals.py on
# published runs, benchmarks/serving.md). Runtimes' own work changes with every release; a wait
# depends on who came when. Bubbles are as wide as the work that causes them.
KIND_WIDTH: dict[Kind, float] = {
    "compute": 0.4,
    "memory": 0.15,
    "all-reduce": 0.3,
    "all-to-all": 0.3,
    "hand-off": 0.3,
    "overhead": 0.6,
    "wait": 1.0,
}
# So many times as wide on a device whose kernels are derived from another generation's.
ASSUMED_WIDER = 1.5


def half_width(source: Source, spread: float = 0.0) -> float:
    """Relative half-width of one number: a measured one's own spread where known, else by its
    source.
    """
    return spread if source == "measured" and spread > 0 else HALF_WIDTH[source]


def time_width(kind: Kind, source: Source, spread: float = 0.0) -> float:
    """Relative half-width of a time: a measured one's own spread, else by what it is spent on."""
    if source == "measured":
        return half_width(source, spread)
    return KIND_WIDTH[kind] * (ASSUMED_WIDER if source == "assumed" else 1.0)


@fact
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


@fact
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


@fact
class Estimate:
    """A layout that works, priced. `interval` holds (low, high) of ttft_s, tpot_s and
    output_tokens_per_s.

    `devices_used` counts devices; `running` is how many requests a replica runs at once. `shares`:
    of each rank of a TP group, where they are not alike.
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
    shares: tuple[int, ...] = ()

    @property
    def cut(self) -> Cut:
        """The layout with its placement and stages, as runtimes take it."""
        return Cut(parse_layout(self.layout), self.placement, self.stages, self.shares)

    @property
    def devices_used(self) -> int:
        return len(self.placement)


@fact
class Rejected:
    """A layout that does not work, and why, with numbers. `memory` is there when memory is why."""

    layout: str
    reason: str
    memory: Memory | None = None
    fits: bool = False


class Priced(Protocol):
    """Anything with seconds, what they are spent on, where they come from and how wide they are."""

    @property
    def seconds(self) -> float: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def source(self) -> Source: ...
    @property
    def spread(self) -> float: ...


def blend(parts: Iterable[Priced]) -> tuple[Source, float]:
    """Source and half-width of a time made of `parts`: the weakest source, the half-widths weighted
    by seconds.
    """
    known = [part for part in parts if part.seconds > 0]
    total = sum(part.seconds for part in known)
    if not known:
        return "measured", 0.0
    source = max(known, key=lambda part: HALF_WIDTH[part.source]).source
    wide = sum(part.seconds * time_width(part.kind, part.source, part.spread) for part in known)
    return source, wide / total


def intervals(
    terms: Sequence[Term], *, output_tokens: int, output_tokens_per_s: float
) -> dict[str, tuple[float, float]]:
    """(low, high) of TTFT, TPOT and throughput: x / (1 + w) and x (1 + w).

    w is the terms' half-widths weighted by their seconds: errors are taken to go the same way,
    since most come from one kernel or one wire being faster or slower than thought. Throughput
    takes the one of a whole request, TTFT plus `output_tokens` - 1 times TPOT, without its waits
    before the first token: a longer queue moves work and makes none.
    """
    prefill = [term for term in terms if term.phase == "prefill"]
    decode = [term for term in terms if term.phase == "decode"]
    work = [(term, 1) for term in prefill if term.kind != "wait"]
    whole = [*work, *((term, output_tokens - 1) for term in decode)]
    widths = {
        "ttft_s": _width((term, 1) for term in prefill),
        "tpot_s": _width((term, 1) for term in decode),
        "output_tokens_per_s": _width(whole),
    }
    values = {
        "ttft_s": sum(term.seconds for term in prefill),
        "tpot_s": sum(term.seconds for term in decode),
        "output_tokens_per_s": output_tokens_per_s,
    }
    return {
        name: (value / (1 + widths[name]), value * (1 + widths[name]))
        for name, value in values.items()
    }


def _width(terms: Iterable[tuple[Term, int]]) -> float:
    """Mean half-width of terms that occur so often, weighted by their seconds."""
    known = [(times * term.seconds, term.spread) for term, times in terms]
    total = sum(seconds for seconds, _ in known)
    return sum(seconds * spread for seconds, spread in known) / total if total else 0.0
