"""One forward of one replica, priced stage by stage: pieces with their formulas, seconds of compute
and of wires.

    forward = price_forward(replica, Batch(4, 4, kv_tokens=2200, pairs=2200, logit_rows=4))
    sum(forward.compute_s), [piece.because for piece in forward.pieces]

Knows no traffic: how forwards follow one another is in `load.py`.
"""

from collections.abc import Sequence

from wirecut.cost.collectives import Price, all_reduce_price, gather_price, send_price
from wirecut.cost.forward import Batch, Forward, Piece
from wirecut.cost.replica import Replica
from wirecut.cost.terms import half_width
from wirecut.layout.shards import padded_vocab
from wirecut.units import DTYPE_BYTES, show_bytes, show_flops, show_rate, show_seconds

COMPUTE_BOUND_ROWS = 32  # from about here a product is told by its FLOPs, below by its bytes


def price_forward(replica: Replica, batch: Batch) -> Forward:
    """Price one forward, stage by stage, piece by piece; each batch once per replica."""
    known = replica.forwards.get(batch)
    if known is None:
        known = replica.forwards[batch] = _price_forward(replica, batch)
    return known


def _price_forward(replica: Replica, batch: Batch) -> Forward:
    stages = range(len(replica.stages))
    compute = [_compute(replica, stage, batch) for stage in stages]
    wires = [_wires(replica, stage, batch) for stage in stages]
    handoffs, back = _between(replica, batch)
    pieces = [
        *_compute_pieces(replica, batch, compute),
        *_wire_pieces(replica, batch, wires),
        *_between_pieces(handoffs, back),
    ]
    return Forward(
        pieces=tuple(pieces),
        compute_s=tuple(sum(one.values()) for one in compute),
        wire_s=tuple(sum(count * price.seconds for count, price in one.values()) for one in wires),
        handoffs_s=tuple(price.seconds for price in handoffs),
        back_s=back.seconds if back else 0.0,
    )


def _compute(replica: Replica, index: int, batch: Batch) -> dict[str, float]:
    """Seconds of one stage by name of piece."""
    stage, engine, rate = replica.stages[index], replica.pricing.engine, replica.stages[index].rate
    launch_s, streamed = rate.launch_s(batch.busy), stage.layer_bytes + stage.head_bytes
    per_sequence = engine.ops_per_sequence_layer if stage.device.kind.startswith("cpu") else 0
    between_s = rate.launch_s(batch.busy, streamed=streamed)
    step_ops = engine.step_ops if index == 0 else engine.stage_ops
    if index == len(replica.stages) - 1:
        step_ops += engine.ops_per_sequence * batch.logit_rows
    return {
        "weights": rate.seconds(
            weight_bytes=stage.layer_bytes,
            rows=batch.rows,
            working_set_bytes=streamed,
            busy=batch.busy,
        ),
        "LM head": rate.seconds(
            weight_bytes=stage.head_bytes,
            rows=batch.logit_rows,
            working_set_bytes=streamed,
            busy=batch.busy,
        ),
        "KV cache": rate.kv_seconds(batch.kv_tokens * stage.kv_token_bytes),
        "attention": rate.attention_seconds(stage.width, batch.pairs),
        "launches": stage.layers
        * (engine.ops_per_layer + per_sequence * batch.sequences)
        * launch_s,
        "step": step_ops * between_s,
    }


def _compute_pieces(
    replica: Replica, batch: Batch, by_stage: Sequence[dict[str, float]]
) -> list[Piece]:
    stages, rate = replica.stages, replica.stages[0].rate
    seconds = {name: sum(stage[name] for stage in by_stage) for name in by_stage[0]}
    layer_bytes = sum(stage.layer_bytes for stage in stages)
    head_bytes, kv_bytes = stages[-1].head_bytes, sum(stage.kv_token_bytes for stage in stages)
    flops = 4 * sum(stage.width for stage in stages) * batch.pairs
    itemsize = DTYPE_BYTES[replica.pricing.dtype]
    launch_s, layers = rate.launch_s(batch.busy), sum(stage.layers for stage in stages)
    launch = show_seconds(launch_s)
    streamed = stages[0].layer_bytes + stages[0].head_bytes
    between_s = rate.launch_s(batch.busy, streamed=streamed)
    layer_launches = _times(seconds["launches"] / layers, launch_s)
    because = {
        "weights": _streaming(layer_bytes, batch.rows, seconds["weights"], itemsize),
        "LM head": _streaming(head_bytes, batch.logit_rows, seconds["LM head"], itemsize),
        "KV cache": f"{batch.kv_tokens:.0f} tokens x {show_bytes(kv_bytes)}"
        f" / {show_rate(rate.kv_bytes_per_s)}",
        "attention": f"{flops / 1e6:.3g} MFLOP / {show_flops(rate.attention_flops_per_s)}",
        "launches": f"{layers} layers x {layer_launches} x {launch}",
        "step": f"schedule, batch, sampling: {_times(seconds['step'], between_s)} x "
        f"{show_seconds(between_s)}",
    }
    width = half_width(rate.source)
    return [Piece(name, s, because[name], rate.source, width) for name, s in seconds.items()]


