"""What each rank holds: weights by slice and format, caches by kind, what runtimes add."""

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrics import fabric, model
from pricing import BARE, bundled, candidate_of, first_cut, on_gpus, price, priced, replica_of
from wirecut.api import plan_file_of, reprice
from wirecut.cost.engines import ENGINES, Room, engine_profile
from wirecut.cost.estimate import consider
from wirecut.cost.memory import RankSizes, activation_bytes
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.terms import Estimate, Rejected
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import rank_bytes
from wirecut.spec.traffic import Traffic
from wirecut.units import GIB

L70B, L8B = "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B"
DEEPSEEK, GPT_OSS, GEMMA = "deepseek-ai/DeepSeek-V3", "openai/gpt-oss-120b", "google/gemma-3-27b-it"
NEMOTRON = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
ONE_USER = Traffic(512, 128)


def request_bytes(name: str, tokens: int, *, tp: int = 1, tp_rank: int = 0) -> float:
    """Cache of one request in all layers of one rank, in bf16."""
    spec = bundled(name)
    sizes = RankSizes.of(spec, Layout(tp=tp), tp_rank=tp_rank, kv="bf16")
    return sizes.request_bytes((0, spec.num_layers), tokens)


def test_by_hand():
    limits = Limits(max_batched_tokens=100, max_seqs=10)
    one = priced("tp1", Traffic(100, 10, concurrency=3), limits=limits)
    weights = (64_000 * 2 + 4 * (36_864 + 128) + 64) * 2
    # a token: 4 x 64 + (4 + 2 x 2) heads x 16 + 3 x 128; 10 rows of 1000 fp32 logits
    activations = 100 * (256 + 128 + 384) * 2 + 10 * 1000 * 4
    assert one.memory.weights_bytes == weights
    assert one.memory.activation_bytes == activations
    assert one.memory.capacity_bytes == 9 * 10**8
    assert one.memory.kv_tokens == (9 * 10**8 - weights - activations) // 512
    assert one.memory.kv_bytes == 3 * 110 * 512
    assert (one.memory.buffer_bytes, one.memory.rank, one.memory.wasted_bytes) == (0, 0, 0)


# ---- weights


