"""Readers of dense models, by `model_type`.

DENSE["qwen2"](Fields(config, "config.json")).layers
"""

from dataclasses import replace

from wirecut.spec.attention import Attention
from wirecut.spec.families.parts import (
    BIASED_NORMS,
    FOUR_NORMS,
    Body,
    Reader,
    alike,
    check_groups,
    grouped,
    mlp,
    norm_bias,
    sliding,
    windowed,
)
from wirecut.spec.feedforward import Mlp
from wirecut.spec.fields import Fields
from wirecut.spec.model import Layer


def llama(fields: Fields) -> Body:
    """Llama, and what has its layers under another name."""
    act = fields.text("hidden_act", "silu")
    if act != "silu":
        raise fields.error(f"hidden_act is {act!r}, expected 'silu'")
    biased = fields.flag("attention_bias")
    return alike(grouped(fields, bias=biased, out_bias=biased), mlp(fields), fields.layers())


def mistral(fields: Fields) -> Body:
    """Mistral: a window in all layers where one is given; Ministral's in those of its list."""
    narrow = sliding(fields, lambda _: fields.has("sliding_window"))
    own = windowed(grouped(fields), fields, narrow)
    return Body(tuple(Layer(one, mlp(fields)) for one in own))


def qwen2(fields: Fields) -> Body:
    """Qwen2, and MiMo: bias on queries, keys and values; a window in late layers if at all."""
    return _late_window(fields, grouped(fields, bias=fields.flag("attention_bias", True)))


def qwen3(fields: Fields) -> Body:
    """Qwen3: norms of queries and keys by head."""
    biased = fields.flag("attention_bias")
    attention = grouped(fields, bias=biased, out_bias=biased)
    return _late_window(fields, replace(attention, qk_norm="head"))


def _late_window(fields: Fields, attention: Attention) -> Body:
    used = fields.flag("use_sliding_window")
    first = fields.count("max_window_layers", default=28, least=0) if used else fields.layers()
    narrow = sliding(fields, lambda i: i >= first)
    return Body(tuple(Layer(one, mlp(fields)) for one in windowed(attention, fields, narrow)))


def gemma(fields: Fields) -> Body:
    """Gemma: Llama's layers with a tied head."""
    biased = fields.flag("attention_bias")
    body = alike(grouped(fields, bias=biased, out_bias=biased), mlp(fields), fields.layers())
    return replace(body, tied=True)


def gemma2(fields: Fields) -> Body:
    """Gemma 2: four norms, every other layer with a window."""
    return _gemma(fields, replace(grouped(fields), qk_norm=""), every=2)


