"""What a load meets: prefills between decodes, requests that wait for others, replicas side by
side.

    timing = time_load(replica, Load(traffic, dp=2, most_running=64))
    timing.ttft_s, timing.tpot_s, timing.output_tokens_per_s
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from wirecut.cost.pace import Decode, Prefill, chunk_rows, time_decode, time_prefill
from wirecut.cost.replica import Replica
from wirecut.cost.terms import Phase
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds

# How many requests a run has when its length is not given but its queue grows without end.
SATURATED_REQUESTS = 1000


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


def time_load(replica: Replica, load: Load, *, speed: float = 1.0) -> Timing:
    """What the load meets on `load.dp` replicas like this one."""
    traffic = load.traffic
    if traffic.static_batch or traffic.rate == math.inf:
        return _all_at_start(replica, load, speed)
    if traffic.rate is not None:
        return _open_loop(replica, load, traffic.rate, speed)
    return _closed_loop(replica, load, speed)


def _steady(
    replica: Replica, traffic: Traffic, running: int, busy_replicas: int, speed: float
) -> Timing:
    """One replica that always runs `running` requests, each followed by the next at once, beside
    others: `busy_replicas` with it.

    While one request is answered, every other one is prefilled once: (running - 1) x held_s, spread
    over the request's output tokens. A new request waits for half of the step in progress on
    average.
    """
    outputs, others = traffic.output_tokens, running - 1
    decode = time_decode(
        replica, running, context=_context(traffic), speed=speed, busy_replicas=busy_replicas
    )
    prefill = time_prefill(
        replica, traffic.input_tokens, batches=running, speed=speed, busy_replicas=busy_replicas
    )
    waits = [_request(replica)]
    stolen = others * prefill.held_s / outputs

    def why_wait() -> str:
        return f"half of {show_seconds(decode.step_s)}"

    def why_stolen() -> str:
        return f"{others} others x prefill {show_seconds(prefill.held_s)} / {outputs} output tokens"

    in_progress = decode.step_s / 2 if others and outputs > 1 else 0.0
    if others:
        waits.append(Wait("step in progress", "prefill", in_progress, why_wait))
        waits.append(Wait("prefill of others", "prefill", stolen, why_stolen))
        waits.append(Wait("prefill of others", "decode", stolen, why_stolen))
    ttft_s = waits[0].seconds + prefill.seconds + in_progress + stolen
    tpot_s = decode.step_s + stolen
    rate = running * outputs / (ttft_s + (outputs - 1) * tpot_s)
    return Timing(running, ttft_s, tpot_s, rate, decode, prefill, tuple(waits))


def _request(replica: Replica) -> Wait:
    """A request's way to the first stage and its first token's way back to whoever asked."""
    launch_s, ops = replica.stages[0].device.launch_s, replica.pricing.engine.request_ops

    def because() -> str:
        return f"{ops} operations x {show_seconds(launch_s)}"

    return Wait("request", "prefill", ops * launch_s, because)


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
    """`concurrency` users, dealt evenly to the replicas: latencies are those of the fullest one.

    Users that find no room wait (Little's law), which changes no replica's rate.
    """
    traffic = load.traffic
    users = traffic.concurrency or 1
    users = users if traffic.num_requests is None else min(users, traffic.num_requests)
    fewer, with_one_more = divmod(users, load.dp)
    fullest = fewer + (1 if with_one_more else 0)
    running = min(fullest, load.most_running)
    busy = min(users, load.dp)
    one = _steady(replica, traffic, running, busy, speed)
    rate = one.output_tokens_per_s * (with_one_more or load.dp)
    if with_one_more and fewer:
        others = _steady(replica, traffic, min(fewer, load.most_running), busy, speed)
        rate += others.output_tokens_per_s * (load.dp - with_one_more)
    answer_s = one.ttft_s + (traffic.output_tokens - 1) * one.tpot_s
    wait_s = answer_s * (fullest - running) / running

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
        timing = _steady(replica, traffic, running, busy, speed)
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


def _all_at_start(replica: Replica, load: Load, speed: float) -> Timing:
    """Every request there at the start: waves of as many as run at once, each prefilled first, then
    decoded.

    In a static batch all prompts of a wave are one prefill; else as many as a step holds, and a
    request waits for half of the other steps on average before its first token, and for the other
    half after it.
    """
    traffic, outputs = load.traffic, load.traffic.output_tokens
    alone = traffic.concurrency or 1 if traffic.static_batch else SATURATED_REQUESTS
    requests = traffic.num_requests or alone
    per_replica = -(-requests // load.dp)
    running = min(per_replica, load.most_running)
    at_once = chunk_rows(replica, running * traffic.input_tokens) // traffic.input_tokens
    together = running if traffic.static_batch else min(running, max(1, at_once))
    others = running - together
    busy = min(requests, load.dp)
    decode = time_decode(
        replica, running, context=_context(traffic), speed=speed, busy_replicas=busy
    )
    prefill = time_prefill(
        replica,
        traffic.input_tokens,
        prompts=together,
        batches=-(-running // together),
        speed=speed,
        busy_replicas=busy,
    )
    half_s = others / together * prefill.held_s / 2

    def why_half() -> str:
        steps = f"{others} other prompts, {together} a step of {show_seconds(prefill.held_s)}"
        return f"half of {steps}"

    waits = (_request(replica),)
    if others:
        waits = (
            *waits,
            Wait("prefill of others", "prefill", half_s, why_half),
            Wait("prefill of others", "decode", half_s / outputs, why_half),
        )
    ttft_s = waits[0].seconds + prefill.seconds + half_s
    tpot_s = decode.step_s + half_s / outputs
    wave_s = ttft_s + half_s + (outputs - 1) * decode.step_s
    waves = per_replica / running
    rate = requests * outputs / (waves * wave_s)
    one = Timing(running, ttft_s, tpot_s, rate, decode, prefill, waits)

    def because() -> str:
        return f"{waves:.3g} waves of {running}, {show_seconds(wave_s)} each: half of them ahead"

    return _queued(one, (waves - 1) / 2 * wave_s, rate, because)
