"""What a load meets: prompts among decodes, requests that wait for others, replicas side by side.

    timing = time_load(replica, Load(traffic, dp=2, most_running=64))
    timing.ttft_s, timing.tpot_s, timing.output_tokens_per_s

Every load is the same flow: rounds in which each running request gets a token, some of them with a
chunk of a prompt. Closed loop, open loop and all at once differ in how many run, and in how many
came together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from wirecut.cost.pace import (
    Decode,
    Prefill,
    chunk_rows,
    time_decode,
    time_prefill,
    time_round,
)
from wirecut.cost.replica import Replica
from wirecut.cost.terms import Phase
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds

# How many requests a run has when its length is not given but its queue grows without end.
SATURATED_REQUESTS = 1000
# Requests per user of a closed loop whose length is not given: what serving benchmarks send
# (InferenceMAX, and vLLM's recipes: prompts = 10 x concurrency). All users start together.
ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Load:
    """The traffic on `dp` replicas, each of which runs `most_running` requests at once at most."""

    traffic: Traffic
    dp: int
    most_running: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Time that a request spends on others."""

    name: str
    phase: Phase
    seconds: float
    because: Callable[[], str]


@dataclass(frozen=True, slots=True)
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


def time_load(replica: Replica, load: Load, *, speed: float = 1.0) -> Timing:
    """What the load meets on `load.dp` replicas like this one."""
    traffic = load.traffic
    if traffic.static_batch:
        return _static(replica, load, speed)
    if traffic.rate is not None and traffic.rate != math.inf:
        return _open_loop(replica, load, traffic.rate, speed)
    return _closed_loop(replica, load, speed)


@dataclass(frozen=True, slots=True)
class _Flow:
    """Rounds of a replica that always runs as many requests: each is a decode step of `decode`
    (`decodes` sequences), a share `prompting` of them `with_chunk_s` long with `chunk` tokens of
    prompts. A prompt takes `chunks` of those.
    """

    decode: Decode
    decodes: int
    chunk: int
    chunks: int
    prompting: float
    with_chunk_s: float


