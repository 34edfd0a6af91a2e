"""Who holds what: every tensor tiled exactly by its ranks, but for what is replicated."""

import math

import pytest

from specs import LLAMA_8B, spec_of
from wirecut.layout.layout import Layout
from wirecut.layout.rules import ANY_ENGINE, EngineRules, allowed_tp, why_not
from wirecut.layout.shards import (
    WHOLE,
    Slice,
    even_cut,
    held_bytes,
    held_units,
    kv_heads,
    padded_vocab,
    query_heads,
    rank_bytes,
    stage_tensors,
    tensor_slice,
    unit_cut,
)
from wirecut.layout.stages import cut_stages
from wirecut.spec.bundled import find_bundled
from wirecut.spec.model import ModelSpec


def kv_elements(spec: ModelSpec, layers: tuple[int, int], *, tp: int, tp_rank: int) -> int:
    """Key and value elements that a token leaves on a rank with `layers` (first, one past last)."""
    mixers = (layer.mixer for layer in spec.layers[slice(*layers)])
    return sum(held_units(mixer.kv, tp, tp_rank) for mixer in mixers if mixer)


SPECS = {
    "demo": spec_of(),
    "one kv head": spec_of(num_key_value_heads=1),
    "odd vocabulary": spec_of(vocab_size=4093),
    "three kv heads": spec_of(num_attention_heads=12, num_key_value_heads=3, head_dim=32),
    "odd mlp": spec_of(intermediate_size=709),
    "tied": spec_of(tie_word_embeddings=True, vocab_size=1001),
    "wide heads": spec_of(head_dim=64),
}
CASES = [
    pytest.param(spec, tp, id=f"{name}-tp{tp}")
    for name, spec in SPECS.items()
    for tp in allowed_tp(spec)
]


