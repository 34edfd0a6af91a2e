"""What a load meets: idle replicas, queues, runs that end, static batches, wrong use."""

import math
from dataclasses import replace

import pytest

from fabrics import fabric, model
from pricing import (
    BARE,
    candidate_of,
    on_gpus,
    price,
    priced,
    terms_of,
)
from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import check_traffic
from wirecut.cost.flow import Timing
from wirecut.cost.pace import time_round
from wirecut.cost.prompts import full_rounds_s, prefill_of
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import UsageError
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import Limits
from wirecut.spec.traffic import Traffic

L8B, L70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"


# ---- replicas


def test_idle_replicas_give_nothing():
    alone = priced("tp1", Traffic(100, 10, concurrency=1))
    assert priced("dp4", Traffic(100, 10, concurrency=1)).output_tokens_per_s == pytest.approx(
        alone.output_tokens_per_s
    )
    three = priced("dp4", Traffic(100, 10, concurrency=3))
    assert three.output_tokens_per_s == pytest.approx(3 * alone.output_tokens_per_s)


def test_replicas_with_fewer_users_are_faster():
    # 5 users on 2 replicas: one runs 3, the other 2; latencies are those of the fuller one
    two, three, five = (
        priced(layout, Traffic(100, 10, concurrency=users, num_requests=10**6))
        for layout, users in (("tp1", 2), ("tp1", 3), ("dp2", 5))
    )
    both = two.output_tokens_per_s + three.output_tokens_per_s
    assert five.output_tokens_per_s == pytest.approx(both, rel=1e-4)
    assert five.ttft_s == pytest.approx(three.ttft_s, rel=1e-4)
    assert five.tpot_s == pytest.approx(three.tpot_s, rel=1e-4)


def alone_is_twice_as_fast(num_devices: int) -> Fabric:
    """Devices that share memory: 1e-9 s a byte with all busy, half of it alone."""
    points = tuple(MatrixPoint("bf16", rows, 10**6, 1e-3) for rows in (1, 8, 64))
    halves = tuple(replace(point, seconds=point.seconds / 2) for point in points)
    wires = fabric(num_devices, points=points)
    return replace(wires, devices=tuple(replace(one, alone=halves) for one in wires.devices))


def test_few_requests_a_second_leave_replicas_idle():
    wires = alone_is_twice_as_fast(4)
    alone = priced("tp1", Traffic(100, 10), wires=wires)
    few = priced("dp4", Traffic(100, 10, rate=0.5 * alone.requests_per_s), wires=wires)
    assert few.tpot_s == pytest.approx(alone.tpot_s, rel=0.02)
    more = priced("dp4", Traffic(100, 10, rate=1.5 * alone.requests_per_s), wires=wires)
    assert more.tpot_s > 1.1 * alone.tpot_s
    assert more.running == 1


# ---- queues and runs that end


def test_too_little_room_makes_requests_wait():
    limits = Limits(max_seqs=4)
    eight = priced("tp1", Traffic(100, 10, concurrency=8, num_requests=80), limits=limits)
    four = priced("tp1", Traffic(100, 10, concurrency=4, num_requests=80), limits=limits)
    assert eight.running == 4
    assert eight.output_tokens_per_s == pytest.approx(four.output_tokens_per_s)
    assert eight.ttft_s == pytest.approx(four.ttft_s + four.ttft_s + 9 * four.tpot_s)
    (queue,) = (term for term in eight.terms if term.name == "queue")
    assert queue.because.startswith("8 requests, room for 4")
    assert queue.kind == "wait"


def test_a_rate_above_what_can_be_answered_is_told():
    queues = []
    for requests in (100, 200, 1000):
        one = priced("tp1", Traffic(100, 10, rate=1e6, num_requests=requests))
        (queue,) = (term for term in one.terms if term.name == "queue")
        assert queue.because.startswith("saturated: 1e+06 requests/s come, ")
        assert queue.because.endswith(f"mean over {requests} requests")
        assert queue.seconds == pytest.approx(requests / 2 * (1 / one.requests_per_s - 1e-6))
        queues.append(queue.seconds)
    assert queues[1] == pytest.approx(2 * queues[0])
    assert queues[2] == pytest.approx(10 * queues[0])


def test_a_run_is_no_longer_than_its_requests():
    pricing = on_gpus(L8B, "1xH100-SXM")

    def asked(traffic: Traffic) -> Timing:
        return candidate_of(pricing, "tp1", traffic).timing(traffic)

    three = asked(Traffic(500, 100, concurrency=3, num_requests=3))
    capped = asked(Traffic(500, 100, concurrency=64, num_requests=3))
    assert (capped.ttft_s, capped.tpot_s, capped.running) == (three.ttft_s, three.tpot_s, 3)
    # all at the start: the same as so many users who ask once
    burst = asked(Traffic(500, 100, rate=math.inf, num_requests=3))
    assert burst.output_tokens_per_s == pytest.approx(three.output_tokens_per_s)
    # a short run waits more for others that start with it
    long = asked(Traffic(500, 100, concurrency=32, num_requests=3200))
    short = asked(Traffic(500, 100, concurrency=32, num_requests=32))
    assert short.ttft_s > 2 * long.ttft_s


