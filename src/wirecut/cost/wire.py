"""What goes over the wires: exact counts of calls and payload bytes.

    sums = {"forwards": 3, "tokens": 40, "logit_rows": 12, "gathers": 2}
    wire_traffic(spec, Layout(tp=2), **sums, dtype="bf16")["tp"].bytes

Knows no time: what a call takes is in `collectives.py`.
"""

from typing import Literal

from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.shards import padded_vocab
from wirecut.spec.feedforward import Moe
from wirecut.spec.model import Layer, ModelSpec
from wirecut.units import DTYPE_BYTES

Axis = Literal["tp", "pp", "ep"]
AXES: tuple[Axis, ...] = ("tp", "pp", "ep")


@fact
class WireItem:
    """Calls and payload bytes of one kind of call."""

    name: str
    axis: Axis
    calls: int
    bytes: int


@fact
class WireCount:
    """Calls and payload bytes on one axis of one replica, each group counted once."""

    calls: int
    bytes: int


def exchanges(layer: Layer, layout: Layout) -> bool:
    """Whether tokens travel to this layer's experts and back, instead of a sum over TP: experts
    that several replicas share.
    """
    return layout.ep > 1 and layout.dp > 1 and isinstance(layer.mlp, Moe)


def wire_traffic(
    spec: ModelSpec,
    layout: Layout,
    *,
    forwards: int,
    tokens: int,
    logit_rows: int,
    gathers: int,
    dtype: str,
    handoffs: int = 1,
) -> dict[Axis, WireCount]:
    """Calls and payload bytes by axis, for one replica, over `forwards` forwards of `tokens` tokens
    in all.

    `logit_rows` is how many rows of logits were wanted in all, `gathers` how many forwards wanted
    any, `handoffs` how many hidden states a boundary sends per token. Payloads do not depend on the
    algorithm: an all-reduce of n bytes counts n.
    """
    items = wire_items(
        spec,
        layout,
        forwards=forwards,
        tokens=tokens,
        logit_rows=logit_rows,
        gathers=gathers,
        dtype=dtype,
        handoffs=handoffs,
    )
    return {
        axis: WireCount(
            sum(item.calls for item in items if item.axis == axis),
            sum(item.bytes for item in items if item.axis == axis),
        )
        for axis in AXES
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
    handoffs: int = 1,
) -> tuple[WireItem, ...]:
    """The same by kind of call. TP (Shoeybi et al. 2019, Megatron-LM, section 3): an all-reduce
    behind each mixer and each feed-forward, one for the embedding, one logits gather. EP over
    replicas: this one's tokens to their experts and back in each layer that has any. PP: one
    hand-off a boundary, whatever TP is.
    """
    size = DTYPE_BYTES[dtype]
    row_bytes = tokens * spec.hidden * size
    routed = sum(n for layer, n in spec.kinds.items() if exchanges(layer, layout))
    items: list[WireItem] = []
    if layout.tp > 1:
        sums = sum(n * (bool(one.mixer) + bool(one.mlp)) for one, n in spec.kinds.items())
        reduces, logit_bytes = sums - routed + 1, padded_vocab(spec.vocab, layout.tp) * size
        items.append(WireItem("all-reduce", "tp", reduces * forwards, reduces * row_bytes))
        items.append(WireItem("logits gather", "tp", gathers, logit_rows * logit_bytes))
    if routed:
        for name in ("dispatch", "combine"):
            items.append(WireItem(name, "ep", routed * forwards, routed * row_bytes))
    if layout.pp > 1:
        boundaries = layout.pp - 1
        sent = boundaries * handoffs * row_bytes
        items.append(WireItem("hand-off", "pp", boundaries * forwards, sent))
    return tuple(items)
