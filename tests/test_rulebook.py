"""What people who serve models know, as plans: each case is a question and what the answer must be.

Models come from the bundled catalogue, fabrics are typed; numbers are not pinned, choices are.
"""

import re
from collections.abc import Sequence

import pytest

import wirecut
from wirecut.errors import NothingFits
from wirecut.layout.layout import Layout, parse_layout
from wirecut.planner.plan import Ranking
from wirecut.spec.traffic import Traffic

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_405B = "meta-llama/Llama-3.1-405B-Instruct"
ALONE = Traffic(1024, 256)
BUSY = Traffic(1024, 256, concurrency=64)
LONG = Traffic(8192, 256, concurrency=64)


def planned(
    model: str, fabric: str | Sequence[str], goal: str, traffic: Traffic, **more: object
) -> Ranking:
    return wirecut.plan(model, fabric, goal=goal, traffic=traffic, engine="vllm", **more)  # type: ignore[arg-type]


def chosen(*question: object, **more: object) -> Layout:
    return parse_layout(planned(*question, **more).chosen.layout)  # type: ignore[arg-type]


def test_70b_does_not_fit_one_80_gb_gpu():
    with pytest.raises(NothingFits) as raised:
        planned(LLAMA_70B, "1xH100-SXM", "latency", ALONE, dtype="fp16")
    said = str(raised.value)
    assert "has 141 GB of weights" in said
    assert "131.4 GiB" in said  # the same, as memory is counted
    assert "what would hold it: 2 x H100-SXM (tp2)" in said
    assert "or one " in said  # a larger device


def test_what_would_hold_it_does():
    with pytest.raises(NothingFits, match=r"what would hold it: 4 x L40S \(tp4\)"):
        planned(LLAMA_70B, "2xL40S", "latency", ALONE)
    assert planned(LLAMA_70B, "4xL40S", "latency", ALONE).chosen.devices_used == 4


def test_heads_that_nothing_divides_are_said():
    ranking = planned("Qwen/Qwen2.5-0.5B", "4xL40S", "latency", ALONE)  # 14 heads, 2 of them KV
    reasons = {one.layout: one.reason for one in ranking.rejected}
    assert reasons["tp3"] == (
        "tp 3 does not divide 14 query and 2 key-value heads evenly; sizes that work: 1, 2, 14"
    )


@pytest.mark.parametrize(("engine", "axis"), [("llama.cpp", "tp"), ("lmdeploy", "pp")])
def test_what_an_engine_does_not_cut_is_never_chosen(engine: str, axis: str):
    for fabric in ("8xL40S", "4x8xL40S:pcie4:100gbe"):  # searched whole, and thinned
        ranking = wirecut.plan(LLAMA_8B, fabric, traffic=BUSY, engine=engine)
        assert all(getattr(parse_layout(one.layout), axis) == 1 for one in ranking.ranked)
    with pytest.raises(NothingFits) as raised:
        wirecut.plan(LLAMA_70B, "1xL40S", traffic=ALONE, engine=engine)
    (cut,) = re.findall(r"what would hold it: 4 x L40S \((.*?)\)", str(raised.value))
    assert getattr(parse_layout(cut), axis) == 1


def test_70b_for_one_user_is_cut_over_all_of_nvswitch():
    assert chosen(LLAMA_70B, "8xH100-SXM", "latency", ALONE) == Layout(tp=8)


def test_8b_for_many_users_is_copied():
    layout = chosen(LLAMA_8B, "8xH100-SXM", "throughput", Traffic(1024, 256, concurrency=512))
    assert layout.dp >= 4
    assert layout.pp == 1


@pytest.mark.parametrize("network", ["ib-400", "ib-400x8", "100gbe"])
def test_405b_on_two_boxes_is_cut_inside_and_staged_between(network: str):
    fabric = f"2x8xH100-SXM:nvswitch:{network}"
    assert chosen(LLAMA_405B, fabric, "throughput", BUSY) == Layout(tp=8, pp=2)


@pytest.mark.parametrize(("fabric", "dtype"), [("4xL40S", "fp8"), ("8xL40S", "bf16")])
def test_70b_on_pcie_with_long_prompts_is_staged(fabric: str, dtype: str):
    assert chosen(LLAMA_70B, fabric, "throughput", LONG, dtype=dtype).pp > 1


def test_70b_in_16_bits_on_four_cards_has_room_for_few_and_stages_read_weights_for_each():
    """Nine requests of 8,192 tokens fit: a pipeline's batches are then two or three rows each."""
    ranking = planned(LLAMA_70B, "4xL40S", "throughput", LONG)
    staged = next(one for one in ranking.ranked if parse_layout(one.layout).pp > 1)
    assert ranking.chosen.running < 10
    assert staged.output_tokens_per_s > 0.6 * ranking.chosen.output_tokens_per_s


def test_two_cards_on_pcie_say_by_how_much():
    ranking = planned(LLAMA_8B, "2xL40S", "latency", ALONE)
    first, second = ranking.ranked[:2]
    assert {first.layout, second.layout} & {"tp2", "pp2"}
    for one in (first, second):
        low, high = one.interval["tpot_s"]
        assert low < one.tpot_s < high
    assert first.ttft_s + 255 * first.tpot_s < second.ttft_s + 255 * second.tpot_s


@pytest.mark.parametrize(("model", "users"), [(LLAMA_8B, 64), (LLAMA_70B, 64)])
def test_bonded_pairs_are_used_as_pairs(model: str, users: int):
    traffic = Traffic(1024, 256, concurrency=users)
    ranking = planned(model, "4xA100-PCIe:nvlink-pairs", "throughput", traffic)
    layout = parse_layout(ranking.chosen.layout)
    assert layout.tp == 2
    assert layout.world_size == 4
    for rank in range(0, 4, 2):
        pair = set(ranking.chosen.placement[rank : rank + 2])
        assert pair in ({0, 1}, {2, 3})


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B"])
def test_large_experts_are_dealt(model: str):
    assert chosen(model, "8xH200-SXM", "throughput", Traffic(1024, 256, concurrency=256)).ep > 1


def test_nothing_fast_anywhere_is_staged_across_everything():
    fabric = "2x4xA100-PCIe-40GB:pcie3-nop2p:10gbe"
    layout = chosen(LLAMA_70B, fabric, "throughput", Traffic(4096, 256, concurrency=64))
    assert layout.pp >= 4
    assert layout.replica_size > 4  # a replica reaches into both boxes


def test_with_and_without_nvlink_the_answer_flips_and_says_so():
    load = Traffic(8192, 128, concurrency=8)
    fast = planned(LLAMA_70B, "4xA100-SXM-80GB:nvswitch", "latency", load)
    slow = planned(LLAMA_70B, "4xA100-SXM-80GB:pcie3-nop2p", "latency", load)
    assert fast.chosen.layout != slow.chosen.layout
    assert parse_layout(fast.chosen.layout).tp > parse_layout(slow.chosen.layout).tp
    words = {flip.threshold: flip.to for flip in slow.flips if flip.what == "wires inside"}
    assert words["nvswitch"] == fast.chosen.layout
    back = [flip for flip in fast.flips if flip.what == "wires inside"]
    assert any(flip.to != fast.chosen.layout for flip in back)


def test_targets_that_nothing_meets_choose_the_nearest():
    load = Traffic(1024, 256, concurrency=64, tpot_ms=1.0)
    ranking = planned(LLAMA_70B, "8xH100-SXM", "throughput", load)
    assert ranking.chosen.tpot_s == min(one.tpot_s for one in ranking.ranked)
