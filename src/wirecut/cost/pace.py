"""How long a decode step and a prefill take when forwards follow one another through the stages.

    time_decode(replica, 8, context=576).step_s
    time_prefill(replica, 512).seconds

`speed` makes every wire so many times as fast, which is how the planner asks where a decision
flips. `busy_replicas` of all replicas work at the same time (0: all): devices that share memory
slow each other.
"""

import math
from dataclasses import replace

from wirecut.cost.forward import Batch, Forward
from wirecut.cost.replica import Replica
from wirecut.cost.step import price_forward
from wirecut.facts import fact


@fact
class Decode:
    """One token for every running request: `batches` in flight, one after the other through the
    stages.

    `bubble_s` is what `step_s` has over stages that are always busy (and over the hand-offs);
    `idle` the share of stage time that nobody works.
    """

    forward: Forward
    batches: float
    step_s: float
    bubble_s: float
    idle: float


@fact
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
    overlap: bool = True,
) -> Decode:
    """A decode step of `requests` sequences with `context` tokens each, dealt to the batches in
    flight; without `overlap` they are one batch, which visits the stages one by one.

    step = max(the way of one batch through all stages, batches x the slowest stage or hand-off).
    """
    pp = len(replica.stages)
    batches = in_flight(replica, requests) if overlap else 1.0
    batch = Batch(decodes=math.ceil(requests / batches), context=context)
    forward = price_forward(replica, _meanwhile(replica, batch, round(batches), busy_replicas))
    stages, between, slowest = lengths(forward, speed)
    step_s = max(stages + between, batches * slowest)
    work = stages * batches / pp
    return Decode(forward, batches, step_s, step_s - work - between, 1 - work / step_s)


def in_flight(replica: Replica, requests: int) -> float:
    """Batches that a pipeline has in flight, those that are dealt unevenly counted as fewer."""
    most = min(len(replica.stages), max(1, requests))
    return 1 + (most - 1) * replica.pricing.engine.batching.in_flight


def time_round(
    replica: Replica,
    decodes: int,
    *,
    context: float,
    chunk: int,
    prompt_tokens: int,
    speed: float = 1.0,
    busy_replicas: int = 0,
) -> float:
    """Seconds of one token for each of `decodes` sequences and, in the same time, `chunk` tokens of
    prompts: together in one of the batches in flight, or after them where the runtime does not mix.

    The batch with the chunk takes its way through all stages; the others are held up for as long
    as the chunk holds the slowest stage. The mean over their sequences.
    """
    if not decodes:
        return time_prefill(
            replica, prompt_tokens, chunk=chunk, speed=speed, busy_replicas=busy_replicas
        ).held_s
    alone = time_decode(replica, decodes, context=context, speed=speed, busy_replicas=busy_replicas)
    if not chunk:
        return alone.step_s
    pp = len(replica.stages)
    if not replica.pricing.engine.batching.mixes:
        batch = chunk_batch(chunk, prompt_tokens)
        forward = price_forward(replica, _meanwhile(replica, batch, pp, busy_replicas))
        return alone.step_s + lengths(forward, speed)[2]
    rows = math.ceil(decodes / alone.batches)
    batch = chunk_batch(chunk, prompt_tokens, decodes=rows, context=context)
    batch = _meanwhile(replica, batch, pp, busy_replicas)
    stages, between, slowest = lengths(price_forward(replica, batch), speed)
    other = lengths(alone.forward, speed)[2]
    others_s = alone.step_s + max(0.0, slowest - other)
    own_s = max(stages + between, others_s)
    return own_s / alone.batches + others_s * (1 - 1 / alone.batches)


