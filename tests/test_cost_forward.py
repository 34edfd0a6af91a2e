"""The pieces of a forward on GPUs, and what each runtime makes of them."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import bundled, on_gpus, replica_of
from wirecut.cost.collectives import collective_price, send_price
from wirecut.cost.engines import engine_profile
from wirecut.cost.forward import Batch, Forward
from wirecut.cost.pace import chunk_batch
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.step import price_forward
from wirecut.cost.terms import Kind
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut

L8B, L70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
QWEN_MOE, NEMOTRON = "Qwen/Qwen3-30B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
DEEPSEEK, GEMMA = "deepseek-ai/DeepSeek-V2-Lite", "google/gemma-3-27b-it"


def seconds(forward: Forward, *names: str) -> float:
    return sum(piece.seconds for piece in forward.pieces if piece.name in names)


def kinds(forward: Forward) -> dict[str, Kind]:
    return {piece.name: piece.kind for piece in forward.pieces}


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
