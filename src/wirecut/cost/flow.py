"""What one replica meets that always runs as many requests: rounds in which each gets a token, some
of them with a chunk of a prompt, and what requests wait for each other.

    timing = steady(replica, traffic, running=16, busy_replicas=1, speed=1.0, together=0.1)
    timing.ttft_s, [wait.name for wait in timing.waits]

How many run, and how many came together, the loops of `load.py` say.
"""

import math
from collections.abc import Callable

from wirecut.cost.pace import (
    Decode,
    Prefill,
    chunk_rows,
    time_decode,
    time_prefill,
    time_round,
)
from wirecut.cost.prompts import burst_s, context_of, full_rounds_s, prefill_of
from wirecut.cost.replica import Replica
from wirecut.cost.terms import Phase
from wirecut.facts import fact
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds

# How far answers of the same nominal length are apart, of their tokens: prompts of words and stop
# tokens make them differ. And from an answer's last token until its user's next prompt is with the
# scheduler. Both fitted on closed loops of TensorRT-LLM, vLLM and SGLang (benchmarks/serving.md).
LENGTH_SPREAD = 0.01
TURNAROUND_S = 0.04
MOST_LOAD = 0.95  # beyond it a queue in balance is longer than a run


@fact
class Wait:
    """Time that a request spends on others."""

    name: str
    phase: Phase
    seconds: float
    because: Callable[[], str]


@fact
class Timing:
    """What a load meets, per request and in all, with the parts it is made of."""

    running: int
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    decode: Decode
    prefill: Prefill
    waits: tuple[Wait, ...]

    def answer_s(self, output_tokens: int) -> float:
        """Seconds from a request to the last token of its answer."""
        return self.ttft_s + (output_tokens - 1) * self.tpot_s


@fact
class _Flow:
    """Rounds of a replica that always runs as many requests: each is a decode step of `decode`
    (`decodes` sequences), `with_chunk_s` with `chunk` tokens of prompts. `prompting` such chunks
    are due a round, more than one where prompts take longer than answers. A prompt takes `chunks`
    of them; prompts fill the share `filled` of what rounds could hold of them.
    """

    decode: Decode
    decodes: int
    chunk: int
    chunks: int
    prompting: float
    filled: float
    with_chunk_s: float

    @property
    def extra_s(self) -> float:
        """What a chunk adds to a round."""
        return max(0.0, self.with_chunk_s - self.decode.step_s)


