"""Who holds what: every tensor tiled exactly by its ranks, but for what is replicated."""

import math

import pytest

from specs import LLAMA_8B, spec_of
from wirecut.layout.rules import allowed_tp
from wirecut.layout.shards import (
    WHOLE,
    Slice,
    even_cut,
    kv_elements_per_token,
    kv_heads,
    padded_vocab,
    query_heads,
    shard_elements,
    stage_tensors,
    tensor_slice,
)
from wirecut.layout.stages import cut_stages

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
            assert shard_elements(spec, stages, stage=stage, tp=tp, tp_rank=rank) == by_shape


def test_llama_8b_on_two_ranks_by_hand():
    spec = spec_of(LLAMA_8B)
    norms = (2 * 32 + 1) * 4096
    half = (spec.parameters - norms) // 2 + norms
    assert shard_elements(spec, ((0, 32),), stage=0, tp=2, tp_rank=0) == half
    # 32 layers x 2 (keys, values) x 8 heads x 128; two ranks halve it, 16 ranks hold one head each
    assert kv_elements_per_token(spec, (0, 32), tp=1, tp_rank=0) == 65536
    assert kv_elements_per_token(spec, (0, 32), tp=2, tp_rank=1) == 32768
    assert kv_elements_per_token(spec, (0, 32), tp=16, tp_rank=15) == 32 * 2 * 128
    assert kv_elements_per_token(spec, (30, 32), tp=1, tp_rank=0) == 4096