def _flow(replica: Replica, traffic: Traffic, running: int, busy: int, speed: float) -> _Flow:
    """The steady state of `running` requests, each followed by the next at once.

    A request takes `outputs` - 1 rounds of decode and `chunks` of prefill; in that time every other
    one is prefilled once. Where that is more than a prompt per round, a round takes several, up to
    the token budget; then requests wait for the budget.
    """
    inputs, outputs = traffic.input_tokens, traffic.output_tokens
    context = _context(traffic)
    budget = chunk_rows(replica, running * inputs)
    if replica.pricing.engine.batching.mixes:
        budget = max(1, budget - running + 1)
    one = min(inputs, chunk_rows(replica, inputs), budget)
    chunks = -(-inputs // one)
    rounds = max(1, outputs - 1) + (chunks if replica.pricing.engine.batching.mixes else 0)
    wanted = running * inputs / rounds  # prompt tokens per round
    chunk = min(budget, max(one, math.ceil(wanted)))
    rounds = max(rounds, running * inputs / chunk)
    prompting = min(1.0, running * inputs / chunk / rounds)
    decodes = max(1, min(running, round(running * max(1, outputs - 1) / rounds)))
    others = max(1, running - 1) if running > 1 else 1
    decode = time_decode(
        replica, max(decodes, 1), context=context, speed=speed, busy_replicas=busy
    )
    with_chunk_s = time_round(
        replica,
        min(decodes, others) if running > 1 else 0,
        context=context,
        chunk=chunk,
        prompt_tokens=inputs,
        speed=speed,
        busy_replicas=busy,
    )
    return _Flow(decode, decodes, chunk, chunks, prompting, with_chunk_s)


def _steady(
    replica: Replica,
    traffic: Traffic,
    running: int,
    busy_replicas: int,
    speed: float,
    *,
    together: float = 0.0,
    poisson: bool = False,
) -> Timing:
    """One replica that always runs `running` requests beside others: `busy_replicas` with it.

    A share `together` of the requests comes with all others at once: of those, each waits for half
    of the others' prefill before its first token, and is slowed by the other half after it. The
    rest find the flow: they wait for the round in progress and for the prompts that are before
    them (M/D/1; of a closed loop, never more than half of the others).
    """
    outputs, others = traffic.output_tokens, running - 1
    flow = _flow(replica, traffic, running, busy_replicas, speed)
    step_s = flow.decode.step_s
    beside = min(flow.decodes, others)
    prefill = time_prefill(
        replica,
        traffic.input_tokens,
        chunk=min(flow.chunk, traffic.input_tokens),
        decodes=beside,
        context=_context(traffic),
        batches=running,
        speed=speed,
        busy_replicas=busy_replicas,
    )
    waits = [_request(replica)]
    if not others and not poisson:
        return _timing(replica, traffic, 1, flow.decode, prefill, waits)
    extra_s = max(0.0, flow.with_chunk_s - step_s)
    share = flow.prompting * others / running if running > 1 else 0.0
    slowed = (1 - together) * share * extra_s
    round_s = step_s + share * extra_s
    busy_share = min(0.95, share * flow.with_chunk_s / round_s)
    own_s = flow.chunks * flow.with_chunk_s
    ahead_s = busy_share / (2 * (1 - busy_share)) * own_s
    if not poisson:
        ahead_s = min(ahead_s, others / 2 * extra_s * flow.chunks)
    all_s = _burst_s(replica, traffic, running, busy_replicas, speed) if together else 0.0
    half_s = together * max(0.0, all_s - prefill.seconds) / 2
    in_progress = (1 - together) * round_s / 2 if outputs > 1 else 0.0
    ahead_s *= 1 - together

    def why_wait() -> str:
        return f"half of a round of {show_seconds(round_s)}"

    def why_ahead() -> str:
        return f"prompts are at work {busy_share:.0%} of the time, {show_seconds(own_s)} each"

    def why_together() -> str:
        return (
            f"{together:.0%} of requests start together: half of {running} prompts, "
            f"{show_seconds(all_s)} in all"
        )

    def why_stolen() -> str:
        return f"{share:.2f} prompt chunks a round x {show_seconds(extra_s)} more"

    waits.append(Wait("step in progress", "prefill", in_progress, why_wait))
    waits.append(Wait("prompts ahead", "prefill", ahead_s, why_ahead))
    if half_s:
        waits.append(Wait("start together", "prefill", half_s, why_together))
    stolen = slowed + half_s / max(1, outputs - 1)
    waits.append(Wait("prefill of others", "decode", stolen, why_stolen))
    return _timing(replica, traffic, running, flow.decode, prefill, waits)


def _timing(
    replica: Replica,
    traffic: Traffic,
    running: int,
    decode: Decode,
    prefill: Prefill,
    waits: list[Wait],
) -> Timing:
    """The sums, and the rate of one replica that runs so many."""
    ttft_s = prefill.seconds + sum(wait.seconds for wait in waits if wait.phase == "prefill")
    tpot_s = decode.step_s + sum(wait.seconds for wait in waits if wait.phase == "decode")
    answer_s = ttft_s + (traffic.output_tokens - 1) * tpot_s
    rate = running * traffic.output_tokens / answer_s
    return Timing(running, ttft_s, tpot_s, rate, decode, prefill, tuple(waits))


def _burst_s(
    replica: Replica, traffic: Traffic, running: int, busy_replicas: int, speed: float
) -> float:
    """Seconds of the prefill of `running` prompts that came together, in steps of the budget."""
    inputs = traffic.input_tokens
    chunk = chunk_rows(replica, running * inputs)
    return time_prefill(
        replica,
        inputs,
        prompts=running,
        chunk=chunk,
        batches=-(-running * inputs // chunk),
        speed=speed,
        busy_replicas=busy_replicas,
    ).seconds


def _request(replica: Replica) -> Wait:
    """A request's way to the first stage and its first token's way back to whoever asked."""
    steps, rate = replica.pricing.engine.steps, replica.stages[0].rate
    seconds = steps.request_ops * rate.device.launch_s + steps.request_s

    def because() -> str:
        if not steps.request_ops:
            return f"{replica.pricing.engine.name}'s own way from request to first token"
        return f"{steps.request_ops} operations x {show_seconds(rate.device.launch_s)}"

    return Wait("request", "prefill", seconds, because)


def _context(traffic: Traffic) -> float:
    """Mean tokens in the cache of a request while it is answered."""
    return traffic.input_tokens + traffic.output_tokens / 2


def _queued(timing: Timing, seconds: float, rate: float, because: Callable[[], str]) -> Timing:
    """The same with a wait before the prefill, and `rate` output tokens per second in all."""
    if seconds <= 0:
        return replace(timing, output_tokens_per_s=rate)
    return replace(
        timing,
        ttft_s=timing.ttft_s + seconds,
        output_tokens_per_s=rate,
        waits=(*timing.waits, Wait("queue", "prefill", seconds, because)),
    )


def _closed_loop(replica: Replica, load: Load, speed: float) -> Timing:
    """`concurrency` users, or as many as there are requests, dealt evenly to the replicas:
    latencies are those of the fullest one.

    Users that find no room wait (Little's law), which changes no replica's rate. Of a run of so
    many requests per user the first ones start together.
    """
    traffic = load.traffic
    requests = traffic.num_requests
    if traffic.rate == math.inf:
        users = requests = requests or max(SATURATED_REQUESTS, 4 * load.dp * load.most_running)
    else:
        users = traffic.concurrency or 1
        requests = requests or ROUNDS * users
        users = min(users, requests)
    fewer, with_one_more = divmod(users, load.dp)
    fullest = fewer + (1 if with_one_more else 0)
    running = min(fullest, load.most_running)
    together = min(1.0, running * min(users, load.dp) / requests)
    busy = min(users, load.dp)
    one = _steady(replica, traffic, running, busy, speed, together=together)
    rate = one.output_tokens_per_s * (with_one_more or load.dp)
    if with_one_more and fewer:
        least = min(fewer, load.most_running)
        others = _steady(replica, traffic, least, busy, speed, together=together)
        rate += others.output_tokens_per_s * (load.dp - with_one_more)
    waiting = fullest - running
    if traffic.rate == math.inf:
        waiting = waiting / 2  # the last waits for all before it, the first for none
    wait_s = one.answer_s(traffic.output_tokens) * waiting / running

    def because() -> str:
        return f"{fullest} requests, room for {running}: each waits for others' answers"

    return _queued(one, wait_s, rate, because)


def _open_loop(replica: Replica, load: Load, rate: float, speed: float) -> Timing:
    """`rate` requests per second: as many run at once as Little's law needs, rate = running /
    answer time; as long as that is one on a replica, the others are idle.

    Where even the most that can run are too slow, the queue grows: the wait is the mean over the
    run.
    """
    traffic, most = load.traffic, load.most_running
    if traffic.num_requests is not None:
        most = min(most, -(-traffic.num_requests // load.dp))

    def serve(level: int) -> tuple[Timing, float]:
        """One request on each of `level` replicas, then ever more on all; and requests/s."""
        busy, running = min(level, load.dp), max(1, level - load.dp + 1)
        timing = _steady(replica, traffic, running, busy, speed, poisson=True)
        return timing, timing.output_tokens_per_s * busy / traffic.output_tokens

    low, high = 1, load.dp - 1 + most
    while low < high:
        middle = (low + high) // 2
        if serve(middle)[1] >= rate:
            high = middle
        else:
            low = middle + 1
    one, served = serve(low)
    if served >= rate:
        return _queued(one, 0.0, rate * traffic.output_tokens, str)
    requests = traffic.num_requests or SATURATED_REQUESTS
    wait_s = requests / 2 * (1 / served - 1 / rate)

    def because() -> str:
        flow = f"{rate:.3g} requests/s come, {served:.3g} are answered"
        return f"saturated: {flow}; mean over {requests} requests"

    return _queued(one, wait_s, served * traffic.output_tokens, because)


def _static(replica: Replica, load: Load, speed: float) -> Timing:
    """One batch started together and run to its end: all prompts are one prefill, then all decode.
    Nothing follows it through the stages, so they work one after another.
    """
    traffic, outputs = load.traffic, load.traffic.output_tokens
    requests = traffic.num_requests or traffic.concurrency or 1
    per_replica = -(-requests // load.dp)
    running = min(per_replica, load.most_running)
    busy = min(requests, load.dp)
    decode = time_decode(
        replica,
        running,
        context=_context(traffic),
        speed=speed,
        busy_replicas=busy,
        overlap=False,
    )
    prefill = time_prefill(
        replica,
        traffic.input_tokens,
        prompts=running,
        chunk=min(replica.pricing.limits.max_batched_tokens, running * traffic.input_tokens),
        speed=speed,
        busy_replicas=busy,
        overlap=False,
    )
    one = _timing(replica, traffic, running, decode, prefill, [_request(replica)])
    wave_s = one.answer_s(outputs)
    waves = per_replica / running
    rate = requests * outputs / (waves * wave_s)

    def because() -> str:
        return f"{waves:.3g} waves of {running}, {show_seconds(wave_s)} each: half of them ahead"

    return _queued(one, (waves - 1) / 2 * wave_s, rate, because)