def _flow(replica: Replica, traffic: Traffic, running: int, busy: int, speed: float) -> _Flow:
    """The steady state of `running` requests, each followed by the next at once.

    A request takes `outputs` - 1 rounds of decode and `chunks` of prefill; in that time every other
    one is prefilled once. Where that is more than a prompt per round, a round takes several, up to
    the token budget; then requests wait for the budget.
    """
    inputs, outputs = traffic.input_tokens, traffic.output_tokens
    mixes, context = replica.pricing.engine.batching.mixes, context_of(traffic)
    budget = chunk_rows(replica, running * inputs)
    if mixes:
        beside = replica.pricing.limits.max_batched_tokens - running + 1
        budget = max(1, min(budget, beside))
    one = min(inputs, chunk_rows(replica, inputs), budget)
    chunks = -(-inputs // one)
    rounds = max(1, outputs - 1) + (chunks if mixes else 0)
    wanted = running * inputs / rounds  # prompt tokens per round
    decodes = max(1, min(running, round(running * max(1, outputs - 1) / rounds)))
    decode = time_decode(replica, decodes, context=context, speed=speed, busy_replicas=busy)

    def with_chunk(chunk: int) -> float:
        return time_round(
            replica,
            min(decodes, running - 1),
            context=context,
            chunk=chunk,
            prompt_tokens=inputs,
            speed=speed,
            busy_replicas=busy,
        )

    chunk = min(budget, max(one, math.ceil(wanted)))
    with_chunk_s = with_chunk(chunk)
    # Prompts that arrive while others' are at work go together into the next round.
    came = (
        wanted
        * with_chunk_s
        / decode.step_s
        / (1 + wanted / chunk * (with_chunk_s / decode.step_s - 1))
    )
    if chunks == 1 and came > 1.5 * chunk:
        chunk = min(budget, round(came / inputs) * inputs)
        with_chunk_s = with_chunk(chunk)
    filled = min(1.0, wanted / max(one, budget // one * one))
    return _Flow(decode, decodes, chunk, chunks, wanted / chunk, filled, with_chunk_s)


def steady(
    replica: Replica,
    traffic: Traffic,
    running: int,
    busy_replicas: int,
    speed: float,
    *,
    together: float = 0.0,
    found: float = 0.0,
) -> Timing:
    """One replica that always runs `running` requests beside others: `busy_replicas` with it.

    A share `together` of the requests comes with all others at once. Those that follow come as
    answers end: in step where lengths are alike (`_in_step`), else one by one, when they wait for
    the round in progress and for prompts ahead (M/D/1). In an open loop a share `found` meets any
    others. Whatever prefill of others is not before a request's first token is between its others,
    a chunk a round at most where prompts ride with decodes: what is left over waits for the budget,
    so that no replica answers sooner than it can prefill.
    """
    others, rounds = running - 1, max(1, traffic.output_tokens - 1)
    flow = _flow(replica, traffic, running, busy_replicas, speed)
    prefill = time_prefill(
        replica,
        traffic.input_tokens,
        chunk=min(flow.chunk, traffic.input_tokens),
        decodes=min(flow.decodes, others),
        context=context_of(traffic),
        batches=running,
        speed=speed,
        busy_replicas=busy_replicas,
    )
    waits = [request_wait(replica)]
    if not others and not found:
        return timing_of(replica, traffic, 1, flow.decode, prefill, waits)
    mixes = replica.pricing.engine.batching.mixes
    prompting = min(1.0, flow.prompting) if mixes else flow.prompting
    share = prompting * max(others, 1) / running
    all_prompts = prefill_of(replica, traffic, running, running, busy_replicas, speed)
    all_s = all_prompts.seconds
    if replica.pricing.engine.batching.one_prompt:
        all_s = burst_s(replica, traffic, running, busy_replicas, speed)
    step = 0.0 if found else _in_step(replica, traffic, flow, running)
    alone = found or 1 - max(together, step)
    ahead_s = alone * _ahead(flow, traffic.input_tokens, share, poisson=found > 0)
    round_s = flow.decode.step_s + min(1.0, share) * flow.extra_s
    in_progress_s = alone * round_s / 2 if traffic.output_tokens > 1 else 0.0
    at_once = together * running + (1 - together) * step * running * (1 - step / 2) * 2
    before_s = max(0.0, at_once - 1) / 2 * all_s / running
    one_by_one_s = share * flow.extra_s * rounds
    in_all_s = alone * one_by_one_s + (1 - alone) * min(one_by_one_s, others * all_s / running)
    stolen_s = max(0.0, in_all_s - before_s) / rounds
    least_s = 0.0
    if mixes or not found:
        answer_s = prefill.seconds + in_progress_s + before_s
        answer_s += rounds * (flow.decode.step_s + stolen_s)
        least_s = all_prompts.held_s
        if mixes and flow.prompting > 1:
            full_s = full_rounds_s(replica, traffic, running, busy_replicas, speed)
            least_s = max(least_s, full_s)
        most_s = math.inf if found else _most_wait(answer_s, least_s, running)
        more = min(1.0, 1 / together - 1) if together else 1.0  # rounds after a burst, 1 at most
        ahead_s = max(more * (least_s - answer_s), min(ahead_s, most_s))

    def why_wait() -> str:
        return f"half of a round of {show_seconds(round_s)}"

    def why_ahead() -> str:
        return f"prompts fill {flow.filled:.0%} of what rounds of {show_seconds(round_s)} hold"

    def why_before() -> str:
        each = show_seconds(all_s / running)
        return f"{at_once:.1f} of {running} start together: half of them before, {each} each"

    def why_stolen() -> str:
        return f"{share:.2f} prompt chunks a round x {show_seconds(flow.extra_s)} more"

    waits.append(Wait("step in progress", "prefill", in_progress_s, why_wait))
    waits.append(Wait("prompts ahead", "prefill", ahead_s, why_ahead))
    waits.append(Wait("start together", "prefill", before_s, why_before))
    waits.append(Wait("prefill of others", "decode", stolen_s, why_stolen))
    least_s *= together  # the last of a burst ends then, whenever the mean does
    return timing_of(replica, traffic, running, flow.decode, prefill, waits, least_s)


def _ahead(flow: _Flow, inputs: int, share: float, *, poisson: bool) -> float:
    """Seconds that a prompt waits for others when they come one by one.

    M/D/1: load / (2 (1 - load)) x service, the server being the rounds and what they hold of
    prompts; in a closed loop never more than as many as there are.
    """
    load = min(MOST_LOAD, flow.filled if flow.chunks == 1 else share)
    wait_s = load / (2 * (1 - load)) * flow.chunks * flow.with_chunk_s
    prompt_s = inputs / flow.chunk * flow.extra_s
    return wait_s if poisson else min(wait_s, flow.decodes / 2 * prompt_s)


def _most_wait(answer_s: float, least_s: float, running: int) -> float:
    """Seconds that users of a closed loop wait for others' prompts at most: who waits asks less.

    `answer_s` without the wait, `least_s` the prefill of all `running` prompts. M/D/1 at the load
    that is left, least / (answer + wait), solved for the wait.
    """
    far_s = math.hypot(answer_s - least_s, math.sqrt(2 / running) * least_s)
    return (least_s - answer_s + far_s) / 2


def _in_step(replica: Replica, traffic: Traffic, flow: _Flow, running: int) -> float:
    """The share of requests of a closed loop that keep in step: of those whose answers end while
    the first of their successors is still on its way.

    Answers of alike lengths end as they began: one after the other by the rounds that their prompts
    were apart (none where prompts go before decodes), and by `LENGTH_SPREAD` of their tokens.
    """
    inputs, outputs = traffic.input_tokens, traffic.output_tokens
    apart = running * inputs / flow.chunk if replica.pricing.engine.batching.mixes else 0.0
    ending_s = (apart + LENGTH_SPREAD * outputs) * flow.decode.step_s
    return min(1.0, TURNAROUND_S / max(ending_s, 1e-9))


def timing_of(
    replica: Replica,
    traffic: Traffic,
    running: int,
    decode: Decode,
    prefill: Prefill,
    waits: list[Wait],
    least_s: float = 0.0,
) -> Timing:
    """The sums, and the rate of one replica that runs so many and takes `least_s` for all of them
    at least.
    """
    ttft_s = prefill.seconds + sum(wait.seconds for wait in waits if wait.phase == "prefill")
    tpot_s = decode.step_s + sum(wait.seconds for wait in waits if wait.phase == "decode")
    answer_s = ttft_s + (traffic.output_tokens - 1) * tpot_s
    rate = running * traffic.output_tokens / max(answer_s, least_s)
    return Timing(running, ttft_s, tpot_s, rate, decode, prefill, tuple(waits))


def request_wait(replica: Replica) -> Wait:
    """A request's way to the first stage and its first token's way back to whoever asked."""
    steps, rate = replica.pricing.engine.steps, replica.stages[0].rate
    seconds = steps.request_ops * rate.device.launch_s + steps.request_s

    def because() -> str:
        if not steps.request_ops:
            return f"{replica.pricing.engine.name}'s own way from request to first token"
        return f"{steps.request_ops} operations x {show_seconds(rate.device.launch_s)}"

    return Wait("request", "prefill", seconds, because)
