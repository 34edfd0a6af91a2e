"""One forward by hand, its pieces, and how forwards follow one another through the stages."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrics import FAST, SLOW, big_model, fabric, model
from pricing import BARE, US, bundled, on_gpus, priced, replica_of, terms_of
from wirecut.cost.collectives import collective_price, send_price
from wirecut.cost.engines import Steps, engine_profile
from wirecut.cost.estimate import estimate
from wirecut.cost.forward import Batch, Forward
from wirecut.cost.pace import (
    chunk_batch,
    chunk_rows,
    in_flight,
    lengths,
    time_decode,
    time_prefill,
    time_round,
)
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.step import price_forward
from wirecut.cost.terms import Estimate, Kind
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.spec.traffic import Traffic

L8B, L70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
QWEN_MOE, NEMOTRON = "Qwen/Qwen3-30B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
DEEPSEEK, GEMMA = "deepseek-ai/DeepSeek-V2-Lite", "google/gemma-3-27b-it"


def seconds(forward: Forward, *names: str) -> float:
    return sum(piece.seconds for piece in forward.pieces if piece.name in names)


def kinds(forward: Forward) -> dict[str, Kind]:
    return {piece.name: piece.kind for piece in forward.pieces}


# ---- by hand, on cores


def test_decode_on_one_device():
    # 4 x 36 864 elements x 2 B = 294 912 B; head 64 000 x 2 B; KV 256 x 2 B a token, 105 tokens; 1
    # GB/s attention 4 FLOP x 4 layers x 64 x 105 / 1 TFLOP/s
    one = priced("tp1", Traffic(100, 10))
    terms = terms_of(one, "decode")
    assert terms["weights"] == pytest.approx(294.912 * US)
    assert terms["LM head"] == pytest.approx(128 * US)
    assert terms["KV cache"] == pytest.approx(53.76 * US)
    assert terms["attention"] == pytest.approx(0.10752 * US)
    assert one.tpot_s == pytest.approx(476.77952 * US)
    assert one.bubble_fraction == pytest.approx(0)


def test_prefill_on_one_device():
    # compute bound: 2 FLOP x 147 456 x 4 000 / 1 TFLOP/s; the head sees one row; attention reads
    # 512 B of each token once and sees 2,000 keys a token
    one = priced("tp1", Traffic(4000, 1), limits=Limits(max_batched_tokens=4000))
    terms = terms_of(one, "prefill")
    assert terms["weights"] == pytest.approx(2 * 147_456 * 4000 / 1e12)
    assert terms["LM head"] == pytest.approx(128 * US)
    read, computed = 4000 * 512 / 1e9, 4 * 256 * 4000 * 4001 / 2 / 1e12
    assert terms["attention"] == pytest.approx(read + computed, rel=1e-3)


def test_tensor_parallel_decode():
    # half of everything streamed; 9 all-reduces of 128 B: 2 steps x (10 us + 64 B / 1 GB/s);
    # gather 1000 x 2 B: one send of 1000 B; the step message here is empty: its latency
    terms = terms_of(priced("tp2", Traffic(100, 10)), "decode")
    assert terms["weights"] == pytest.approx(147.456 * US)
    assert terms["LM head"] == pytest.approx(64 * US)
    assert terms["KV cache"] == pytest.approx(26.88 * US)
    assert terms["all-reduce"] == pytest.approx(9 * 2 * 10.064 * US)
    assert terms["logits gather"] == pytest.approx(11 * US)
    assert terms["step message"] == pytest.approx(10 * US)


def test_pipeline_decode():
    # one request: the way is both stages, a hand-off of 128 B and an empty way back; half of the
    # stages idle
    one = priced("pp2", Traffic(100, 10))
    terms = terms_of(one, "decode")
    assert terms["hand-off"] == pytest.approx(10.128 * US)
    assert terms["tokens back"] == pytest.approx(10 * US)
    assert terms["weights"] == pytest.approx(294.912 * US / 2)
    assert one.tpot_s == pytest.approx((476.77952 + 20.128) * US)
    assert terms["bubble"] == pytest.approx(476.77952 * US / 2)
    assert one.bubble_fraction == pytest.approx(1 - 476.77952 / 2 / 496.90752)


def test_a_full_pipeline_waits_for_its_slowest_stage():
    # 8 layers on 3 stages (3, 3, 2), nothing but weights counts: 6 requests make 3 batches in
    # flight
    spec = model(num_hidden_layers=8, vocab_size=1)
    wires = fabric(3, latency_s=0.0, bytes_per_s=1e15)
    pricing = Pricing(spec, wires, dtype="bf16", engine=BARE)
    cut = Cut(Layout(pp=3), (0, 1, 2), ((0, 3), (3, 6), (6, 8)))
    one = estimate(pricing, cut, Traffic(1, 1000, concurrency=6))
    assert isinstance(one, Estimate)
    layer_s = 73_728 * 1e-9
    terms = terms_of(one, "decode")
    assert terms["weights"] == pytest.approx(8 * layer_s)
    work = sum(terms[name] for name in ("weights", "LM head", "KV cache", "attention"))
    assert terms["bubble"] == pytest.approx(9 / 8 * work - work, rel=1e-3)
    assert one.bubble_fraction == pytest.approx(1 - 8 / 9, rel=1e-3)


def test_launches_are_counted_from_the_profile():
    steps = Steps(ops_per_layer=5, step_ops=7, ops_per_sequence=2, request_ops=9)
    engine, wires = replace(BARE, steps=steps), fabric(1, launch_s=US)
    one = priced("tp1", Traffic(100, 1000, concurrency=4), wires=wires, engine=engine)
    terms = terms_of(one, "decode")
    assert terms["launches"] == pytest.approx(4 * 5 * US)
    assert terms["step"] == pytest.approx((7 + 2 * 4) * US)
    assert terms_of(one, "prefill")["request"] == pytest.approx(9 * US)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_plain_layers_take_their_halves_where_native_code_runs_them(dtype: str):
    """In bf16, twice `half_s` each; elsewhere operation by operation."""
    engine = replace(BARE, steps=Steps(ops_per_layer=5, native_halves=True))
    bare = fabric(1, launch_s=US)
    native = replace(bare, devices=tuple(replace(d, half_s=US / 4) for d in bare.devices))
    each_s = {"bf16": 2 * US / 4, "fp32": 5 * US}[dtype]
    for wires, layer_s in ((bare, 5 * US), (native, each_s)):
        pricing = Pricing(model(), wires, dtype=dtype, engine=engine)
        one = estimate(pricing, Cut(Layout(), (0,), ((0, 4),)), Traffic(100, 1000))
        assert isinstance(one, Estimate)
        assert terms_of(one, "decode")["launches"] == pytest.approx(4 * layer_s)


def test_a_later_stage_has_a_step_of_its_own_and_large_weights_leave_it_cold():
    """Operations between steps: 7 on the first stage, 5 on the second, cold after 1 MB of weights
    (two working sets were measured, of 1 kB and of 100 kB)."""
    engine = replace(BARE, steps=Steps(step_ops=7, stage_ops=5))
    points = tuple(MatrixPoint("bf16", 1, size, size * 1e-9) for size in (1000, 100_000))
    wires = fabric(2, launch_s=US, points=points)
    cold = replace(wires, devices=tuple(replace(d, launch_cold_s=3 * US) for d in wires.devices))
    traffic = Traffic(100, 10, concurrency=2)
    for layout, ops in (("tp1", 7), ("pp2", 7 + 5)):
        warm = terms_of(priced(layout, traffic, wires=wires, engine=engine), "decode")["step"]
        after = terms_of(priced(layout, traffic, wires=cold, engine=engine), "decode")["step"]
        assert after == pytest.approx(3 * warm)
        assert warm == pytest.approx(ops * US, rel=0.5)


def test_tensor_parallel_gains_on_fast_wires_and_loses_on_slow_ones():
    spec, traffic = big_model(), Traffic(100, 100)
    for wires, tp_wins in ((fabric(2, **FAST), True), (fabric(2, **SLOW), False)):
        tp2 = priced("tp2", traffic, spec=spec, wires=wires)
        pp2 = priced("pp2", traffic, spec=spec, wires=wires)
        assert (tp2.tpot_s < pp2.tpot_s) == tp_wins


def test_the_slowest_of_unequal_wires_counts():
    wires = fabric(4)
    slow = tuple(
        type(link)(link.a, link.b, "shm", 1e-3, 1e9, "measured") if link.b == 3 else link
        for link in wires.links
    )
    mixed = Fabric(wires.devices, slow, wires.islands, wires.made)
    tp2dp2 = terms_of(priced("tp2dp2", Traffic(100, 10), wires=mixed), "decode")
    assert tp2dp2["all-reduce"] == pytest.approx(9 * 2 * (1e-3 + 64e-9))


# ---- pieces of a forward, on GPUs

GPU_FABRICS = {
    "8xH100-SXM": ("tp1", "tp8", "tp4pp2", "pp4"),
    "4xL40S:pcie4": ("tp1", "tp2pp2", "pp4", "tp4"),
    "2x4xA100-SXM-80GB:nvswitch:ib-200x4": ("tp8", "tp4pp2", "tp2pp4"),
}
MOES = (QWEN_MOE, NEMOTRON, DEEPSEEK)
BATCHES = st.builds(
    lambda decodes, context, chunk, prompts: Batch(
        decodes=decodes,
        context=context,
        chunk=chunk * prompts,
        prompts=prompts if chunk else 0,
        prefills=prompts if chunk else 0,
    ),
    st.integers(1, 300),
    st.integers(1, 20000),
    st.sampled_from([0, 1, 512, 2000]),
    st.integers(1, 3),
)


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from([L8B, GEMMA, *MOES]),
    st.sampled_from([(wires, cut) for wires, cuts in GPU_FABRICS.items() for cut in cuts]),
    st.sampled_from(["wirecut", "vllm", "sglang", "trtllm", "lmdeploy", "llama.cpp"]),
    BATCHES,
)
def test_pieces_add_up_to_compute_and_wires(
    name: str, where: tuple[str, str], engine: str, batch: Batch
):
    forward = price_forward(replica_of(on_gpus(name, where[0], engine), where[1]), batch)
    whole = sum(forward.compute_s) + sum(forward.wire_s) + sum(forward.handoffs_s) + forward.back_s
    assert sum(piece.seconds for piece in forward.pieces) == pytest.approx(whole, rel=1e-9)
    between = sum(piece.seconds for piece in forward.pieces if piece.between_stages)
    assert between == pytest.approx(sum(forward.handoffs_s) + forward.back_s, rel=1e-9)
    assert all(piece.seconds >= 0 for piece in forward.pieces)
    assert len({piece.name for piece in forward.pieces}) == len(forward.pieces)
    assert {piece.kind for piece in forward.pieces} <= set(get_args(Kind))
    assert all(piece.because for piece in forward.pieces)
    assert all(piece.spread > 0 for piece in forward.pieces if piece.seconds > 0)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([L8B, GEMMA, *MOES]), st.sampled_from(["tp1", "tp2", "pp2"]), BATCHES)
def test_more_work_never_takes_less_time(name: str, layout: str, batch: Batch):
    replica = replica_of(on_gpus(name, "8xH100-SXM"), layout)

    def time(one: Batch) -> float:
        found = price_forward(replica, one)
        return sum(found.compute_s) + sum(found.wire_s)

    slack = 1 + 1e-9
    assert time(batch) <= time(replace(batch, decodes=batch.decodes + 32)) * slack
    assert time(batch) <= time(replace(batch, context=batch.context + 4096)) * slack


def test_kinds_of_time_on_gpus():
    replica = replica_of(on_gpus(L70B, "8xH100-SXM"), "tp4pp2")
    decode = kinds(price_forward(replica, Batch(decodes=4, context=1000)))
    prefill = kinds(price_forward(replica, chunk_batch(4096, 4096)))
    assert (decode["weights"], prefill["weights"]) == ("memory", "compute")
    assert decode["KV cache"] == decode["LM head"] == "memory"
    assert prefill["attention"] == "compute"
    assert decode["launches"] == decode["step"] == "overhead"
    assert decode["all-reduce"] == decode["logits gather"] == "all-reduce"
    assert decode["hand-off"] == decode["tokens back"] == "hand-off"


def test_a_mixture_costs_what_it_touches():
    """128 experts, 8 a token: one token reads 8 of them, 512 read nearly all."""
    replica = replica_of(on_gpus(QWEN_MOE, "1xH100-SXM"), "tp1")
    one, sixteen, many, more = (
        seconds(price_forward(replica, Batch(decodes=rows, context=100)), "experts")
        for rows in (1, 16, 512, 1024)
    )
    held = sum(n * work.routed.weight_bytes for work, n in replica.stages[0].works if work.routed)
    assert one > held * 8 / 128 / 3.35e12
    assert one < 0.25 * many
    assert one < sixteen < many
    assert more < 1.6 * many  # all are touched: their reading is shared


def test_experts_that_are_dealt_are_fewer_on_each_rank():
    pricing = on_gpus(QWEN_MOE, "8xH100-SXM", "sglang")
    works = {
        layout: replica_of(pricing, layout).stages[0].works[0][0].routed
        for layout in ("tp1", "tp8", "tp8ep8", "tp2dp4ep8", "dp8ep2")
    }
    found = {k: (r.here, r.intermediate) for k, r in works.items() if r}
    assert found == {
        "tp1": (128, 768),
        "tp8": (128, 96),
        "tp8ep8": (16, 768),
        "tp2dp4ep8": (16, 768),
        "dp8ep2": (64, 192),
    }


def test_dispatch_and_combine():
    """Experts that replicas share: tokens travel instead of sums; within a replica they do not."""
    pricing = on_gpus(QWEN_MOE, "8xH100-SXM", "sglang")
    batch = Batch(decodes=64, context=1000)
    shared = price_forward(replica_of(pricing, "dp8ep8"), batch)
    inside = price_forward(replica_of(pricing, "tp8ep8"), batch)
    assert kinds(shared)["dispatch"] == kinds(shared)["combine"] == "all-to-all"
    assert "all-reduce" not in kinds(shared)
    assert {"dispatch", "combine"}.isdisjoint(kinds(inside))
    assert seconds(shared, "dispatch", "combine") > 0


def test_handoffs_of_other_runtimes():
    """vLLM sends hidden state and residual, a slice from each TP rank, and gathers behind the
    boundary; wirecut sends the hidden state."""
    own, other = (on_gpus(L70B, "8xL40S:pcie4", engine) for engine in ("wirecut", "vllm"))
    batch, num_bytes = Batch(decodes=64, context=500), 64 * 8192 * 2
    for layout, tp in (("pp2", 1), ("tp4pp2", 4)):
        replica = replica_of(own, layout)
        link = replica.boundaries[0]
        one = price_forward(replica, batch).handoffs_s[0]
        assert one == pytest.approx(send_price(own.fabric, link, num_bytes).seconds)
        replica = replica_of(other, layout)
        two = price_forward(replica, batch).handoffs_s[0]
        slices = send_price(other.fabric, link, 2 * num_bytes / tp, at_once=tp).seconds
        gather = collective_price(
            other.fabric,
            "all_gather",
            replica.stages[1].group,
            2 * num_bytes,
            at_once=replica.groups_at_once,
            library=other.engine.library,
        ).seconds
        assert two == pytest.approx(slices + gather)
        assert (gather > 0) == (tp > 1)


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_a_token_meets_the_hosts_of_all_stages_or_one(engine: str):
    """TensorRT-LLM's later stages have prepared the step when the hidden states come."""
    replica = replica_of(on_gpus(L70B, "4xH100-SXM", engine), "pp4")
    steps, forward = replica.pricing.engine.steps, price_forward(replica, Batch(decodes=1))
    hosts = 1 if steps.ahead else 4
    assert seconds(forward, "step") == pytest.approx(hosts * steps.host_s + steps.sequence_s)


