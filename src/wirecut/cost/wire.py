"""What goes over the wires: exact counts of calls and payload bytes.

    sums = {"forwards": 3, "tokens": 40, "logit_rows": 12, "gathers": 2}
    wire_traffic(wire_items(spec, Layout(tp=2), **sums, dtype="bf16"))["tp"].bytes

Knows no time: what a call takes is in `collectives.py`.
"""

from collections.abc import Iterable
from typing import Literal

from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.shards import padded_vocab
from wirecut.spec.feedforward import Moe
from wirecut.spec.model import Layer, ModelSpec
from wirecut.units import DTYPE_BYTES

Axis = Literal["tp", "pp", "ep"]
PICK_BYTES = 8  # an expert's number and weight, int32 and fp32


@fact
class WireItem:
    """Calls and payload bytes of one kind of call."""

    name: str
    axis: Axis
    calls: int
    bytes: int


@fact
class WireCount:
    """Calls and payload bytes on one axis, each group counted once."""

    calls: int
    bytes: int


def routed_layers(spec: ModelSpec, layout: Layout) -> dict[Layer, int]:
    """The layers whose tokens travel to their experts and back, since replicas share those."""
    if not layout.shares_experts:
        return {}
    return {layer: count for layer, count in spec.kinds.items() if isinstance(layer.mlp, Moe)}


def wire_traffic(items: Iterable[WireItem]) -> dict[Axis, WireCount]:
    """Calls and payload bytes by axis. Payloads do not depend on the algorithm: an all-reduce of n
    bytes counts n.
    """
    counts: dict[Axis, WireCount] = {}
    for item in items:
        before = counts.get(item.axis, WireCount(0, 0))
        counts[item.axis] = WireCount(before.calls + item.calls, before.bytes + item.bytes)
    return counts


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
    sums: bool = True,
) -> tuple[WireItem, ...]:
    """Calls and payload bytes by kind of call inside one replica, over `forwards` forwards of
    `tokens` tokens in all.

    `logit_rows` is how many rows of logits were wanted in all, `gathers` how many forwards wanted
    any, `handoffs` how many hidden states a boundary sends per token, `sums` whether TP ranks sum
    what came back from experts of other replicas. TP (Shoeybi et al. 2019, Megatron-LM, section 3):
    an all-reduce behind each mixer and each feed-forward, one for the embedding, one logits gather.
    PP: one hand-off a boundary, whatever TP is.
    """
    size = DTYPE_BYTES[dtype]
    row_bytes = tokens * spec.hidden * size
    items: list[WireItem] = []
    if layout.tp > 1:
        reduces = 1 + sum(n * (bool(one.mixer) + bool(one.mlp)) for one, n in spec.kinds.items())
        if not sums:
            reduces -= sum(routed_layers(spec, layout).values())
        logit_bytes = padded_vocab(spec.vocab, layout.tp) * size
        items.append(WireItem("all-reduce", "tp", reduces * forwards, reduces * row_bytes))
        items.append(WireItem("logits gather", "tp", gathers, logit_rows * logit_bytes))
    if layout.pp > 1:
        boundaries = layout.pp - 1
        sent = boundaries * handoffs * row_bytes
        items.append(WireItem("hand-off", "pp", boundaries * forwards, sent))
    return tuple(items)


def exchange_items(
    spec: ModelSpec, layout: Layout, *, forwards: int, copies: float, dtype: str
) -> tuple[WireItem, ...]:
    """Dispatch and combine between replicas that share experts, over `forwards` forwards of all of
    them at once. `copies` of rows went there in all layers together, one for each rank that a row
    went to, and came back; there with the number and weight of each pick.
    """
    layers = routed_layers(spec, layout)
    if not layers:
        return ()
    calls = sum(layers.values()) * forwards
    moe = next(layer.mlp for layer in layers if isinstance(layer.mlp, Moe))
    row_bytes = (moe.latent or spec.hidden) * DTYPE_BYTES[dtype]
    return (
        WireItem("dispatch", "ep", calls, round(copies * (row_bytes + moe.top_k * PICK_BYTES))),
        WireItem("combine", "ep", calls, round(copies * row_bytes)),
    )
