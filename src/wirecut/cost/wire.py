"""What goes over the wires: exact counts of calls and payload bytes.

    sums = {"forwards": 3, "tokens": 40, "logit_rows": 12, "gathers": 2}
    wire_traffic(spec, Layout(tp=2), **sums, dtype="bf16")["tp"].bytes

Knows no time: what a call takes is in `collectives.py`.
"""

from dataclasses import dataclass
from typing import Literal

from wirecut.layout.layout import Layout
from wirecut.layout.shards import padded_vocab
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES

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