def test_graphs_hide_launches_of_decodes_only():
    replica = replica_of(on_gpus(L8B, "1xH100-SXM", "vllm"), "tp1")
    decode = price_forward(replica, Batch(decodes=8, context=500))
    mixed = price_forward(replica, Batch(decodes=8, context=500, chunk=1, prompts=1))
    small = seconds(decode, "launches")
    assert 0 < small < seconds(mixed, "launches")  # what runs between the products is there too
    steps = replica.pricing.engine.steps
    assert seconds(decode, "step") == pytest.approx(steps.host_s + 8 * steps.sequence_s)


def test_kernels_of_a_long_step_hide_their_launches():
    """wirecut launches kernel by kernel: it waits for the host where kernels are short."""
    replica = replica_of(on_gpus(L8B, "1xH100-SXM", "wirecut"), "tp1")
    few = price_forward(replica, Batch(decodes=1, context=100))
    many = price_forward(replica, chunk_batch(8192, 8192))
    work = replica.pricing.engine.steps.ops_per_layer * replica.stages[0].device.launch_s * 32
    assert sum(few.compute_s) - seconds(few, "step") >= work
    assert seconds(many, "launches") < 0.2 * sum(many.compute_s)


def test_words_carry_the_numbers():
    replica = replica_of(on_gpus(L70B, "8xH100-SXM"), "tp4pp2")
    words = {
        piece.name: piece.because
        for piece in price_forward(replica, Batch(decodes=4, context=1000)).pieces
    }
    assert "4 rows" in words["weights"]
    assert words["KV cache"] == "4 sequences x 1000 tokens, 80 layers"
    assert words["all-reduce"].startswith("161 x ")
    assert words["hand-off"].startswith("1 x ")
    assert words["step"].startswith("vllm: schedule, batch, sampling")
    routed = price_forward(
        replica_of(on_gpus(QWEN_MOE, "8xH100-SXM", "sglang"), "tp8ep8"), Batch(decodes=4)
    )
    experts = next(piece for piece in routed.pieces if piece.name == "experts")
    assert "16 of 128" in experts.because


# ---- forwards one after another


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
    assert [chunk_rows(staged, n) for n in (100, 1024, 9000)] == [64, 256, 2048]
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


def test_unlike_groups_are_priced_by_their_slowest():
    """Two replicas of TP 2 on 4 devices in NVLink pairs: on the pairs, or across them."""
    wires = typed_fabric("4xA100-PCIe-80GB:nvlink-pairs")
    pricing = Pricing(bundled(L8B), wires, dtype="bf16", engine=engine_profile("vllm"))
    on, across, one_across = (
        Replica(pricing, Cut(Layout(tp=2, dp=2), placement, ((0, 32),)))
        for placement in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1))
    )
    batch = Batch(decodes=16, context=1000)
    times = [seconds(price_forward(one, batch), "all-reduce") for one in (on, across, one_across)]
    assert times[0] < 0.8 * times[1]
    assert times[1] == pytest.approx(times[2], rel=0.3)