def _streaming(weight_bytes: float, rows: int, seconds: float, itemsize: int) -> str:
    if seconds == 0:
        return "no rows"
    rows_text = f"{rows} row{'s' if rows != 1 else ''}"
    speed = f"{show_rate(weight_bytes / seconds)} with {rows_text}"
    if rows >= COMPUTE_BOUND_ROWS:
        speed = f"{show_flops(2 * rows * weight_bytes / itemsize / seconds)}, {rows_text}"
    return f"{show_bytes(weight_bytes)} at {speed}"


def _times(seconds: float, launch_s: float) -> str:
    """Seconds as a number of launches."""
    return f"{seconds / launch_s:.0f} launches" if launch_s else "0 launches"


def _wires(replica: Replica, index: int, batch: Batch) -> dict[str, tuple[int, Price]]:
    """Calls of one stage's TP group by name of piece: how many, and the price of one."""
    stage, pricing = replica.stages[index], replica.pricing
    if len(stage.group) == 1:
        return {}
    size, fabric = DTYPE_BYTES[pricing.dtype], pricing.fabric
    calls = 2 * stage.layers + (1 if index == 0 else 0)
    row_bytes = batch.rows * pricing.spec.hidden * size
    tp, library = len(stage.group), pricing.engine.library
    at_once = max(1, batch.busy // tp) if batch.busy else replica.groups_at_once
    price = all_reduce_price(fabric, stage.group, row_bytes, at_once=at_once, library=library)
    found = {"all-reduce": (calls, price)}
    if index == len(replica.stages) - 1 and batch.logit_rows:
        logits = batch.logit_rows * padded_vocab(pricing.spec.vocab, len(stage.group)) * size
        found["logits gather"] = (
            1,
            gather_price(
                fabric,
                stage.group,
                logits,
                at_once=min(at_once, replica.cut.layout.dp),  # only last stages gather
                library=library,
            ),
        )
    if index == 0:
        link = fabric.slowest_link(stage.group)
        found["step message"] = (1, send_price(fabric, link, pricing.engine.message_bytes))
    return found


def _wire_pieces(
    replica: Replica, batch: Batch, by_stage: Sequence[dict[str, tuple[int, Price]]]
) -> list[Piece]:
    pieces: list[Piece] = []
    for name in ("all-reduce", "logits gather", "step message"):
        found = [stage[name] for stage in by_stage if name in stage]
        if not found:
            continue
        calls, seconds = sum(n for n, _ in found), sum(n * price.seconds for n, price in found)
        price = max((price for _, price in found), key=lambda price: price.seconds)
        because = f"{calls} x {price.because}"
        pieces.append(Piece(name, seconds, because, price.source, price.spread))
    return pieces


def _between(replica: Replica, batch: Batch) -> tuple[list[Price], Price | None]:
    """Hand-offs between stages, and the way of the tokens back to the first stage's first rank."""
    pricing = replica.pricing
    if not replica.boundaries:
        return [], None
    num_bytes = batch.rows * pricing.spec.hidden * DTYPE_BYTES[pricing.dtype]
    replicas = replica.cut.layout.dp
    handoffs = [
        send_price(pricing.fabric, link, num_bytes, at_once=replicas) for link in replica.boundaries
    ]
    first, last = replica.stages[0].group[0], replica.stages[-1].group[0]
    link = pricing.fabric.link(last, first)
    return handoffs, send_price(pricing.fabric, link, pricing.engine.message_bytes)


def _between_pieces(handoffs: Sequence[Price], back: Price | None) -> list[Piece]:
    if back is None:
        return []
    slowest = max(handoffs, key=lambda price: price.seconds)
    seconds, because = sum(price.seconds for price in handoffs), slowest.because
    because = f"{len(handoffs)} x {because}"
    return [
        Piece("hand-off", seconds, because, slowest.source, slowest.spread, between_stages=True),
        Piece("tokens back", back.seconds, back.because, back.source, back.spread, True),
    ]
