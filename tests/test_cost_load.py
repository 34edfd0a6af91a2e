"""The sums of every estimate, and what holds for every load."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabrics import fabric
from pricing import (
    US,
    candidate_of,
    on_gpus,
    priced,
    seconds_of,
)
from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import Candidate
from wirecut.cost.estimate import price as price_of
from wirecut.cost.flow import Timing
from wirecut.cost.pace import time_prefill
from wirecut.cost.terms import Estimate, Term, intervals
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
