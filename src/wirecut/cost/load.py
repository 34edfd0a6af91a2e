"""What a load meets: prompts among decodes, requests that wait for others, replicas side by side.

    timing = time_load(replica, Load(traffic, dp=2, most_running=64))
    timing.ttft_s, timing.tpot_s, timing.output_tokens_per_s

Every load is the same flow (`flow.py`). Closed loop, open loop and all at once differ in how many
run, in how many came together, and in when a run ends.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from wirecut.cost.flow import (
    Timing,
    Wait,
    request_wait,
    steady,
    timing_of,
)
from wirecut.cost.pace import time_decode, time_prefill
from wirecut.cost.prompts import burst_s, context_of
from wirecut.cost.replica import Replica
from wirecut.facts import fact
from wirecut.spec.traffic import Traffic
from wirecut.units import show_seconds

# How many requests a run has when its length is not given but its queue grows without end.
SATURATED_REQUESTS = 1000
# Requests per user of a closed loop whose length is not given: what serving benchmarks send
# (InferenceMAX, and vLLM's recipes: prompts = 10 x concurrency). All users start together.
ROUNDS = 10
# Answers of requests that come at their own times differ in length, and a run lasts until the
# longest ends: so many times the mean, where arrivals go on for longer than an answer (fitted on
# runs of 200 and 500 requests of ShareGPT and of articles, two sources; benchmarks/serving.md).
LONGEST_ANSWER = 4.5


@fact
class Load:
    """The traffic on `dp` replicas, each of which runs `most_running` requests at once at most."""

    traffic: Traffic
    dp: int
    most_running: int


def time_load(replica: Replica, load: Load, *, speed: float = 1.0) -> Timing:
    """What the load meets on `load.dp` replicas like this one."""
    traffic = load.traffic
    if traffic.static_batch:
        return _static(replica, load, speed)
    if traffic.rate is not None and traffic.rate != math.inf:
        return _open_loop(replica, load, traffic.rate, speed)
    return _closed_loop(replica, load, speed)


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
    one = steady(replica, traffic, running, busy, speed, together=together)
    rate = one.output_tokens_per_s * (with_one_more or load.dp)
    if with_one_more and fewer:
        least = min(fewer, load.most_running)
        others = steady(replica, traffic, least, busy, speed, together=together)
        rate += others.output_tokens_per_s * (load.dp - with_one_more)
    if load.traffic.num_requests is not None:
        rate *= _evenness(-(-requests // load.dp), running)
    waiting = fullest - running
    if traffic.rate == math.inf:
        waiting = waiting / 2  # the last waits for all before it, the first for none
    wait_s = one.answer_s(traffic.output_tokens) * waiting / running

    def because() -> str:
        return f"{fullest} requests, room for {running}: each waits for others' answers"

    return _queued(one, wait_s, rate, because)


def _evenness(requests: int, running: int) -> float:
    """Of the time of a run of `requests` in waves of `running`, the share in which as many run: the
    last wave has what is left, and takes as long as any.
    """
    return requests / running / -(-requests // running)


def _open_loop(replica: Replica, load: Load, rate: float, speed: float) -> Timing:
    """`rate` requests per second: as many run at once as Little's law needs, rate = running /
    answer time; as long as that is one on a replica, the others are idle. Of a run with an end, as
    many as its mean: it lasts from the first request to the end of the longest answer.

    Where even the most that can run are too slow, the queue grows: the wait is the mean over the
    run.
    """
    traffic, outputs = load.traffic, load.traffic.output_tokens
    requests = traffic.num_requests

    def serve(level: int) -> tuple[Timing, float]:
        """One request on each of `level` replicas, then ever more on all; and requests/s."""
        busy, running = min(level, load.dp), max(1, level - load.dp + 1)
        found = 1.0
        if running == 1:
            alone = steady(replica, traffic, 1, busy, speed)
            found = _all_busy(rate * alone.answer_s(outputs) / load.dp, load.dp)
        timing = steady(replica, traffic, running, busy, speed, found=found)
        return timing, timing.output_tokens_per_s * busy / outputs

    def wanted(timing: Timing, tail_s: float = 0.0) -> float:
        """Requests/s to answer while any are there; the longest answer's end runs for `tail_s` on,
        where requests come for as long as an answer takes.
        """
        if requests is None:
            return rate
        arriving_s, answer_s = requests / rate, timing.answer_s(outputs)
        return requests / (arriving_s + answer_s + tail_s * min(1.0, arriving_s / answer_s))

    low, high = 1, load.dp - 1 + load.most_running
    while low < high:
        middle = (low + high) // 2
        timing, served = serve(middle)
        if served >= wanted(timing):
            high = middle
        else:
            low = middle + 1
    one, served = serve(low)
    if served >= wanted(one):
        behind_s = _behind(replica, load, rate, speed)

        def why_behind() -> str:
            return f"{requests} prompts come within {show_seconds((requests or 0) / rate)}"

        tail_s = 0.0
        if requests is not None:  # by itself in the end
            alone = steady(replica, traffic, 1, 1, speed)
            tail_s = (LONGEST_ANSWER - 1) * outputs * alone.tpot_s
        return _queued(one, behind_s, wanted(one, tail_s) * outputs, why_behind)
    many = requests or SATURATED_REQUESTS
    wait_s = many / 2 * (1 / served - 1 / rate)

    def because() -> str:
        flow = f"{rate:.3g} requests/s come, {served:.3g} are answered"
        return f"saturated: {flow}; mean over {many} requests"

    return _queued(one, wait_s, served * outputs, because)


def _behind(replica: Replica, load: Load, rate: float, speed: float) -> float:
    """Seconds that a prompt of a run waits because all come faster than prompts are worked off, the
    mean over the run.
    """
    requests = load.traffic.num_requests
    if requests is None:
        return 0.0
    own = min(-(-requests // load.dp), load.most_running)
    all_s = burst_s(replica, load.traffic, own, 0, speed)
    return max(0.0, all_s - own * load.dp / rate) / 2


def _all_busy(load: float, servers: int) -> float:
    """The share of arrivals that find each of `servers` at work, which are so `load` of their time.

    load ** (sqrt(2 (servers + 1)) - 1): Sakasegawa 1977, An approximation formula for M/M/s.
    """
    return min(1.0, load) ** (math.sqrt(2 * (servers + 1)) - 1)


def _static(replica: Replica, load: Load, speed: float) -> Timing:
    """One batch started together and run to its end: all prompts are one prefill, then all decode.
    Nothing follows it through the stages, so they work one after another.
    """
    traffic, outputs = load.traffic, load.traffic.output_tokens
    requests = traffic.requests_at_once or 1
    per_replica = -(-requests // load.dp)
    running = min(per_replica, load.most_running)
    busy = min(requests, load.dp)
    decode = time_decode(
        replica,
        running,
        context=context_of(traffic),
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
    one = timing_of(replica, traffic, running, decode, prefill, [request_wait(replica)])
    wave_s = one.answer_s(outputs)
    waves = -(-per_replica // running)
    rate = requests * outputs / (waves * wave_s)

    def because() -> str:
        return f"{waves} waves of {running}, {show_seconds(wave_s)} each: half of them ahead"

    return _queued(one, (waves - 1) / 2 * wave_s, rate, because)
