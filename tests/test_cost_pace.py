"""How forwards follow one another through the stages."""

import pytest

from pricing import on_gpus, replica_of
from wirecut.cost.forward import Batch
from wirecut.cost.pace import (
    chunk_batch,
    chunk_rows,
    in_flight,
    lengths,
    time_decode,
    time_prefill,
    time_round,
)
from wirecut.cost.step import price_forward

L8B, L70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"


def test_batches_in_flight():
    own, vllm, llama_cpp = (
        replica_of(on_gpus(L8B, "4xL40S", engine), "pp4")
        for engine in ("wirecut", "vllm", "llama.cpp")
    )
    assert [in_flight(own, n) for n in (1, 2, 4, 64)] == [1, 2, 4, 4]
    share = vllm.pricing.engine.batching.in_flight  # it deals unevenly
    assert 0 < share < 1
    assert [in_flight(vllm, n) for n in (1, 2, 64)] == [1, 1 + share, 1 + 3 * share]
    assert in_flight(llama_cpp, 64) == 1


@pytest.mark.parametrize("engine", ["wirecut", "vllm", "sglang", "trtllm", "llama.cpp"])
@pytest.mark.parametrize("layout", ["tp1", "pp4", "tp2pp2"])
@pytest.mark.parametrize("requests", [1, 3, 64])
def test_a_step_is_the_way_of_one_batch_or_the_slowest_stage_of_all(
    engine: str, layout: str, requests: int
):
    replica = replica_of(on_gpus(L8B, "4xL40S", engine), layout)
    found = time_decode(replica, requests, context=500)
    stages, between, slowest = lengths(found.forward, 1.0)
    assert found.step_s == pytest.approx(max(stages + between, found.batches * slowest))
    busy = stages * found.batches / len(replica.stages)
    assert found.bubble_s == pytest.approx(found.step_s - busy - between, abs=1e-12)
    assert 0 <= found.idle < 1


def test_a_batch_alone_does_not_overlap():
    replica = replica_of(on_gpus(L8B, "4xL40S", "wirecut"), "pp4")
    static, flowing = (
        time_decode(replica, 64, context=500, overlap=overlap) for overlap in (False, True)
    )
    assert (static.batches, flowing.batches) == (1, 4)
    assert static.idle > 0.7
    assert flowing.idle < 0.2
    prefill = [
        time_prefill(replica, 8192, prompts=4, chunk=2048, overlap=overlap)
        for overlap in (False, True)
    ]
    assert prefill[0].seconds > 2.5 * prefill[1].seconds
    assert prefill[0].held_s == prefill[0].seconds
    assert prefill[1].held_s < prefill[1].seconds


def test_chunks_follow_the_budget_and_a_pipeline_shares_prompts_out():
    own, vllm = (on_gpus(L8B, "4xL40S", engine) for engine in ("wirecut", "vllm"))
    assert own.limits.max_batched_tokens == vllm.limits.max_batched_tokens == 2048
    alone, staged = replica_of(own, "tp1"), replica_of(own, "pp4")
    assert [chunk_rows(alone, n) for n in (100, 1024, 9000)] == [100, 1024, 2048]
    assert [chunk_rows(staged, n) for n in (100, 1024, 9000)] == [64, 128, 1125]
    assert chunk_rows(replica_of(vllm, "pp4"), 1024) == 1024
    found = time_prefill(alone, 5000)
    assert found.chunks == 3
    by_hand = 2 * sum(found.chunk.compute_s) + sum(found.last.compute_s)
    assert found.seconds == pytest.approx(by_hand)


def test_decodes_wait_for_prompts_where_a_runtime_does_not_mix():
    mixing, apart = (
        replica_of(on_gpus(L8B, "1xH100-SXM", engine), "tp1") for engine in ("vllm", "sglang")
    )
    for replica, mixes in ((mixing, True), (apart, False)):
        alone = time_decode(replica, 32, context=1000).step_s
        prompt = lengths(price_forward(replica, chunk_batch(1000, 1000)), 1.0)[0]
        both = time_round(replica, 32, context=1000, chunk=1000, prompt_tokens=1000)
        assert alone < both
        if mixes:
            assert both < alone + prompt  # weights are read once
        else:
            assert both == pytest.approx(alone + prompt)
    assert time_round(mixing, 32, context=1000, chunk=0, prompt_tokens=1000) == pytest.approx(
        time_decode(mixing, 32, context=1000).step_s
    )


def test_faster_wires_shorten_what_is_on_them_only():
    replica = replica_of(on_gpus(L70B, "4xL40S:pcie4"), "tp2pp2")
    forward = price_forward(replica, Batch(decodes=16, context=1000))
    stages, between, _ = lengths(forward, 1.0)
    fast_stages, fast_between, _ = lengths(forward, 4.0)
    assert fast_between == pytest.approx(between / 4)
    assert stages - fast_stages == pytest.approx(0.75 * sum(forward.wire_s))
