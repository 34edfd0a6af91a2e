"""Readers of models before 2024 and others whose fields have names of their own, by `model_type`.

OLDER["falcon"](Fields(config, "config.json")).layers
"""

from dataclasses import replace

from wirecut.spec.attention import Attention
from wirecut.spec.families.parts import (
    BIASED_NORMS,
    Body,
    Reader,
    alike,
    check_groups,
    grouped,
    heads,
    norm_bias,
)
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.fields import Fields
from wirecut.spec.model import Layer
from wirecut.spec.tensor import Tensor, whole


def chatglm(fields: Fields) -> Body:
    """ChatGLM2, 3 and GLM-4-9B as their authors publish them."""
    queries = fields.count("num_attention_heads")
    keys = fields.count("multi_query_group_num", default=queries)
    check_groups(fields, queries, keys)
    biased = fields.flag("add_qkv_bias", True)
    attention = Attention(queries, keys, fields.count("kv_channels", default=128), bias=biased)
    return alike(attention, Mlp(fields.count("ffn_hidden_size")), fields.layers())


def qwen(fields: Fields) -> Body:
    """Qwen of 2023: `intermediate_size` is that of gate and up together."""
    wide = fields.count("intermediate_size")
    return alike(grouped(fields, bias=True), Mlp(max(1, wide // 2)), fields.layers())


def baichuan(fields: Fields) -> Body:
    """Baichuan: Llama's layers, queries, keys and values in one matrix."""
    return alike(grouped(fields), Mlp(fields.count("intermediate_size")), fields.layers())


def falcon(fields: Fields) -> Body:
    """Falcon: attention and MLP side by side behind one norm, or since 40B behind one each."""
    hidden, biased = fields.count("hidden_size"), fields.flag("bias")
    attention = grouped(fields, bias=biased, out_bias=biased)
    new = fields.flag("new_decoder_architecture")
    if not new and fields.flag("multi_query", True):
        attention = replace(attention, kv_heads=1)
    wide = fields.count("ffn_hidden_size", default=4 * hidden)
    norms = ("ln_attn.weight", "ln_attn.bias", "ln_mlp.weight", "ln_mlp.bias")
    norms = (
        norms if new else BIASED_NORMS[:2] if fields.flag("parallel_attn", True) else BIASED_NORMS
    )
    body = alike(attention, Mlp(wide, gated=False, bias=biased), fields.layers(), norms)
    return replace(body, tied=True, extra=(norm_bias(fields),))


def gpt_neox(fields: Fields) -> Body:
    """GPT-NeoX and Pythia: biases everywhere, no gate."""
    biased = fields.flag("attention_bias", True)
    attention = Attention(*heads(fields), bias=biased, out_bias=biased)
    feed = Mlp(fields.count("intermediate_size"), gated=False, bias=True)
    body = alike(attention, feed, fields.layers(), BIASED_NORMS)
    return replace(body, extra=(norm_bias(fields),))


def bloom(fields: Fields) -> Body:
    """BLOOM: biases everywhere, no gate, a norm behind the embedding."""
    hidden = fields.count("hidden_size", "n_embed")
    feed = Mlp(4 * hidden, gated=False, bias=True)
    attention = Attention(*heads(fields), bias=True, out_bias=True)
    body = alike(attention, feed, fields.layers(), BIASED_NORMS)
    at = "word_embeddings_layernorm"
    first = whole(f"{at}.weight", "norm", hidden), whole(f"{at}.bias", "bias", hidden)
    return replace(body, tied=True, extra=(*first, norm_bias(fields)))


def opt(fields: Fields) -> Body:
    """OPT: learned positions, biases everywhere, no gate, a tied head."""
    hidden = fields.count("hidden_size")
    if fields.count("word_embed_proj_dim", default=hidden) != hidden:
        raise fields.error("word_embed_proj_dim differs from hidden_size, which is not known yet")
    feed = Mlp(fields.count("ffn_dim"), gated=False, bias=True)
    attention = Attention(*heads(fields), bias=True, out_bias=True)
    places = fields.count("max_position_embeddings", default=2048) + 2
    positions = Tensor("model.embed_positions.weight", (places, hidden), "small")
    body = alike(attention, feed, fields.layers(), BIASED_NORMS)
    return replace(body, tied=True, extra=(positions, norm_bias(fields)))


def dbrx(fields: Fields) -> Body:
    """DBRX: experts in every layer, sizes in objects of their own."""
    look, feed = fields.inner("attn_config"), fields.inner("ffn_config")
    hidden, queries = fields.count("hidden_size", "d_model"), fields.count("n_heads")
    keys = look.count("kv_n_heads")
    check_groups(fields, queries, keys)
    attention = Attention(queries, keys, max(1, hidden // queries))
    moe = Moe(feed.count("moe_num_experts"), feed.count("moe_top_k"), feed.count("ffn_hidden_size"))
    return Body((Layer(attention, moe, mlp_name="ffn"),) * fields.layers())


OLDER: dict[str, Reader] = {
    "chatglm": chatglm,
    "qwen": qwen,
    "baichuan": baichuan,
    "falcon": falcon,
    "gpt_neox": gpt_neox,
    "bloom": bloom,
    "opt": opt,
    "dbrx": dbrx,
}
