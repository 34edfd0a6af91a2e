"""Many prompts at once: a burst, and the least that rounds full of prompts take.

    burst_s(replica, traffic, 64, busy_replicas=0, speed=1.0)

Knows nothing of who waits for whom: that is in `flow.py`.
"""

from wirecut.cost.pace import Prefill, chunk_rows, time_prefill, time_round
from wirecut.cost.replica import Replica
from wirecut.spec.traffic import Traffic


def burst_s(
    replica: Replica, traffic: Traffic, running: int, busy_replicas: int, speed: float
) -> float:
    """Seconds of the prefill of `running` prompts that came together, in steps of the budget, or of
    one prompt each where the runtime is set up so.
    """
    prompts = 1 if replica.pricing.engine.batching.one_prompt else running
    prefill = prefill_of(replica, traffic, prompts, running, busy_replicas, speed)
    return prefill.seconds + (running // prompts - 1) * prefill.held_s


def prefill_of(
    replica: Replica,
    traffic: Traffic,
    prompts: int,
    waiting: int,
    busy_replicas: int,
    speed: float,
) -> Prefill:
    """Prefill of `prompts` of those that are `waiting`, in steps of the budget."""
    inputs = traffic.input_tokens
    chunk = chunk_rows(replica, prompts * inputs)
    return time_prefill(
        replica,
        inputs,
        prompts=prompts,
        chunk=chunk,
        batches=-(-waiting * inputs // chunk),
        speed=speed,
        busy_replicas=busy_replicas,
    )


def full_rounds_s(
    replica: Replica, traffic: Traffic, running: int, busy_replicas: int, speed: float
) -> float:
    """Seconds of rounds full to the budget that hold `running` prompts, and beside them the answers
    that such rounds bring forth. Of a budget b, answers take b x outputs / (inputs + outputs):
    chunk / inputs new ones a round stay for `outputs` rounds. 0: no round holds both.
    """
    inputs, outputs = traffic.input_tokens, traffic.output_tokens
    budget = chunk_rows(replica, running * inputs)
    decodes = min(running - 1, round(budget * outputs / (inputs + outputs)))
    chunk = budget - decodes
    if min(decodes, chunk) < 1:
        return 0.0
    round_s = time_round(
        replica,
        decodes,
        context=context_of(traffic),
        chunk=chunk,
        prompt_tokens=inputs,
        speed=speed,
        busy_replicas=busy_replicas,
    )
    return running * inputs / chunk * round_s


def context_of(traffic: Traffic) -> float:
    """Mean tokens in the cache of a request while it is answered."""
    return traffic.input_tokens + traffic.output_tokens / 2
