"""What a load meets: closed and open loops, runs that end, and the sums of every estimate."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabrics import fabric, model
from pricing import (
    BARE,
    US,
    candidate_of,
    on_gpus,
    price,
    priced,
    seconds_of,
    terms_of,
)
from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import Candidate, check_traffic
from wirecut.cost.estimate import price as price_of
from wirecut.cost.flow import Timing
from wirecut.cost.pace import time_prefill, time_round
from wirecut.cost.prompts import full_rounds_s, prefill_of
from wirecut.cost.terms import Estimate, Rejected, Term, intervals
from wirecut.errors import UsageError
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import Limits
from wirecut.spec.traffic import Traffic

L8B, L70B, QWEN_MOE = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen3-30B-A3B"

# ---- sums


TRAFFICS = [
    Traffic(100, 10),
    Traffic(3000, 1, concurrency=5),
    Traffic(700, 50, concurrency=300),
    Traffic(100, 10, rate=3.0),
    Traffic(100, 10, rate=1e6),
    Traffic(100, 10, rate=math.inf, num_requests=100),
    Traffic(100, 10, concurrency=8, static_batch=True),
    Traffic(3000, 20, num_requests=3, concurrency=9),
]


def check_sums(one: Estimate, traffic: Traffic) -> None:
    assert seconds_of(one, "prefill") == pytest.approx(one.ttft_s, rel=1e-9)
    assert seconds_of(one, "decode") == pytest.approx(one.tpot_s, rel=1e-9)
    assert all(term.seconds >= -1e-9 * one.ttft_s for term in one.terms), one.terms
    assert 0 <= one.bubble_fraction < 1
    for name, value in (("ttft_s", one.ttft_s), ("tpot_s", one.tpot_s)):
        low, high = one.interval[name]
        assert low < value < high
    assert one.requests_per_s * traffic.output_tokens == pytest.approx(one.output_tokens_per_s)


@pytest.mark.parametrize(
    "layout", ["tp1", "tp2", "tp4", "pp2", "pp3", "pp4", "dp3", "tp2pp2dp2", "tp2pp4"]
)
@pytest.mark.parametrize("traffic", TRAFFICS, ids=str)
def test_terms_sum_to_their_phases_on_cores(layout: str, traffic: Traffic):
    wires = fabric(8, launch_s=US)
    check_sums(priced(layout, traffic, wires=wires, engine=engine_profile("wirecut")), traffic)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "lmdeploy"])
@pytest.mark.parametrize("layout", ["tp1", "tp4pp2", "pp4", "dp4ep4", "tp2pp2dp2ep4"])
def test_terms_sum_to_their_phases_on_gpus(engine: str, layout: str):
    name = QWEN_MOE if "ep" in layout else L8B
    pricing = on_gpus(name, "8xH100-SXM", engine)
    for traffic in TRAFFICS:
        check_sums(price_of(candidate_of(pricing, layout, traffic), traffic), traffic)


def test_intervals_weigh_terms_by_their_seconds():
    terms = [
        Term("a", "prefill", 3.0, "", "measured", spread=0.1, kind="compute"),
        Term("b", "prefill", 1.0, "", "assumed", spread=0.6, kind="wait"),
        Term("c", "decode", 1.0, "", "measured", spread=0.2, kind="memory"),
    ]
    found = intervals(terms, output_tokens=5, output_tokens_per_s=100.0)
    values = {"ttft_s": 4.0, "tpot_s": 1.0, "output_tokens_per_s": 100.0}
    widths = {
        "ttft_s": (0.3 + 0.6) / 4,
        "tpot_s": 0.2,
        "output_tokens_per_s": (0.3 + 4 * 0.2) / 7,  # a wait before the first token is no work
    }
    for name, value in values.items():
        wide = 1 + widths[name]
        assert found[name] == pytest.approx((value / wide, value * wide))


# ---- what holds for every load


LOADS = st.tuples(
    st.sampled_from(
        [
            (L8B, "8xH100-SXM", "tp1"),
            (L8B, "8xH100-SXM", "tp2dp2"),
            (L8B, "2x4xL40S:pcie4:100gbe", "tp4pp2"),
            (L70B, "8xL40S:pcie4", "tp8"),
            (L70B, "8xL40S:pcie4", "tp2pp4"),
            (QWEN_MOE, "8xH100-SXM", "tp4ep4"),
            (QWEN_MOE, "8xH100-SXM", "dp4ep4"),
        ]
    ),
    st.sampled_from(["wirecut", "vllm", "sglang", "trtllm"]),
)
INPUTS = st.sampled_from([128, 512, 2000, 8000])
OUTPUTS = st.sampled_from([64, 200, 1000])
USERS = st.sampled_from([1, 2, 4, 7, 16, 32, 64, 100])


class Asked:
    """One layout of one engine, asked about several loads."""

    def __init__(self, load: tuple[tuple[str, str, str], str]) -> None:
        (name, wires, self.layout), engine = load
        assume(engine != "vllm" or "ep" not in self.layout or self.layout == "tp4ep4")
        self.pricing = on_gpus(name, wires, engine)
        self.traffic = Traffic(8000, 1000)
        self.candidate: Candidate = candidate_of(self.pricing, self.layout, self.traffic)

    @property
    def dp(self) -> int:
        return self.candidate.cut.layout.dp

    def time(self, traffic: Traffic, *, speed: float = 1.0) -> Timing:
        return self.candidate.timing(traffic, speed=speed)


@settings(deadline=None, max_examples=60)
@given(LOADS, INPUTS, OUTPUTS, USERS)
def test_little(load: tuple[tuple[str, str, str], str], inputs: int, outputs: int, users: int):
    """Users of a closed loop = requests per second x seconds of a request, where replicas have as
    many each.
    """
    asked = Asked(load)
    found = asked.time(Traffic(inputs, outputs, concurrency=users * asked.dp))
    requests_per_s = found.output_tokens_per_s / outputs
    assert requests_per_s * found.answer_s(outputs) == pytest.approx(users * asked.dp)


@settings(deadline=None, max_examples=60)
@given(LOADS, INPUTS, OUTPUTS, USERS)
def test_more_users(load: tuple[tuple[str, str, str], str], inputs: int, outputs: int, users: int):
    """More users at a replica: it writes no less, and each waits longer. Where prompts take most of
    the time, some of the wait moves from between tokens to before the first.
    """
    asked = Asked(load)
    few, many = (
        asked.time(Traffic(inputs, outputs, concurrency=n * asked.dp)) for n in (users, 2 * users)
    )
    assert many.output_tokens_per_s > 0.92 * few.output_tokens_per_s
    assert many.answer_s(outputs) >= few.answer_s(outputs) * (1 - 1e-9)
    if inputs <= outputs:
        assert many.tpot_s >= 0.99 * few.tpot_s


@settings(deadline=None, max_examples=60)
@given(LOADS, INPUTS, OUTPUTS, USERS)
def test_longer_prompts(
    load: tuple[tuple[str, str, str], str], inputs: int, outputs: int, users: int
):
    asked = Asked(load)
    short, long = (
        asked.time(Traffic(n, outputs, concurrency=users * asked.dp)) for n in (inputs, 2 * inputs)
    )
    assert long.ttft_s >= 0.99 * short.ttft_s
    assert long.output_tokens_per_s <= 1.01 * short.output_tokens_per_s


@settings(deadline=None, max_examples=60)
@given(LOADS, INPUTS, OUTPUTS, USERS, st.sampled_from([1.5, 4.0, 100.0]))
def test_faster_wires_are_never_slower(
    load: tuple[tuple[str, str, str], str], inputs: int, outputs: int, users: int, speed: float
):
    asked, traffic = Asked(load), Traffic(inputs, outputs, concurrency=users)
    slow, fast = asked.time(traffic), asked.time(traffic, speed=speed)
    assert fast.output_tokens_per_s >= 0.995 * slow.output_tokens_per_s
    assert fast.answer_s(outputs) <= 1.005 * slow.answer_s(outputs)
    wired = asked.candidate.cut.layout.replica_size > 1
    if wired and users == 1:
        assert fast.tpot_s < slow.tpot_s
        assert fast.ttft_s < slow.ttft_s


@settings(deadline=None, max_examples=60)
@given(LOADS, INPUTS, OUTPUTS, USERS)
def test_no_replica_answers_sooner_than_it_can_prefill(
    load: tuple[tuple[str, str, str], str], inputs: int, outputs: int, users: int
):
    """Prompts of all users, in steps that are full to the budget, pass the slowest stage once an
    answer.
    """
    asked = Asked(load)
    found = asked.time(Traffic(inputs, outputs, concurrency=users * asked.dp))
    prefill = time_prefill(asked.candidate.replica, inputs, prompts=found.running)
    cycle_s = found.answer_s(outputs) * found.running / users  # without the queue
    assert cycle_s >= prefill.held_s * (1 - 1e-6)
    assert cycle_s >= (outputs - 1) * found.decode.step_s


@settings(deadline=None, max_examples=40)
@given(LOADS, INPUTS, OUTPUTS)
def test_rare_requests_meet_nobody(
    load: tuple[tuple[str, str, str], str], inputs: int, outputs: int
):
    asked = Asked(load)
    rare = asked.time(Traffic(inputs, outputs, rate=1e-6))
    alone = asked.time(Traffic(inputs, outputs, concurrency=1))
    assert rare.ttft_s == pytest.approx(alone.ttft_s, rel=1e-4)
    assert rare.tpot_s == pytest.approx(alone.tpot_s, rel=1e-4)
    assert rare.output_tokens_per_s == pytest.approx(1e-6 * outputs)


@settings(deadline=None, max_examples=40)
@given(LOADS, INPUTS, OUTPUTS)
def test_a_rate_is_served_until_the_replicas_are_full(
    load: tuple[tuple[str, str, str], str], inputs: int, outputs: int
):
    asked = Asked(load)
    most = asked.time(Traffic(inputs, outputs, rate=1e6))
    capacity = most.output_tokens_per_s / outputs
    assert [wait.name for wait in most.waits].count("queue") == 1
    served = [asked.time(Traffic(inputs, outputs, rate=share * capacity)) for share in (0.1, 0.7)]
    for share, one in zip((0.1, 0.7), served, strict=True):
        assert one.output_tokens_per_s / outputs == pytest.approx(share * capacity)
        assert "queue" not in {wait.name for wait in one.waits}
    assert served[0].answer_s(outputs) <= served[1].answer_s(outputs) < most.answer_s(outputs)


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
