"""One forward of one replica, priced stage by stage: pieces with their formulas, seconds of compute
and of wires.

    forward = price_forward(replica, Batch(decodes=4, context=550))
    sum(forward.compute_s), [piece.because for piece in forward.pieces]

Knows no traffic: how forwards follow one another is in `pace.py`.
"""

from collections.abc import Sequence
from functools import partial

from wirecut.cost.forward import Batch, Forward, Piece
from wirecut.cost.host import layer_host_s, shared_half_s
from wirecut.cost.replica import Replica, Stage
from wirecut.cost.step_wires import between, between_pieces, wire_pieces, wires
from wirecut.cost.terms import Kind, half_width
from wirecut.cost.work import LayerWork
from wirecut.facts import fact
from wirecut.units import DTYPE_BYTES, show_bytes, show_flops, show_rate, show_seconds

COMPUTE_BOUND_ROWS = 32  # from about here a product is told by its FLOPs, below by its bytes
# Kernels between the products of a layer where runtimes fuse what they can: norm with residual,
# rotary with the cache write, norm, activation.
SMALL_KERNELS = 4
# Kernels that the host starts in a layer without a graph, and for a mixture of experts besides:
# scores, choice, sorting, both products, sum, and each one's bookkeeping.
LAUNCHES, ROUTED_LAUNCHES = 12, 280
SAMPLING_PASSES = 3  # over a row of logits in fp32: scale, softmax or maximum, choose


@fact
class Spent:
    """Seconds of one stage on one thing, and the kind of time that is."""

    seconds: float
    kind: Kind


def price_forward(replica: Replica, batch: Batch) -> Forward:
    """Price one forward, stage by stage, piece by piece; each batch once per replica."""
    known = replica.forwards.get(batch)
    if known is None:
        known = replica.forwards[batch] = _price_forward(replica, batch)
    return known


def _price_forward(replica: Replica, batch: Batch) -> Forward:
    stages = range(len(replica.stages))
    lines = [wires(replica, stage, batch) for stage in stages]
    compute = [
        _compute(replica, stage, batch, sum(line.seconds for line in lines[stage]))
        for stage in stages
    ]
    handoffs, back = between(replica, batch)

    def pieces() -> tuple[Piece, ...]:
        wired = (*wire_pieces(lines), *between_pieces(handoffs, back))
        return (*_compute_pieces(replica, batch, compute), *wired)

    return Forward(
        make_pieces=pieces,
        compute_s=tuple(sum(one.seconds for one in stage.values()) for stage in compute),
        wire_s=tuple(sum(line.seconds for line in stage) for stage in lines),
        handoffs_s=tuple(price.seconds for price in handoffs),
        back_s=back.seconds if back else 0.0,
    )


def _compute(replica: Replica, index: int, batch: Batch, wires_s: float) -> dict[str, Spent]:
    """What one stage computes, by name of piece; `wires_s` pass between its kernels."""
    stage = replica.stages[index]
    found = {
        "weights": _products(replica, stage, batch),
        "experts": _experts(replica, stage, batch),
        "LM head": _head(stage, batch),
        **_attention(stage, batch),
    }
    between_s = _small(replica, stage, batch)
    device_s = sum(one.seconds for one in found.values()) + between_s + wires_s
    return {
        **found,
        "launches": Spent(between_s + _launches(replica, stage, batch, device_s), "overhead"),
        "step": Spent(_step(replica, index, batch), "overhead"),
    }


def _bound(replica: Replica, rows: float, seconds: float, weight_bytes: float) -> Kind:
    """Whether reading the weights or multiplying takes the time."""
    device = replica.stages[0].device
    reading = weight_bytes / device.bytes_per_s
    return "memory" if rows < COMPUTE_BOUND_ROWS or reading > 0.5 * seconds else "compute"


def _products(replica: Replica, stage: Stage, batch: Batch) -> Spent:
    rate, total, held = stage.rate, 0.0, 0.0
    for work, count in stage.works:
        for one in work.products:
            seconds = rate.product_s(one, batch.rows, streamed=stage.streamed, busy=batch.busy)
            total += count * seconds
            held += count * one.weight_bytes
    return Spent(total, _bound(replica, batch.rows, total, held))


def _experts(replica: Replica, stage: Stage, batch: Batch) -> Spent:
    layout, total, held, rows = replica.cut.layout, 0.0, 0.0, 0.0
    tokens = batch.rows * ((batch.replicas or layout.dp) if layout.ep > 1 else 1)
    for work, count in stage.works:
        if work.routed:
            rows = tokens * work.routed.top_k / work.routed.experts
            total += count * stage.rate.routed_s(
                work.routed, tokens, streamed=stage.streamed, busy=batch.busy
            )
            held += count * work.routed.weight_bytes
    return Spent(total, _bound(replica, rows, total, held))


def _head(stage: Stage, batch: Batch) -> Spent:
    if stage.head is None or not batch.logit_rows:
        return Spent(0.0, "memory")
    seconds = stage.rate.product_s(
        stage.head, batch.logit_rows, streamed=stage.streamed, busy=batch.busy
    )
    sampled = SAMPLING_PASSES * batch.logit_rows * stage.head.n * 4.0
    return Spent(seconds + stage.rate.small_s(2, sampled), "memory")


def _attention(stage: Stage, batch: Batch) -> dict[str, Spent]:
    read = computed = 0.0
    for work, count in stage.works:
        reading, multiplying = stage.rate.decode_s(work, batch)
        read += count * reading
        computed += count * (multiplying + stage.rate.chunk_s(work, batch))
    return {"KV cache": Spent(read, "memory"), "attention": Spent(computed, "compute")}