def gemma3(fields: Fields) -> Body:
    """Gemma 3: norms of queries and keys, five layers of six with a window."""
    every = fields.count("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _gemma(fields, replace(grouped(fields), qk_norm="head"), every=every)


def _gemma(fields: Fields, attention: Attention, *, every: int) -> Body:
    own = windowed(attention, fields, sliding(fields, lambda i: (i + 1) % every != 0))
    return Body(tuple(Layer(one, mlp(fields), FOUR_NORMS) for one in own), tied=True)


def phi3(fields: Fields) -> Body:
    """Phi-3 and Phi-4: Llama's layers, a window where one is given."""
    own = windowed(grouped(fields), fields, [fields.has("sliding_window")] * fields.layers())
    return Body(tuple(Layer(one, mlp(fields)) for one in own))


def glm(fields: Fields) -> Body:
    """GLM-4-9B of 2024: bias on queries, keys and values."""
    attention = grouped(fields, bias=fields.flag("attention_bias", True))
    return alike(attention, mlp(fields), fields.layers())


def glm4(fields: Fields) -> Body:
    """GLM-4 of 2025: norms behind attention and MLP too."""
    attention = grouped(fields, bias=fields.flag("attention_bias"))
    return alike(attention, mlp(fields), fields.layers(), FOUR_NORMS)


def nemotron(fields: Fields) -> Body:
    """Nemotron-4 and Minitron: squared ReLU, no gate, norms with bias."""
    biased = fields.flag("attention_bias")
    feed = Mlp(fields.count("intermediate_size"), gated=False, bias=fields.flag("mlp_bias"))
    attention = grouped(fields, bias=biased, out_bias=biased)
    body = alike(attention, feed, fields.layers(), BIASED_NORMS)
    return replace(body, extra=(norm_bias(fields),))


def nemotron_nas(fields: Fields) -> Body:
    """Llama-Nemotron (DeciLM): each block has its own key-value heads and MLP, or lacks one."""
    layers = fields.layers()
    blocks = fields.per_layer("block_configs", layers)
    if not blocks:
        raise fields.error("block_configs is missing, expected an entry for each layer")
    queries, hidden = fields.count("num_attention_heads"), fields.count("hidden_size")
    size = fields.count("head_dim", default=max(1, hidden // queries))
    found: list[Layer] = []
    for i, block in enumerate(blocks):
        own = Fields(block if isinstance(block, dict) else {}, f"{fields.where}: block {i}")  # pyright: ignore[reportUnknownArgumentType]
        look, feed = own.inner("attention"), own.inner("ffn")
        for part in (look, feed):
            if part.flag("replace_with_linear"):
                raise part.error("replace_with_linear is true, which wirecut does not know yet")
        attention = None
        if not look.flag("no_op"):
            group = look.count("n_heads_in_group")
            check_groups(look, queries, max(1, queries // group))
            attention = Attention(queries, max(1, queries // group), size)
        wide = None
        if not feed.flag("no_op"):
            mult = feed.positive("ffn_mult", default=0.0) if feed.has("ffn_mult") else 0.0
            wide = Mlp(
                _multiple_of_256(int(2 * mult * hidden / 3))
                if mult
                else feed.count("intermediate_size")
            )
        norms = ("input_layernorm.weight",) * bool(attention)
        norms += ("post_attention_layernorm.weight",) * bool(wide)
        found.append(Layer(attention, wide, norms))
    return Body(tuple(found))


def _multiple_of_256(width: int) -> int:
    return -(-width // 256) * 256 or 256


def cohere(fields: Fields) -> Body:
    """Command-R: one norm, attention and MLP side by side, a tied head."""
    biased = fields.flag("attention_bias")
    norm = "all" if fields.flag("use_qk_norm") else ""
    attention = replace(grouped(fields, bias=biased, out_bias=biased), qk_norm=norm)
    body = alike(attention, mlp(fields), fields.layers(), ("input_layernorm.weight",))
    return replace(body, tied=True)


def cohere2(fields: Fields) -> Body:
    """Command-A: Command-R with a window in three layers of four."""
    every = fields.count("sliding_window_pattern", "_sliding_window_pattern", default=4)
    narrow = sliding(fields, lambda i: (i + 1) % every != 0)
    own = windowed(grouped(fields), fields, narrow)
    norms = ("input_layernorm.weight",)
    return Body(tuple(Layer(one, mlp(fields), norms) for one in own), tied=True)


def olmo2(fields: Fields) -> Body:
    """OLMo 2: norms behind attention and MLP, and over all queries and all keys."""
    attention = replace(grouped(fields), qk_norm="all")
    norms = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
    return alike(attention, mlp(fields), fields.layers(), norms)


def seed_oss(fields: Fields) -> Body:
    """Seed-OSS: Llama's layers with bias where its fields say."""
    attention = grouped(
        fields,
        bias=fields.flag("attention_bias", True),
        out_bias=fields.flag("attention_out_bias"),
    )
    return alike(attention, mlp(fields), fields.layers())


def starcoder2(fields: Fields) -> Body:
    """StarCoder2: biases everywhere, no gate, a tied head."""
    biased = fields.flag("use_bias", True)
    attention = grouped(fields, bias=biased, out_bias=biased)
    own = windowed(attention, fields, [fields.has("sliding_window")] * fields.layers())
    feed = Mlp(fields.count("intermediate_size"), gated=False, bias=biased)
    layers = tuple(Layer(one, feed, BIASED_NORMS) for one in own)
    return Body(layers, tied=True, extra=(norm_bias(fields),))


DENSE: dict[str, Reader] = {
    "llama": llama,
    "mistral": mistral,
    "ministral": mistral,
    "ministral3": mistral,
    "qwen2": qwen2,
    "qwen2_vl": qwen2,
    "qwen2_5_vl": qwen2,
    "mimo": qwen2,
    "qwen3": qwen3,
    "qwen3_vl": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
    "phi3": phi3,
    "glm": glm,
    "glm4": glm4,
    "nemotron": nemotron,
    "nemotron-nas": nemotron_nas,
    "cohere": cohere,
    "cohere2": cohere2,
    "olmo2": olmo2,
    "seed_oss": seed_oss,
    "starcoder2": starcoder2,
    "granite": llama,
    "smollm3": llama,
    "internlm2": llama,
}
