"""The price of one cut under one load: `Estimate` with every term, or `Rejected` with the numbers.

    outcome = estimate(Pricing(spec, fabric, dtype="bf16"), cut, traffic)

Knows one cut at a time: the search is the planner's.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from wirecut.cost.exchange import copies_sent, exchange_of
from wirecut.cost.flow import Timing
from wirecut.cost.forward import Forward, Piece
from wirecut.cost.load import Load, time_load
from wirecut.cost.memory import why_no_room
from wirecut.cost.pace import Prefill
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.terms import (
    KIND_WIDTH,
    Estimate,
    Kind,
    Memory,
    Phase,
    Rejected,
    Term,
    blend,
    intervals,
    time_width,
)
from wirecut.cost.wire import WireItem, exchange_items, wire_items
from wirecut.errors import FabricError, UsageError
from wirecut.fabric.fabric import Source
from wirecut.facts import fact
from wirecut.layout.plan import Cut
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds


@fact
class Candidate:
    """A cut that the memory allows: it can be timed under any load that its requests fit."""

    cut: Cut
    replica: Replica
    memory: Memory
    most_running: int

    def timing(self, traffic: Traffic, *, speed: float = 1.0) -> Timing:
        """What `traffic` meets, with every wire `speed` times as fast."""
        load = Load(traffic, self.cut.layout.dp, self.most_running)
        return time_load(self.replica, load, speed=speed)


def check_traffic(spec: ModelSpec, traffic: Traffic) -> None:
    """Raise UsageError for a load that this model cannot answer on any device."""
    wanted = traffic.input_tokens + traffic.output_tokens
    if wanted > spec.max_positions:
        raise UsageError(
            f"{traffic.input_tokens} tokens in and {traffic.output_tokens} out make {wanted} "
            f"positions; {spec.name} has {spec.max_positions} (max_position_embeddings): "
            "ask for fewer tokens"
        )
    if traffic.static_batch and traffic.rate not in (None, float("inf")):
        raise UsageError("a static batch starts together: give num_requests or rate=inf, no rate")


def consider(pricing: Pricing, cut: Cut, traffic: Traffic) -> Candidate | Rejected:
    """The cut ready for timing, or why its memory or its wires do not do."""
    try:
        replica = Replica(pricing, cut)
    except FabricError as error:
        return Rejected(str(cut.layout), str(error))
    return fit(replica, traffic)


def fit(replica: Replica, traffic: Traffic) -> Candidate | Rejected:
    """The replica ready for timing, or why its memory does not do."""
    pricing = replica.pricing
    request_tokens = pricing.in_blocks(traffic.input_tokens + traffic.output_tokens)
    memory = replica.memory(request_tokens)
    token_bytes = replica.kv_token_bytes(request_tokens)
    reason = why_no_room(memory, request_tokens, token_bytes, pricing.engine)
    if reason is not None:
        return Rejected(str(replica.cut.layout), reason, memory)
    filled = _filled_tokens(pricing, traffic)
    most_running = max(1, min(pricing.limits.max_seqs, memory.kv_tokens // filled))
    return Candidate(replica.cut, replica, memory, most_running)


def _filled_tokens(pricing: Pricing, traffic: Traffic) -> int:
    """Tokens that a running request fills: all that it may reach where the runtime reserves room
    for them, else those of a request halfway through its answer, the mean.
    """
    outputs = traffic.output_tokens
    if not pricing.engine.batching.reserves:
        outputs = -(-outputs // 2)
    return pricing.in_blocks(traffic.input_tokens + outputs)


def estimate(pricing: Pricing, cut: Cut, traffic: Traffic) -> Estimate | Rejected:
    """Price one cut. Raises UsageError for traffic that the model cannot answer."""
    check_traffic(pricing.spec, traffic)
    candidate = consider(pricing, cut, traffic)
    return candidate if isinstance(candidate, Rejected) else price(candidate, traffic)


def price(candidate: Candidate, traffic: Traffic) -> Estimate:
    """The estimate of a cut that works, its terms summing to TTFT and TPOT."""
    timing, replica = candidate.timing(traffic), candidate.replica
    terms = (*_prefill_terms(candidate, timing, traffic), *_decode_terms(candidate, timing))
    filled, held = _filled_tokens(replica.pricing, traffic), candidate.memory
    room = held.capacity_bytes - held.weights_bytes - held.activation_bytes - held.buffer_bytes
    kv_bytes = min(room, timing.running * filled * replica.kv_token_bytes(filled))
    rate, outputs = timing.output_tokens_per_s, traffic.output_tokens
    interval = intervals(terms, output_tokens=outputs, output_tokens_per_s=rate)
    if traffic.rate is not None:  # no more is answered than comes
        low, high = interval["output_tokens_per_s"]
        interval["output_tokens_per_s"] = low, max(rate, min(high, traffic.rate * outputs))
    return Estimate(
        layout=str(candidate.cut.layout),
        placement=candidate.cut.placement,
        stages=candidate.cut.stages,
        memory=replace(candidate.memory, kv_bytes=round(kv_bytes)),
        ttft_s=timing.ttft_s,
        tpot_s=timing.tpot_s,
        output_tokens_per_s=rate,
        requests_per_s=rate / traffic.output_tokens,
        bubble_fraction=timing.decode.idle,
        running=timing.running,
        interval=interval,
        terms=terms,
        shares=candidate.cut.shares,
    )


def _decode_terms(candidate: Candidate, timing: Timing) -> Iterator[Term]:
    """One token of every running request: pieces of the batches in flight, bubble, and others'
    prefills.
    """
    decode, pp = timing.decode, candidate.cut.layout.pp
    items = _items(
        candidate, forwards=round(decode.batches), tokens=timing.running, logit_rows=timing.running
    )
    share = decode.batches / pp
    suffix = "" if share == 1 else f" x {decode.batches:.3g}/{pp} busy"
    for piece in decode.forward.pieces:
        yield _term(piece, "decode", share, suffix, items)
    if pp > 1:
        slowest = max(
            c + w for c, w in zip(decode.forward.compute_s, decode.forward.wire_s, strict=True)
        )
        flight = f"{decode.batches:.3g} batch{'es' if decode.batches > 1 else ''} in flight"
        because = f"{flight} in {pp} stages, the slowest {show_seconds(slowest)}"
        blended = _sources(decode.forward)
        yield _gap("bubble", "decode", decode.bubble_s, because, blended, "bubble")
    yield from _wait_terms(timing, "decode")


def _prefill_terms(candidate: Candidate, timing: Timing, traffic: Traffic) -> Iterator[Term]:
    """From a request's arrival to its first token: its chunks, the bubble, and waiting for
    others.
    """
    prefill, pp = timing.prefill, candidate.cut.layout.pp
    items = _items(
        candidate,
        forwards=prefill.chunks,
        tokens=prefill.prompts * traffic.input_tokens,
        logit_rows=prefill.prompts,
        gathers=min(prefill.chunks, prefill.prompts),
    )
    suffix = "" if pp == 1 else f" x 1/{pp} busy"
    for piece in _chunk_pieces(prefill):
        yield _term(piece, "prefill", 1 / pp, suffix, items)
    if pp > 1:
        plural = "s" if prefill.chunks > 1 else ""
        because = f"{prefill.chunks} chunk{plural} of one prompt through {pp} stages"
        blended = _sources(prefill.last)
        yield _gap("bubble", "prefill", prefill.bubble_s, because, blended, "bubble")
    yield from _wait_terms(timing, "prefill")


def _chunk_pieces(prefill: Prefill) -> Iterator[Piece]:
    """The last chunk's pieces, with those of the full chunks before it added where they are on the
    way.
    """
    before = {piece.name: piece for piece in prefill.chunk.pieces}
    for piece in prefill.last.pieces:
        full = before.get(piece.name)
        if prefill.chunks == 1 or full is None or piece.between_stages or full.seconds == 0:
            yield piece
            continue
        times = prefill.chunks - 1
        yield replace(
            piece,
            seconds=piece.seconds + times * full.seconds,
            words=partial(_both, times, full, piece),
            kind=full.kind if times * full.seconds > piece.seconds else piece.kind,
        )


def _both(times: int, full: Piece, last: Piece) -> str:
    return f"{times} x [{full.because}] + {last.because}"


def _term(
    piece: Piece, phase: Phase, share: float, suffix: str, items: dict[str, WireItem]
) -> Term:
    """A piece in its phase. Pieces between stages stand in full, the others by the share of busy
    stages.
    """
    item = items.get(piece.name)
    in_full = piece.between_stages
    return Term(
        name=piece.name,
        phase=phase,
        seconds=piece.seconds if in_full else piece.seconds * share,
        because=piece.because if in_full else piece.because + suffix,
        source=piece.source,
        wire_bytes=item.bytes if item else 0,
        axis=item.axis if item else None,
        spread=time_width(piece.kind, piece.source, piece.spread),
        kind=piece.kind,
    )


def _items(
    candidate: Candidate, *, forwards: int, tokens: int, logit_rows: int, gathers: int | None = None
) -> dict[str, WireItem]:
    pricing, layout = candidate.replica.pricing, candidate.cut.layout
    items = wire_items(
        pricing.spec,
        layout,
        forwards=forwards,
        tokens=tokens,
        logit_rows=logit_rows,
        gathers=forwards if gathers is None else gathers,
        dtype=pricing.dtype,
        handoffs=pricing.engine.batching.handoffs,
        sums=exchange_of(pricing.engine.exchange).sums,
    )
    copies = copies_sent(pricing, layout, tokens)
    exchanged = exchange_items(
        pricing.spec, layout, forwards=forwards, copies=copies, dtype=pricing.dtype
    )
    return {item.name: item for item in (*items, *exchanged)}


def _sources(*forwards: Forward) -> tuple[Source, float]:
    return blend(piece for forward in forwards for piece in forward.pieces)


def _gap(
    name: str,
    phase: Phase,
    seconds: float,
    because: str,
    blended: tuple[Source, float],
    kind: Kind,
) -> Term:
    """Time in which this request's own work does not go on; as sure as the work that causes it."""
    source, spread = blended
    return Term(name, phase, seconds, because, source, spread=spread, kind=kind)


def _wait_terms(timing: Timing, phase: Phase) -> Iterator[Term]:
    """Time that goes to others. Between tokens it is their prompts' work, as sure as work is;
    before the first token it depends on who came when, whatever the devices.
    """
    source, spread = _sources(timing.decode.forward, timing.prefill.last)
    for wait in timing.waits:
        kind: Kind = "overhead" if wait.name == "request" else "wait"
        wide = spread
        if kind == "overhead":
            source = source if source == "measured" else "published"
            wide = time_width(kind, source, spread)
        elif phase == "prefill":
            wide = KIND_WIDTH[kind]
        if wait.phase == phase:
            yield _gap(wait.name, phase, wait.seconds, wait.because(), (source, wide), kind)