def time_prefill(
    replica: Replica,
    prompt_tokens: int,
    *,
    prompts: int = 1,
    batches: int = 1,
    chunk: int = 0,
    decodes: int = 0,
    context: float = 0.0,
    speed: float = 1.0,
    busy_replicas: int = 0,
    overlap: bool = True,
) -> Prefill:
    """Prefill of `prompts` prompts in chunks of `chunk` tokens (0: the token budget), pipelined,
    each with `decodes` sequences beside it where the runtime mixes. Their chunks, or `batches` with
    those of others, keep as many stages busy.

    seconds = the last chunk's way through all stages + (chunks - 1) x the slowest stage of a full
    chunk, or its way over the batches in flight; without `overlap`, and where a runtime waits for a
    chunk before it sends the prompt's next, x its way through all stages.
    """
    tokens = prompts * prompt_tokens
    rows = min(chunk or chunk_rows(replica, tokens), tokens)
    chunks = -(-tokens // rows)
    last_rows = tokens - (chunks - 1) * rows
    pp = len(replica.stages)
    beside = decodes if replica.pricing.engine.batching.mixes else 0
    beside = math.ceil(beside / in_flight(replica, beside)) if beside else 0
    at_work = min(pp, max(chunks, batches))
    batch = chunk_batch(last_rows, prompt_tokens, decodes=beside, context=context)
    full = last = price_forward(replica, _meanwhile(replica, batch, at_work, busy_replicas))
    if chunks > 1:
        batch = chunk_batch(rows, prompt_tokens, decodes=beside, context=context)
        batch = replace(batch, prefills=rows // prompt_tokens)
        full = price_forward(replica, _meanwhile(replica, batch, at_work, busy_replicas))
    stages, between, slowest = lengths(last, speed)
    full_stages, full_between, full_slowest = lengths(full, speed)
    each_s = way_s = full_stages + full_between
    if overlap and not replica.pricing.engine.batching.chunk_by_chunk:
        each_s = max(full_slowest, way_s / in_flight(replica, chunks))
    seconds = stages + between + (chunks - 1) * each_s
    ideal = (stages + (chunks - 1) * full_stages) / pp
    held_s = slowest + (chunks - 1) * full_slowest
    if not overlap:
        held_s = seconds
    return Prefill(prompts, chunks, full, last, seconds, seconds - ideal - between, held_s)


def chunk_rows(replica: Replica, waiting_tokens: int) -> int:
    """Prompt tokens in a step when `waiting_tokens` wait: the budget, and wirecut deals a prompt to
    its stages.
    """
    limits, batching, pp = (
        replica.pricing.limits,
        replica.pricing.engine.batching,
        len(replica.stages),
    )
    share = waiting_tokens
    if pp > 1 and batching.min_chunk_tokens:
        chunks = batching.chunks_per_stage * pp
        share = max(batching.min_chunk_tokens, -(-waiting_tokens // chunks))
    return min(limits.max_batched_tokens, share)


def chunk_batch(rows: int, prompt_tokens: int, *, decodes: int = 0, context: float = 0.0) -> Batch:
    """`rows` tokens of prompts at their mean place, beside `decodes` sequences."""
    prompts = -(-rows // prompt_tokens)
    return Batch(
        decodes=decodes,
        context=context,
        chunk=rows,
        prompts=prompts,
        before=max(0.0, (prompt_tokens - rows / prompts) / 2),
        prefills=max(1, rows // prompt_tokens),
    )


def _meanwhile(replica: Replica, batch: Batch, stages: int, replicas: int) -> Batch:
    """The batch while `stages` of each of `replicas` replicas (0: of all) are at work: devices that
    share memory slow each other, replicas that share experts send them their tokens.
    """
    layout = replica.cut.layout
    busy = layout.tp * stages * (replicas or layout.dp)
    busy = busy if busy < replica.most_busy else 0
    dealt = replicas if layout.ep > 1 else 0
    if (busy, dealt) == (batch.busy, batch.replicas):
        return batch  # the usual case, asked thousands of times
    return batch.beside(busy, dealt)


def lengths(forward: Forward, speed: float) -> tuple[float, float, float]:
    """Seconds: of all stages together, of hand-offs and return, of the slowest stage or
    hand-off.
    """
    if len(forward.compute_s) == 1:
        only = forward.compute_s[0] + forward.wire_s[0] / speed
        return only, 0.0, only
    stages = [c + w / speed for c, w in zip(forward.compute_s, forward.wire_s, strict=True)]
    between = (sum(forward.handoffs_s) + forward.back_s) / speed
    return sum(stages), between, max(*stages, max(forward.handoffs_s) / speed)
