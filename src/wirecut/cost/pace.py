"""How long a decode step and a prefill take when forwards follow one another through the stages.

    time_decode(replica, 8, context=576).step_s
    time_prefill(replica, 512).seconds

`speed` makes every wire so many times as fast, which is how the planner asks where a decision
flips. `busy_replicas` of all replicas work at the same time (0: all): devices that share memory
slow each other.
"""

from dataclasses import dataclass

from wirecut.cost.forward import Batch, Forward
from wirecut.cost.replica import Replica
from wirecut.cost.step import price_forward


@dataclass(frozen=True, slots=True)
class Decode:
    """One token for every running request: `batches` in flight, one after the other through the
    stages.

    `bubble_s` is what `step_s` has over stages that are always busy (and over the hand-offs);
    `idle` the share of stage time that nobody works.
    """

    forward: Forward
    batches: int
    step_s: float
    bubble_s: float
    idle: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompts through the stages in chunks of the token budget: `chunks` - 1 like `chunk`, then
    `last`.

    `seconds` until the first token is back, `held_s` for which the slowest stage is held from
    others.
    """

    prompts: int
    chunks: int
    chunk: Forward
    last: Forward
    seconds: float
    bubble_s: float
    held_s: float


def time_decode(
    replica: Replica,
    requests: int,
    *,
    context: float,
    speed: float = 1.0,
    busy_replicas: int = 0,
) -> Decode:
    """A decode step of `requests` sequences with `context` tokens each, dealt evenly to batches in
    flight.

    step = max(the way of one batch through all stages, batches x the slowest stage or hand-off).
    """
    pp = len(replica.stages)
    batches = min(pp, requests)
    rows = -(-requests // batches)
    busy = _busy(replica, batches, busy_replicas)
    forward = price_forward(replica, Batch(rows, rows, rows * context, rows * context, rows, busy))
    stages, between, slowest = _lengths(forward, speed)
    step_s = max(stages + between, batches * slowest)
    work = stages * batches / pp
    return Decode(forward, batches, step_s, step_s - work - between, 1 - work / step_s)


def time_prefill(
    replica: Replica,
    prompt_tokens: int,
    *,
    prompts: int = 1,
    batches: int = 1,
    speed: float = 1.0,
    busy_replicas: int = 0,
) -> Prefill:
    """Prefill of `prompts` prompts in chunks of the token budget, pipelined. Their chunks, or
    `batches` with those of others, keep as many stages busy.

    seconds = the last chunk's way through all stages + (chunks - 1) x the slowest stage of a full
    chunk.
    """
    tokens = prompts * prompt_tokens
    rows = min(chunk_rows(replica, tokens), tokens)
    chunks = -(-tokens // rows)
    last_rows = tokens - (chunks - 1) * rows
    busy = _busy(replica, min(len(replica.stages), max(chunks, batches)), busy_replicas)
    last = price_forward(
        replica, _chunk(last_rows, prompt_tokens, max(1, last_rows // prompt_tokens), busy)
    )
    chunk = price_forward(replica, _chunk(rows, prompt_tokens, rows // prompt_tokens, busy))
    stages, between, slowest = _lengths(last, speed)
    chunk_stages, _, chunk_slowest = _lengths(chunk, speed)
    seconds = stages + between + (chunks - 1) * chunk_slowest
    ideal = (stages + (chunks - 1) * chunk_stages) / len(replica.stages)
    held_s = slowest + (chunks - 1) * chunk_slowest
    return Prefill(prompts, chunks, chunk, last, seconds, seconds - ideal - between, held_s)


def chunk_rows(replica: Replica, waiting_tokens: int) -> int:
    """Prompt tokens in a step when `waiting_tokens` wait: as the scheduler deals them to stages."""
    limits, engine, pp = replica.pricing.limits, replica.pricing.engine, len(replica.stages)
    share = max(engine.min_chunk_tokens, -(-waiting_tokens // pp)) if pp > 1 else waiting_tokens
    return min(limits.max_batched_tokens, share)


def _busy(replica: Replica, stages: int, replicas: int) -> int:
    """Devices at work when `stages` of each of `replicas` replicas (0: of all) are; 0 when they are
    as many as were measured together.
    """
    layout = replica.cut.layout
    busy = layout.tp * stages * (replicas or layout.dp)
    return busy if busy < max(stage.rate.total for stage in replica.stages) else 0


def _chunk(rows: int, prompt_tokens: int, logit_rows: int, busy: int) -> Batch:
    """`rows` tokens of prompts at their mean place: causal, so a token sees half of its prompt on
    average.
    """
    kv_tokens = max(rows, (prompt_tokens + rows) / 2)
    pairs = rows * (prompt_tokens + 1) / 2
    return Batch(rows, -(-rows // prompt_tokens), kv_tokens, pairs, logit_rows, busy)


def _lengths(forward: Forward, speed: float) -> tuple[float, float, float]:
    """Seconds: of all stages together, of hand-offs and return, of the slowest stage or
    hand-off.
    """
    if len(forward.compute_s) == 1:
        only = forward.compute_s[0] + forward.wire_s[0] / speed
        return only, 0.0, only
    stages = [c + w / speed for c, w in zip(forward.compute_s, forward.wire_s, strict=True)]
    between = (sum(forward.handoffs_s) + forward.back_s) / speed
    return sum(stages), between, max(*stages, max(forward.handoffs_s) / speed)