def test_an_open_run_lasts_until_its_last_answer():
    pricing, rate = on_gpus(L8B, "1xH100-SXM"), 2.0

    def served(requests: int | None) -> float:
        traffic = Traffic(500, 200, rate=rate, num_requests=requests)
        return candidate_of(pricing, "tp1", traffic).timing(traffic).output_tokens_per_s

    assert served(None) == pytest.approx(rate * 200)
    assert served(5) < served(50) < served(500) < rate * 200
    assert served(5000) == pytest.approx(rate * 200, rel=0.01)


# ---- static batches


def test_a_static_batch_prefills_together_and_decodes_undisturbed():
    one = priced("tp1", Traffic(100, 10, concurrency=4, static_batch=True))
    single = priced("tp1", Traffic(100, 10))
    assert "prefill of others" not in terms_of(one, "decode")
    assert one.ttft_s < 4 * single.ttft_s
    assert one.output_tokens_per_s == pytest.approx(40 / (one.ttft_s + 9 * one.tpot_s))


def test_stages_of_a_static_batch_work_one_after_another():
    static, flowing = (
        priced("pp4", Traffic(100, 100, concurrency=16, static_batch=static), wires=fabric(4))
        for static in (True, False)
    )
    assert static.bubble_fraction > 0.7
    assert flowing.bubble_fraction < 0.4
    alone = priced("tp1", Traffic(100, 100, concurrency=16, static_batch=True))
    assert static.tpot_s > alone.tpot_s  # four devices, and slower than one


def test_a_static_batch_larger_than_the_room_goes_in_waves():
    limits = Limits(max_seqs=4)
    one, two = (
        priced("tp1", Traffic(100, 10, concurrency=n, static_batch=True), limits=limits)
        for n in (4, 8)
    )
    assert two.output_tokens_per_s == pytest.approx(one.output_tokens_per_s)
    wave_s = one.ttft_s + 9 * one.tpot_s
    assert two.ttft_s == pytest.approx(one.ttft_s + wave_s / 2)


def test_rounds_full_of_prompts_carry_the_answers_they_bring_forth():
    """Of a budget of 8,192 tokens, 482 are answers' where 2,048 in bring forth 128 out."""
    pricing, traffic = on_gpus(L70B, "8xH100-SXM", "trtllm"), Traffic(2048, 128, rate=math.inf)
    candidate = candidate_of(pricing, "tp8", traffic)
    found, running = candidate.timing(traffic), candidate.most_running
    alone_s = prefill_of(candidate.replica, traffic, running, running, 1, 1.0).held_s
    full_s = full_rounds_s(candidate.replica, traffic, running, 1, 1.0)
    assert running > 482
    round_s = time_round(
        candidate.replica,
        482,
        context=2048 + 64,
        chunk=8192 - 482,
        prompt_tokens=2048,
        busy_replicas=1,
    )
    assert full_s == pytest.approx(running * 2048 / (8192 - 482) * round_s)
    assert alone_s < full_s
    assert found.output_tokens_per_s <= running * 128 / full_s * (1 + 1e-9)


# ---- loads that are wrong, cuts that do not work


def test_a_request_longer_than_the_model_is_wrong_use():
    with pytest.raises(UsageError, match=r"4090.*4097.*4096"):
        price("tp1", Traffic(4090, 7))


def test_a_static_batch_has_no_rate():
    with pytest.raises(UsageError, match="a static batch starts together"):
        check_traffic(model(), Traffic(100, 10, rate=2.0, static_batch=True))
    check_traffic(model(), Traffic(100, 10, rate=math.inf, num_requests=4, static_batch=True))


def test_missing_links_are_a_reason():
    wires = fabric(2)
    cut_off = Fabric(wires.devices, (), wires.islands, wires.made)
    found = price("tp2", Traffic(100, 10), wires=cut_off)
    assert isinstance(found, Rejected)
    assert "no link joins devices 0 and 1" in found.reason
    assert isinstance(price("dp2", Traffic(100, 10), wires=cut_off), Estimate)


def test_unknown_engines_are_wrong_use():
    with pytest.raises(UsageError, match=r"no engine 'exllama'; wirecut predicts wirecut, vllm"):
        engine_profile("exllama")
    assert BARE.in_blocks(17) == 17
    assert engine_profile("vllm").in_blocks(17) == 32
