"""What goes over the wires: exact counts of calls and payload bytes, and how long one call takes.

    sums = {"forwards": 3, "tokens": 40, "logit_rows": 12, "gathers": 2}
    wire_traffic(spec, Layout(tp=2), **sums, dtype="bf16")["tp"].bytes

Knows no compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wirecut.cost.terms import half_width
from wirecut.fabric.fabric import Curve, Fabric, Link, Source
from wirecut.layout.layout import Layout
from wirecut.layout.shards import padded_vocab
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES, show_bytes, show_rate, show_seconds

Axis = Literal["tp", "pp"]


@dataclass(frozen=True, slots=True)
class WireItem:
    """Calls and payload bytes of one kind of call."""

    name: str
    axis: Axis
    calls: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WireCount:
    """Calls and payload bytes on one axis of one replica, each group counted once."""

    calls: int
    bytes: int


def wire_traffic(
    spec: ModelSpec,
    layout: Layout,
    *,
    forwards: int,
    tokens: int,
    logit_rows: int,
    gathers: int,
    dtype: str,
) -> dict[Axis, WireCount]:
    """Calls and payload bytes by axis, for one replica, over `forwards` forwards of `tokens` tokens
    in all.

    `logit_rows` is how many rows of logits were wanted in all, `gathers` how many forwards wanted
    any. Payloads do not depend on the algorithm: an all-reduce of n bytes counts n.
    """
    items = wire_items(
        spec,
        layout,
        forwards=forwards,
        tokens=tokens,
        logit_rows=logit_rows,
        gathers=gathers,
        dtype=dtype,
    )
    axes: tuple[Axis, ...] = ("tp", "pp")
    return {
        axis: WireCount(
            sum(item.calls for item in items if item.axis == axis),
            sum(item.bytes for item in items if item.axis == axis),
        )
        for axis in axes
        if any(item.axis == axis for item in items)
    }


def wire_items(
    spec: ModelSpec,
    layout: Layout,
    *,
    forwards: int,
    tokens: int,
    logit_rows: int,
    gathers: int,
    dtype: str,
) -> tuple[WireItem, ...]:
    """The same by kind of call. TP (Shoeybi et al. 2019, Megatron-LM, section 3): two all-reduces a
    layer, one for the embedding, one logits gather. PP: one hand-off a boundary, whatever TP is.
    """
    size = DTYPE_BYTES[dtype]
    row_bytes = tokens * spec.hidden * size
    items: list[WireItem] = []
    if layout.tp > 1:
        reduces, logit_bytes = 2 * spec.num_layers + 1, padded_vocab(spec.vocab, layout.tp) * size
        items.append(WireItem("all-reduce", "tp", reduces * forwards, reduces * row_bytes))
        items.append(WireItem("logits gather", "tp", gathers, logit_rows * logit_bytes))
    if layout.pp > 1:
        boundaries = layout.pp - 1
        items.append(WireItem("hand-off", "pp", boundaries * forwards, boundaries * row_bytes))
    return tuple(items)


@dataclass(frozen=True, slots=True)
class Price:
    """How long one call takes, and why."""

    seconds: float
    because: str
    source: Source
    spread: float


def all_reduce_price(fabric: Fabric, group: Sequence[int], num_bytes: float) -> Price:
    """One all-reduce of `num_bytes` among devices: the measured curve, else a ring over the slowest
    link.

    Ring (Patarasuk and Yuan 2009): 2 (n - 1) steps, each moving bytes / n.
    """
    link, ranks = fabric.slowest_link(group), len(group)
    curve = fabric.curve("all_reduce", group)
    if curve is not None:
        return _from_curve(curve, link, num_bytes)
    steps, share = 2 * (ranks - 1), num_bytes / ranks
    seconds = steps * (link.latency_s + share / link.bytes_per_s)
    because = f"ring: {steps} steps x {_line(link, share)}"
    return Price(seconds, because, link.source, half_width(link.source, link.spread))


def gather_price(fabric: Fabric, group: Sequence[int], num_bytes: float) -> Price:
    """Collect `num_bytes` that are spread evenly over `group` at one device: n - 1 sends of a share
    each.
    """
    sends = len(group) - 1
    one = send_price(fabric, fabric.slowest_link(group), num_bytes / len(group))
    because = f"{sends} send{'s' if sends > 1 else ''} of {one.because}"
    return Price(sends * one.seconds, because, one.source, one.spread)


def send_price(fabric: Fabric, link: Link, num_bytes: float) -> Price:
    """One send of `num_bytes` over `link`: the measured curve of its kind, else latency plus bytes
    over bandwidth.
    """
    curve = fabric.curve("send_recv", (link.a, link.b))
    if curve is not None:
        return _from_curve(curve, link, num_bytes)
    seconds = link.latency_s + num_bytes / link.bytes_per_s
    return Price(seconds, _line(link, num_bytes), link.source, half_width(link.source, link.spread))


def _from_curve(curve: Curve, link: Link, num_bytes: float) -> Price:
    seconds = curve.seconds(num_bytes)
    because = f"{show_seconds(seconds)} at {show_bytes(num_bytes)} over {link.kind}"
    return Price(seconds, because, curve.source, half_width(curve.source, link.spread))


def _line(link: Link, num_bytes: float) -> str:
    """The two numbers of a straight line: '(5.00 us + 256 B / 2.50 GB/s over shm)'."""
    wire = f"{show_bytes(num_bytes)} / {show_rate(link.bytes_per_s)} over {link.kind}"
    return f"({show_seconds(link.latency_s)} + {wire})"