@pytest.mark.parametrize(
    ("name", "format", "layouts"),
    [
        (L70B, "", ("tp1", "tp8", "tp4pp2", "tp16")),
        (L70B, "fp8", ("tp8", "pp5")),
        (L70B, "int4-g128", ("tp2", "tp2pp3")),
        ("Qwen/Qwen3-32B-FP8", "", ("tp4", "tp3")),
        ("nvidia/Qwen3-235B-A22B-NVFP4", "", ("tp8", "tp4ep4", "tp2dp4ep8")),
        (DEEPSEEK, "", ("tp8", "tp8ep8", "dp16ep16")),
        (GPT_OSS, "", ("tp8", "tp4pp2ep2")),
        (NEMOTRON, "", ("tp2", "tp2pp2ep2")),
        (L8B, "", ("tp3", "tp5", "tp7")),
    ],
)
def test_weights_are_those_of_the_one_definition_of_a_shard(
    name: str, format: str, layouts: tuple[str, ...]
):
    spec = bundled(name).quantized(format) if format else bundled(name)
    for text in layouts:
        layout = parse_layout(text)
        each = -(-spec.num_layers // layout.pp)
        stages = tuple((i * each, min(spec.num_layers, (i + 1) * each)) for i in range(layout.pp))
        for tp_rank in {0, layout.tp // 2, layout.tp - 1}:
            sizes = RankSizes.of(spec, layout, tp_rank=tp_rank, kv="bf16")
            for stage, layers in enumerate(stages):
                found = sizes.weight_bytes(
                    layers, is_first=stage == 0, is_last=stage == layout.pp - 1
                )
                expected = rank_bytes(spec, stages, layout, stage=stage, tp_rank=tp_rank)
                assert round(found) == expected


@pytest.mark.parametrize(
    ("format", "linear_bytes"),
    [("", 2), ("fp8", 1), ("int4-g128", 4.15625 / 8), ("nvfp4", 4.5 / 8)],
)
def test_formats_of_70b(format: str, linear_bytes: float):
    """Layers' linears in the format; embedding and head (128,256 x 8,192) and norms in bf16."""
    pricing = on_gpus(L70B, "8xH200-SXM", "vllm", quantized=format)
    linears = 80 * (8192 * (8192 + 2 * 1024 + 8192) + 3 * 8192 * 28672)
    rest = 2 * 128256 * 8192 + 161 * 8192
    found = replica_of(pricing, "tp1").memory(640).weights_bytes
    assert found == pytest.approx(linears * linear_bytes + rest * 2, rel=1e-3)


def test_sixteen_bits_of_70b_do_not_fit_one_80_gb_gpu():
    for engine in ("vllm", "sglang", "trtllm", "wirecut"):
        pricing = on_gpus(L70B, "1xH100-SXM", engine, "fp16")
        found = consider(pricing, first_cut(pricing, "tp1"), ONE_USER)
        assert isinstance(found, Rejected)
        assert found.memory is not None
        assert found.memory.weights_bytes == 70_553_706_496 * 2
        assert "weights 131.4 GiB" in found.reason  # 141 GB
        assert "needs" in found.reason
    for wires, layout, quantized in (
        ("2xH100-SXM", "tp2", "int4-g128"),
        ("1xH100-SXM", "tp1", "int4-g128"),
        ("4xH100-SXM", "tp4", ""),
        ("1xB200-SXM", "tp1", ""),
    ):
        pricing = on_gpus(L70B, wires, "vllm", quantized=quantized)
        assert candidate_of(pricing, layout, ONE_USER).most_running > 8


SPECS = st.sampled_from([L8B, GPT_OSS, GEMMA, NEMOTRON, "Qwen/Qwen3-30B-A3B"])


@settings(deadline=None, max_examples=40)
@given(SPECS, st.sampled_from([1, 2, 4, 8]), st.integers(1, 20000))
def test_ranks_together_hold_everything(name: str, tp: int, tokens: int):
    spec = bundled(name)
    layers = (0, spec.num_layers)
    sizes = [RankSizes.of(spec, Layout(tp=tp), tp_rank=i, kv="bf16") for i in range(tp)]
    whole = RankSizes.of(spec, Layout(), tp_rank=0, kv="bf16")
    held = sum(one.weight_bytes(layers, is_first=True, is_last=True) for one in sizes)
    assert held >= whole.weight_bytes(layers, is_first=True, is_last=True) * (1 - 1e-9)
    assert held < 1.3 * whole.weight_bytes(layers, is_first=True, is_last=True)
    cached = sum(one.request_bytes(layers, tokens) for one in sizes)
    assert cached >= whole.request_bytes(layers, tokens) * (1 - 1e-9)


def test_embedding_in_the_first_stage_head_in_the_last():
    spec = bundled(L8B)
    sizes = RankSizes.of(spec, Layout(), tp_rank=0, kv="bf16")
    middle, first, last = (
        sizes.weight_bytes((0, 4), is_first=a, is_last=b)
        for a, b in ((False, False), (True, False), (False, True))
    )
    table = 128256 * 4096 * 2
    assert first - middle == table
    assert last - middle == table + 4096 * 2  # and the last norm


# ---- caches


def test_keys_and_values_of_grouped_heads_by_hand():
    assert request_bytes(L70B, 1000) == 80 * 1000 * 2 * 8 * 128 * 2
    assert request_bytes(L70B, 1000, tp=8) == 80 * 1000 * 2 * 128 * 2
    # 16 ranks, 8 heads: each head is there twice
    assert request_bytes(L70B, 1000, tp=16, tp_rank=15) == 80 * 1000 * 2 * 128 * 2


def test_a_latent_cache_is_whole_on_every_rank():
    whole = 61 * 1000 * (512 + 64) * 2
    assert request_bytes(DEEPSEEK, 1000) == whole
    assert request_bytes(DEEPSEEK, 1000, tp=8, tp_rank=7) == whole


def test_windows_keep_what_they_see():
    # gpt-oss: 18 layers of 36 see 128 tokens; 8 heads of 64
    token = 2 * 8 * 64 * 2
    assert request_bytes(GPT_OSS, 10_000) == 18 * (10_000 + 128) * token
    assert request_bytes(GPT_OSS, 100) == 36 * 100 * token
    # gemma 3 27B: 52 of 62 see 1,024; 16 heads of 128
    token = 2 * 16 * 128 * 2
    assert request_bytes(GEMMA, 8192) == (10 * 8192 + 52 * 1024) * token


def test_recurrent_layers_keep_a_state_however_long():
    # Nemotron 3 Nano: 6 layers of attention with 2 heads of 128, 23 of Mamba whose states are fp32
    short, long = request_bytes(NEMOTRON, 1000), request_bytes(NEMOTRON, 11_000)
    assert long - short == 6 * 10_000 * 2 * 2 * 128 * 2
    state = 64 * 64 * 128 + 3 * (64 * 64 + 2 * 8 * 128)  # heads, and taps of the convolution
    assert short - 6 * 1000 * 2 * 2 * 128 * 2 == 23 * state * 4


def test_a_cache_in_fp8_holds_twice_the_tokens():
    bf16, fp8 = (
        replica_of(on_gpus(L8B, "1xH100-SXM", "trtllm", quantized=quantized), "tp1")
        for quantized in ("", "fp8")
    )
    assert bf16.kv_token_bytes(640) == 2 * fp8.kv_token_bytes(640)
    # and weights of half the size leave more room besides
    assert fp8.memory(640).kv_tokens > 2.1 * bf16.memory(640).kv_tokens


# ---- a runtime's account


def test_buffers_of_a_step_by_hand():
    # 8,192 tokens x (4 x 4,096 + (32 + 16) x 128 + 3 x 14,336) x 2 B, 256 rows of fp32 logits
    spec, limits = bundled(L8B), Limits(max_batched_tokens=8192, max_seqs=256)
    alone = RankSizes.of(spec, Layout(), tp_rank=0, kv="bf16")
    one = activation_bytes(alone, limits=limits, dtype="bf16")
    assert one == 8192 * (16384 + 6144 + 43008) * 2 + 256 * 128256 * 4
    half = RankSizes.of(spec, Layout(tp=2), tp_rank=0, kv="bf16")
    two = activation_bytes(half, limits=limits, dtype="bf16")
    assert two == 8192 * (16384 + 3072 + 21504) * 2 + 256 * 128256 * 4


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_byte_of_a_device_is_accounted_for(engine: str):
    pricing = on_gpus(L8B, "2xH100-SXM", engine)
    room, device = pricing.engine.room, pricing.fabric.devices[0].memory_bytes
    for layout in ("tp1", "tp2"):
        memory = replica_of(pricing, layout).memory(640)
        buffers = room.runtime_bytes + (room.group_bytes if layout == "tp2" else 0)
        assert memory.buffer_bytes == buffers
        fixed = memory.weights_bytes + memory.activation_bytes + buffers
        usable = device * room.share
        if room.of_rest:
            usable = fixed + (device - fixed) * room.share
        assert memory.capacity_bytes == pytest.approx(usable, abs=2)
        token = replica_of(pricing, layout).kv_token_bytes(640)
        assert memory.kv_tokens == pytest.approx((usable - fixed) / token, abs=1)
        assert memory.capacity_bytes < device


def test_engines_take_their_share_of_what_there_is():
    tokens = {
        engine: replica_of(on_gpus(L8B, "1xH100-SXM", engine), "tp1").memory(640).kv_tokens
        for engine in ("vllm", "sglang", "trtllm")
    }
    assert tokens["trtllm"] > tokens["vllm"] > tokens["sglang"]


def test_the_share_of_the_rest_never_exceeds_the_device():
    rest = replace(BARE, room=Room(share=0.95, runtime_bytes=GIB, of_rest=True))
    found = price("tp1", ONE_USER, wires=fabric(1, memory_bytes=GIB // 2), engine=rest)
    assert isinstance(found, Rejected)
    assert found.memory is not None
    assert found.memory.capacity_bytes == GIB // 2
    assert "what is left of the device" in found.reason


def test_room_caps_the_batch():
    pricing = on_gpus(L8B, "1xL40S", "wirecut")
    one = candidate_of(pricing, "tp1", Traffic(4000, 1000, concurrency=64))
    assert one.most_running == one.memory.kv_tokens // 5120  # in blocks of 256
    short = candidate_of(pricing, "tp1", Traffic(100, 10, concurrency=64))
    assert short.most_running == pricing.limits.max_seqs


def test_engines_that_do_not_reserve_start_more():
    reserving = replace(engine_profile("vllm"), name="r")
    reserving = replace(reserving, batching=replace(reserving.batching, reserves=True))
    traffic = Traffic(1000, 4000, concurrency=64)
    spec, wires = bundled(L8B), typed_fabric("1xL40S")
    plain, held = (
        candidate_of(Pricing(spec, wires, dtype="bf16", engine=engine), "tp1", traffic)
        for engine in (engine_profile("vllm"), reserving)
    )
    assert plain.memory.kv_tokens == held.memory.kv_tokens
    assert plain.most_running == pytest.approx(held.most_running * 5 / 3, abs=2)


# ---- the rank with the least room


def test_the_fullest_rank_and_what_the_others_waste():
    spec = model(num_hidden_layers=8, vocab_size=1)
    pricing = Pricing(spec, fabric(2), dtype="bf16", engine=BARE)
    cut = Cut(Layout(pp=2), (0, 1), ((0, 6), (6, 8)))
    memory = Replica(pricing, cut).memory(110)
    layer, token = (36_864 + 128) * 2, 128  # weights of a layer; keys and values of a token in it
    free = 0.9 * 1e9 - memory.activation_bytes
    assert memory.rank == 0
    first = free - 6 * layer - 64 * 2  # six layers and the embedding's one row
    last = free - 2 * layer - (64 + 64) * 2  # two, the head and the last norm
    assert memory.kv_tokens == int(first / (6 * token))
    assert memory.weights_bytes == 6 * layer + 128
    assert memory.wasted_bytes == pytest.approx(last - 2 * token * first / (6 * token), abs=1000)


def test_an_uneven_group_is_as_full_as_its_fullest_rank():
    pricing = on_gpus(L8B, "3xL40S", "wirecut")
    replica = replica_of(pricing, "tp3")
    memory = replica.memory(640)
    assert [work.kv_heads for rank in replica.sizes for work in rank.works[:1]] == [3, 3, 2]
    assert memory.rank == 0
    assert memory.wasted_bytes > 0
    assert memory.weights_bytes == rank_bytes(
        pricing.spec, ((0, 32),), Layout(tp=3), stage=0, tp_rank=0
    )


def test_the_smallest_device_of_a_stage_counts():
    wires = fabric(4)
    devices = tuple(
        replace(one, memory_bytes=10**9 // (2 if one.id == 3 else 1)) for one in wires.devices
    )
    mixed = replace(wires, devices=devices)
    pricing = Pricing(model(), mixed, dtype="bf16", engine=BARE)
    halves = Cut(Layout(tp=2, pp=2), (0, 1, 2, 3), ((0, 2), (2, 4)))
    found = Replica(pricing, halves).memory(110)
    assert found.capacity_bytes == 45 * 10**7
    assert found.rank in (2, 3)
    # the planner's own cut gives it one layer of the four
    assert first_cut(pricing, "tp2pp2").stages == ((0, 3), (3, 4))


def test_what_does_not_fit_says_what_is_needed():
    small = fabric(2, memory_bytes=600_000)
    found = price("tp1", Traffic(10, 10), wires=small, limits=Limits(max_batched_tokens=1))
    assert isinstance(found, Rejected)
    assert "usable" in found.reason
    assert "weights" in found.reason
    assert isinstance(
        price("tp2", Traffic(10, 10), wires=small, limits=Limits(max_batched_tokens=1, max_seqs=1)),
        Estimate,
    )


def test_room_for_less_than_a_request_is_refused():
    limits = Limits(max_batched_tokens=1, max_seqs=1)
    bare = 552_064 + 768 * 2 + 4000  # weights and activations, as above
    small = fabric(1, memory_bytes=math.ceil((bare + 512 * 50.5) / 0.9))
    assert isinstance(price("tp1", Traffic(40, 10), wires=small, limits=limits), Estimate)
    found = price("tp1", Traffic(40, 11), wires=small, limits=limits)
    assert isinstance(found, Rejected)
    assert "KV room for 50 tokens, one request has 51" in found.reason


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_an_engine_told_to_take_more_has_more_room(engine: str):
    """Its own share is in the question, and goes with the plan: `reprice` asks the same again."""
    ask = partial(
        plan_file_of,
        "llama-3.1-8b",
        "2xL40S:pcie4",
        engine=engine,
        goal="latency",
        traffic=Traffic(512, 128, concurrency=4),
    )
    usual, more = ask(), ask(memory_share=0.97)
    assert (usual.memory_share, more.memory_share) == (engine_profile(engine).room.share, 0.97)
    for plan_file in (usual, more):
        found = reprice(plan_file, parse_layout("tp2"))
        assert isinstance(found, Estimate)
        ranked = next(one for one in plan_file.ranking if one["layout"] == "tp2")
        assert found.memory.kv_tokens == ranked["memory"]["kv_tokens"]
    tokens = [one.ranking[0]["memory"]["kv_tokens"] for one in (usual, more)]
    assert tokens[0] < tokens[1]