def _small(replica: Replica, stage: Stage, batch: Batch) -> float:
    """Kernels between the products."""
    hidden, size = replica.pricing.spec.hidden, DTYPE_BYTES[replica.pricing.dtype]
    total = 0.0
    for work, count in stage.works:
        moved = (4 * hidden * work.reduces + _widths(work)) * size * batch.rows
        kernels = SMALL_KERNELS // 2 * work.reduces
        total += count * stage.rate.small_s(kernels, moved)
    return total


def _widths(work: LayerWork) -> float:
    """Elements a row that rotary and activation read and write."""
    wide = {"qkv": 2.0, "gate_up": 1.5}
    return sum(wide.get(one.name, 0.0) * one.n for one in work.products)


def _launches(replica: Replica, stage: Stage, batch: Batch, device_s: float) -> float:
    """Starting kernels from the host: in full on cores, on a GPU what it takes longer than the
    kernels themselves.
    """
    steps, rate = replica.pricing.engine.steps, stage.rate
    if not stage.device.kind.startswith("gpu"):
        return _host(replica, stage, batch)
    if steps.graphs and not batch.chunk:
        return 0.0
    routed = sum(count for work, count in stage.works if work.routed)
    launches = stage.layers * LAUNCHES + routed * ROUTED_LAUNCHES
    host_s = stage.layers * steps.ops_per_layer * rate.launch_s() or launches * steps.kernel_s
    return max(0.0, host_s - device_s)


def _host(replica: Replica, stage: Stage, batch: Batch) -> float:
    """What cores do in the layers beside their products."""
    pricing, group = replica.pricing, stage.group
    layer_s = partial(
        layer_host_s,
        pricing,
        rows=batch.rows,
        ranks=len(group),
        half_s=shared_half_s(pricing.fabric, stage.device.half_s, group),
        launch_s=stage.rate.launch_s(batch.busy),
    )
    return sum(count * layer_s(work) for work, count in stage.works)


def _step(replica: Replica, index: int, batch: Batch) -> float:
    """What the runtime does around a forward: schedule, batch, sampling."""
    engine, stage = replica.pricing.engine.steps, replica.stages[index]
    ops = engine.step_ops if index == 0 else engine.stage_ops
    host_s = 0.0 if engine.ahead and index else engine.host_s
    if index == len(replica.stages) - 1:
        ops += engine.ops_per_sequence * batch.logit_rows
        host_s += engine.sequence_s * batch.logit_rows
    return ops * stage.rate.launch_s(batch.busy, streamed=stage.streamed) + host_s


def _compute_pieces(
    replica: Replica, batch: Batch, by_stage: Sequence[dict[str, Spent]]
) -> list[Piece]:
    rate = max((stage.rate for stage in replica.stages), key=lambda one: one.spread)
    seconds = {name: sum(stage[name].seconds for stage in by_stage) for name in by_stage[0]}
    found: list[Piece] = []
    for name, total_s in seconds.items():
        if total_s == 0 and name in ("experts", "attention"):
            continue
        kind = max((stage[name] for stage in by_stage), key=lambda one: one.seconds).kind
        source, spread = rate.source, rate.spread
        if name == "step" and replica.pricing.engine.steps.host_s:
            source, spread = "published", half_width("published")
        words = partial(_because, replica, batch, name, total_s)
        found.append(Piece(name, total_s, words, source, spread, kind))
    return found


def _because(replica: Replica, batch: Batch, name: str, seconds: float) -> str:
    """The words of one piece of all stages."""
    stages, pricing = replica.stages, replica.pricing
    layers = sum(stage.layers for stage in stages)
    if name == "KV cache":
        return f"{batch.decodes} sequences x {batch.context:.0f} tokens, {layers} layers"
    if name == "attention":
        return f"{batch.chunk} prompt tokens, each over {batch.chunk_keys:.0f} keys"
    if name == "launches":
        return f"{layers} layers: {show_seconds(seconds / max(1, layers))} each"
    if name == "step":
        return f"{pricing.engine.name}: schedule, batch, sampling"
    if name == "LM head":
        held = sum(stage.head.weight_bytes for stage in stages if stage.head)
        return _streaming(held, batch.logit_rows, seconds, DTYPE_BYTES[pricing.dtype])
    if name == "experts":
        routed = [(n, w.routed) for stage in stages for w, n in stage.works if w.routed]
        held, one = sum(n * own.weight_bytes for n, own in routed), routed[0][1]
        return f"{show_bytes(held)}, {one.here} of {one.experts} experts here, {batch.rows} rows"
    products = [(n, one) for stage in stages for w, n in stage.works for one in w.products]
    held = sum(n * one.weight_bytes for n, one in products)
    elements = sum(n * one.n * one.k for n, one in products)
    return _streaming(held, batch.rows, seconds, held / max(1, elements))


def _streaming(weight_bytes: float, rows: int, seconds: float, itemsize: float) -> str:
    if seconds == 0:
        return "no rows"
    rows_text = f"{rows} row{'s' if rows != 1 else ''}"
    speed = f"{show_rate(weight_bytes / seconds)} with {rows_text}"
    if rows >= COMPUTE_BOUND_ROWS:
        speed = f"{show_flops(2 * rows * weight_bytes / itemsize / seconds)}, {rows_text}"
    return f"{show_bytes(weight_bytes)} at {speed}"