@pytest.mark.parametrize(("spec", "tp"), CASES)
def test_slices_tile_every_tensor(spec, tp):
    for tensor in spec.tensors:
        slices = [tensor_slice(tensor, tp=tp, tp_rank=rank) for rank in range(tp)]
        if tensor.part == "norm" or tp == 1:
            assert slices == [WHOLE] * tp
            continue
        dims = {cut.dim for cut in slices}
        assert dims == ({1} if tensor.part in ("o", "down") else {0})
        held = [0] * tensor.shape[dims.pop()]
        for cut in slices:
            for i in range(cut.start, cut.stop):
                held[i] += 1
        kv = spec.layers[0].mixer.kv_heads
        copies = max(1, tp // kv) if tensor.part in ("k", "v") else 1
        assert set(held) == {copies}, tensor.name


@pytest.mark.parametrize(("spec", "tp"), CASES)
def test_a_rank_holds_the_key_value_heads_of_its_query_heads(spec, tp):
    attention = spec.layers[0].mixer
    group = attention.heads // attention.kv_heads
    for rank in range(tp):
        needed = {head // group for head in range(*query_heads(attention.heads, tp, rank))}
        assert needed == set(range(*kv_heads(attention.kv_heads, tp, rank)))


def test_slices_by_hand():
    spec = spec_of()
    tensors = {tensor.name.removeprefix("model.layers.0."): tensor for tensor in spec.tensors}

    def cut(name: str, tp: int, rank: int) -> Slice:
        return tensor_slice(tensors[name], tp=tp, tp_rank=rank)

    assert cut("self_attn.q_proj.weight", 4, 1) == Slice(0, 64, 128)  # 2 of 8 heads of 32
    assert cut("self_attn.k_proj.weight", 4, 1) == Slice(0, 32, 64)  # 1 of 4 heads
    assert cut("self_attn.v_proj.weight", 8, 3) == Slice(0, 32, 64)  # ranks 2 and 3 share head 1
    assert cut("self_attn.o_proj.weight", 2, 1) == Slice(1, 128, 256)
    assert cut("mlp.gate_proj.weight", 2, 0) == Slice(0, 0, 352)
    assert cut("mlp.down_proj.weight", 4, 3) == Slice(1, 528, 704)
    assert cut("lm_head.weight", 4, 3) == Slice(0, 3072, 4096)
    assert cut("input_layernorm.weight", 4, 3) == WHOLE
    assert cut("mlp.down_proj.weight", 4, 3).shape_of(tensors["mlp.down_proj.weight"]) == (256, 176)
    assert WHOLE.shape_of(tensors["model.norm.weight"]) == (256,)


def test_the_vocabulary_is_padded_to_equal_shares():
    assert [padded_vocab(4093, tp) for tp in (1, 2, 4)] == [4093, 4094, 4096]
    spec = spec_of(vocab_size=9)
    embed = spec.tensors[0]
    cuts = [tensor_slice(embed, tp=4, tp_rank=rank) for rank in range(4)]
    assert [(cut.start, cut.stop) for cut in cuts] == [(0, 3), (3, 6), (6, 9), (9, 9)]


@pytest.mark.parametrize(("length", "parts"), [(10, 3), (3, 5), (0, 2), (7, 7)])
def test_an_even_cut_leaves_nothing_out(length, parts):
    cuts = [even_cut(length, parts, i) for i in range(parts)]
    assert [i for cut in cuts for i in range(*cut)] == list(range(length))
    sizes = [last - first for first, last in cuts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("pp", [1, 2, 3, 8])
def test_stages_share_every_tensor_out_once(pp):
    spec = spec_of()
    stages = cut_stages([1.0] * 8, pp)
    names = [t.name for stage in range(pp) for t in stage_tensors(spec, stages, stage)]
    assert sorted(names) == sorted(tensor.name for tensor in spec.tensors)
    assert "model.embed_tokens.weight" in [t.name for t in stage_tensors(spec, stages, 0)]
    assert "lm_head.weight" in [t.name for t in stage_tensors(spec, stages, pp - 1)]


def test_both_ends_of_a_tied_model_read_the_embedding():
    spec = spec_of(tie_word_embeddings=True)
    stages = ((0, 3), (3, 6), (6, 8))
    have = [
        "model.embed_tokens.weight" in [t.name for t in stage_tensors(spec, stages, stage)]
        for stage in range(3)
    ]
    assert have == [True, False, True]
    alone = [t.name for t in stage_tensors(spec, ((0, 8),), 0)]
    assert alone.count("model.embed_tokens.weight") == 1


@pytest.mark.parametrize(("spec", "tp"), CASES)
@pytest.mark.parametrize("pp", [1, 3])
def test_elements_are_those_of_the_slices(spec, tp, pp):
    stages = cut_stages([1.0] * spec.num_layers, pp)
    for stage in range(pp):
        for rank in range(tp):
            by_shape = sum(
                math.prod(tensor_slice(t, tp=tp, tp_rank=rank).shape_of(t))
                for t in stage_tensors(spec, stages, stage)
            )
            layout = Layout(tp=tp, pp=pp)
            held = rank_bytes(spec, stages, layout, stage=stage, tp_rank=rank, dtype="bf16")
            assert held == 2 * by_shape


def test_llama_8b_on_two_ranks_by_hand():
    spec = spec_of(LLAMA_8B)
    norms = (2 * 32 + 1) * 4096
    half = (spec.parameters - norms) // 2 + norms
    assert rank_bytes(spec, ((0, 32),), Layout(tp=2), stage=0, dtype="bf16") == 2 * half
    # 32 layers x 2 (keys, values) x 8 heads x 128; two ranks halve it, 16 ranks hold one head each
    assert kv_elements(spec, (0, 32), tp=1, tp_rank=0) == 65536
    assert kv_elements(spec, (0, 32), tp=2, tp_rank=1) == 32768
    assert kv_elements(spec, (0, 32), tp=16, tp_rank=15) == 32 * 2 * 128
    assert kv_elements(spec, (30, 32), tp=1, tp_rank=0) == 4096


KINDS = {  # every kind of mixer and feed-forward
    "gqa and experts": "Qwen/Qwen3-30B-A3B",
    "latent": "deepseek-ai/DeepSeek-V3",
    "sparse latent": "zai-org/GLM-5.3",
    "compressed": "deepseek-ai/DeepSeek-V4-Flash",
    "linear": "Qwen/Qwen3.5-27B",
    "kda": "moonshotai/Kimi-K3",
    "mamba": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "sinks": "openai/gpt-oss-120b",
    "biases": "facebook/opt-6.7b",
}
UNEVEN = EngineRules(uneven_tp=True)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("rules", [ANY_ENGINE, UNEVEN], ids=["even", "uneven"])
def test_every_kind_of_tensor_is_tiled(name, rules):
    spec = find_bundled(name)
    for tp in allowed_tp(spec, rules)[:24]:
        for tensor in {t for layer in spec.kinds for t in spec.layer_tensors(layer)}:
            if tensor.dim is None:
                continue
            held = [0] * tensor.shape[tensor.dim]
            for rank in range(tp):
                cut = tensor_slice(tensor, tp=tp, tp_rank=rank)
                span = range(len(held)) if cut.dim is None else range(cut.start, cut.stop)
                for i in span:
                    held[i] += 1
            copies = max(1, -(-tp // tensor.units))
            assert min(held) >= 1, (tp, tensor)
            assert max(held) <= copies, (tp, tensor)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_query_heads_meet_their_keys_when_cut_unevenly(name):
    spec = find_bundled(name)
    for layer in spec.kinds:
        if layer.mixer is None:
            continue
        for tp in allowed_tp(spec, UNEVEN)[:12]:
            heads, groups = layer.mixer.heads, layer.mixer.groups
            cuts = [unit_cut(heads, tp, rank, groups) for rank in range(tp)]
            assert sum(last - first for first, last in cuts) == heads
            assert min(last - first for first, last in cuts) > 0


def test_whole_groups_are_dealt_by_hand():
    spec = spec_of(LLAMA_8B)
    named = {tensor.name: tensor for tensor in spec.layer_tensors(spec.layers[0])}
    q, k = named["self_attn.q_proj.weight"], named["self_attn.k_proj.weight"]
    # 8 key-value heads on 3 ranks: 3, 3 and 2, with 4 query heads each
    assert [query_heads(32, 3, rank, 8) for rank in range(3)] == [(0, 12), (12, 24), (24, 32)]
    assert tensor_slice(q, tp=3, tp_rank=1) == Slice(0, 12 * 128, 24 * 128)
    assert tensor_slice(k, tp=3, tp_rank=1) == Slice(0, 3 * 128, 6 * 128)
    kept = [kv_elements(spec, (0, 32), tp=3, tp_rank=rank) for rank in range(3)]
    assert kept == [32 * 2 * heads * 128 for heads in (3, 3, 2)]


def test_experts_are_dealt_and_what_is_left_cuts_inside():
    spec = find_bundled("Qwen/Qwen3-30B-A3B")
    up = next(t for t in spec.layer_tensors(spec.layers[0]) if t.part == "up")
    one = 768 * 2048
    assert up.elements == 128 * one
    cases = {
        Layout(tp=8): 128 * one // 8,
        Layout(tp=8, ep=8): 16 * one,
        Layout(tp=2, dp=4): 128 * one // 2,  # four replicas
        Layout(tp=2, dp=4, ep=8): 16 * one,  # one set of experts
        Layout(tp=2, dp=4, ep=2): 64 * one // 4,
    }
    for layout, elements in cases.items():
        held = [
            tensor_slice(
                up, tp=layout.tp, tp_rank=t, dp=layout.dp, dp_rank=d, ep=layout.ep
            ).elements_of(up)
            for d in range(layout.dp)
            for t in range(layout.tp)
        ]
        assert set(held) == {elements}, layout
    cut = tensor_slice(up, tp=2, tp_rank=1, dp=4, dp_rank=3, ep=2)
    assert cut == Slice(0, 576, 768, 64, 128)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_bytes_of_ranks_are_those_of_their_tensors(name):
    spec = find_bundled(name)
    layout, stages = Layout(tp=2, pp=2), cut_stages([1.0] * spec.num_layers, 2)
    total = 0
    for stage in range(2):
        for rank in range(2):
            own = list(stage_tensors(spec, stages, stage))
            by_tensor = held_bytes(own, layout, dtype="bf16", tp_rank=rank)
            got = rank_bytes(spec, stages, layout, stage=stage, tp_rank=rank, dtype="bf16")
            assert got == pytest.approx(by_tensor)
            total += got
    whole = rank_bytes(spec, ((0, spec.num_layers),), Layout(), stage=0)
    assert whole == pytest.approx(spec.weight_bytes())
    assert whole < total < 1.5 * whole


def test_what_is_kept_of_a_token_and_of_a_sequence():
    latent = find_bundled("deepseek-ai/DeepSeek-V3")
    for tp in (1, 8):  # one latent for all heads: every rank keeps it
        assert kv_elements(latent, (0, 61), tp=tp, tp_rank=tp - 1) == 61 * 576
    hybrid = find_bundled("Qwen/Qwen3.5-27B")
    for tp in (1, 2):
        held = [held_units(one.mixer.state, tp, r) for one in hybrid.layers for r in range(tp)]
        assert sum(held) == hybrid.state_elements
    mixer = hybrid.layers[0].mixer
    assert held_units(mixer.state, 16, 0) * 16 == held_units(mixer.state, 1, 0)


@pytest.mark.parametrize(
    ("name", "layout", "rules", "words"),
    [
        (
            "Qwen/Qwen3-8B",
            Layout(tp=3),
            ANY_ENGINE,
            "tp 3 does not divide 32 query and 8 key-value",
        ),
        ("Qwen/Qwen3-8B", Layout(tp=3), UNEVEN, None),
        ("Qwen/Qwen3-8B", Layout(tp=12), UNEVEN, "sizes that work: 1, 2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("Qwen/Qwen3-8B", Layout(tp=2, ep=2), ANY_ENGINE, "ep 2 needs experts"),
        ("Qwen/Qwen3-30B-A3B", Layout(tp=4, ep=4), EngineRules(experts="none"), "does not deal"),
        ("Qwen/Qwen3-30B-A3B", Layout(tp=4, ep=2), EngineRules(experts="all"), "to all ranks"),
        (
            "Qwen/Qwen3-8B",
            Layout(tp=2, pp=2),
            EngineRules("llama.cpp", has_tp=False),
            "tp 2: llama.cpp cuts by layers only: tp 1",
        ),
        ("Qwen/Qwen3-8B", Layout(pp=2), EngineRules("llama.cpp", has_tp=False), None),
        (
            "Qwen/Qwen3-8B",
            Layout(tp=2, pp=2),
            EngineRules("TurboMind", has_pp=False),
            "pp 2: TurboMind runs no pipelines: pp 1",
        ),
        ("Qwen/Qwen3-8B", Layout(tp=2), EngineRules("TurboMind", has_pp=False), None),
        ("Qwen/Qwen3-30B-A3B", Layout(tp=4, ep=2), ANY_ENGINE, None),
        ("Qwen/Qwen3-30B-A3B", Layout(tp=4, dp=3, ep=3), ANY_ENGINE, "ep 3 does not divide 128"),
        (
            "Qwen/Qwen3-235B-A22B-FP8",
            Layout(tp=8),
            EngineRules(whole_blocks=True),
            "192 each are no multiple of the 128",
        ),
        ("Qwen/Qwen3-235B-A22B-FP8", Layout(tp=4), EngineRules(whole_blocks=True), None),
        ("Qwen/Qwen3-235B-A22B-FP8", Layout(tp=8), ANY_ENGINE, None),
        ("deepseek-ai/DeepSeek-V3", Layout(tp=16), ANY_ENGINE, None),
        ("deepseek-ai/DeepSeek-V3", Layout(tp=12), ANY_ENGINE, "does not divide 128 heads"),
        ("deepseek-ai/DeepSeek-V4-Flash", Layout(tp=16), ANY_ENGINE, "64 query and 8 key-value"),
        ("meta-llama/Meta-Llama-3-8B", Layout(pp=16), ANY_ENGINE, None),
        ("meta-llama/Llama-3.2-1B", Layout(pp=16, tp=2), ANY_ENGINE, "needs 32 devices"),
        ("Qwen/Qwen3-0.6B", Layout(pp=16, dp=1, tp=1), ANY_ENGINE, None),
    ],
)
def test_why_not(name, layout, rules, words):
    reason = why_not(find_bundled(name), layout, 16, rules)
    if words is None:
        assert reason is None
    else:
        assert words in reason
