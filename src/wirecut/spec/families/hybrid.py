"""Readers of models whose layers are of several kinds: linear attention, Mamba, Gemma 4.

HYBRID["nemotron_h"](Fields(config, "config.json")).layers
"""

from dataclasses import replace

from wirecut.spec.attention import Indexer
from wirecut.spec.families.experts import qwen_moe, routed, shared_width, sparse_layers
from wirecut.spec.families.latent import latent, stream_mixes
from wirecut.spec.families.parts import (
    FOUR_NORMS,
    Body,
    Reader,
    check_groups,
    grouped,
    mlp,
    sliding,
)
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.fields import Fields
from wirecut.spec.model import AnyMixer, Layer
from wirecut.spec.recurrent import LinearAttention, Mamba
from wirecut.spec.tensor import Tensor, whole

BLOCKS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def qwen3_next(fields: Fields) -> Body:
    """Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet, then one of gated attention; experts
    where they are given.
    """
    every = fields.count("full_attention_interval", default=4)
    layers = fields.layers()
    kinds = fields.per_layer("layer_types", layers)
    kinds = kinds or [
        "full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)
    ]
    attention = replace(grouped(fields, bias=fields.flag("attention_bias")), qk_norm="head")
    if fields.flag("attn_output_gate", True):
        attention = replace(attention, gate_dim=attention.head_dim)
    linear = LinearAttention(
        fields.count("linear_num_key_heads"),
        fields.count("linear_num_value_heads"),
        fields.count("linear_key_head_dim"),
        fields.count("linear_value_head_dim"),
        fields.count("linear_conv_kernel_dim", default=4),
    )
    check_groups(fields, linear.value_heads, linear.key_heads)
    is_full = [kind == "full_attention" for kind in kinds]
    if fields.has("num_experts") and fields.optional("num_experts"):
        feeds = [layer.mlp for layer in qwen_moe(fields, [attention] * layers).layers]
    else:
        feeds = [mlp(fields)] * layers
    return Body(
        tuple(
            Layer(attention, feed) if full else Layer(linear, feed, mixer_name="linear_attn")
            for full, feed in zip(is_full, feeds, strict=True)
        )
    )


def nemotron_h(fields: Fields) -> Body:
    """Nemotron-H and Nemotron 3: each layer is Mamba, attention, an MLP or experts alone."""
    pattern = _pattern(fields)
    found: dict[str, Layer] = {}
    for kind in sorted(set(pattern)):
        mixer, feed = _nemotron_part(fields, kind)
        found[kind] = Layer(mixer, feed, ("norm.weight",), mixer_name="mixer", mlp_name="mixer")
    return Body(tuple(found[kind] for kind in pattern), prefix="backbone.")


def _pattern(fields: Fields) -> str:
    """A letter for each layer, from `hybrid_override_pattern` or from the list of newer ones."""
    named = fields.items("layers_block_type")
    if named:
        return "".join(_letter(fields, one) for one in named)
    pattern, layers = fields.text("hybrid_override_pattern"), fields.layers()
    if len(pattern) < layers or set(pattern) - set(BLOCKS.values()):
        raise fields.error(
            f"hybrid_override_pattern is {pattern!r}, expected M, *, - or E for each of "
            f"{layers} layers"
        )
    return pattern[:layers]


def _letter(fields: Fields, block: object) -> str:
    if not isinstance(block, str) or block not in BLOCKS:
        raise fields.error(f"layers_block_type has {block!r}, expected one of {', '.join(BLOCKS)}")
    return BLOCKS[block]


def _nemotron_part(fields: Fields, kind: str) -> tuple[AnyMixer | None, Mlp | Moe | None]:
    if kind == "M":
        mamba = Mamba(
            fields.count("mamba_num_heads"),
            fields.count("mamba_head_dim"),
            fields.count("n_groups"),
            fields.count("ssm_state_size"),
            fields.count("conv_kernel", default=4),
            conv_bias=fields.flag("use_conv_bias", True),
            bias=fields.flag("use_bias"),
        )
        check_groups(fields, mamba.heads, mamba.groups)
        return mamba, None
    if kind == "*":
        biased = fields.flag("attention_bias")
        return grouped(fields, bias=biased, out_bias=biased), None
    if kind == "-":
        wide = fields.count("intermediate_size")
        return None, Mlp(wide, gated=False, bias=fields.flag("mlp_bias"))
    shared = fields.optional("n_shared_experts") or 0
    shared *= fields.count("moe_shared_expert_intermediate_size", "moe_intermediate_size")
    latent_width = fields.optional("moe_latent_size")
    return None, routed(fields, shared=shared, gated=False, router_bias=True, latent=latent_width)


def kimi_linear(fields: Fields) -> Body:
    """Kimi Linear and Kimi-K3: Kimi Delta Attention, every so many layers latent attention without
    positions; K3's experts work on a latent.
    """
    own = fields.inner("linear_attn_config")
    count, size = own.count("num_heads"), own.count("head_dim")
    delta = LinearAttention(
        count,
        count,
        size,
        size,
        own.count("short_conv_kernel_size", default=4),
        decay_rank=size,
        full_gate=own.flag("use_full_rank_gate"),
    )
    full = own.numbers("full_attn_layers")
    look = latent(fields)
    if fields.flag("mla_use_output_gate"):
        look = replace(look, gate_dim=look.value_dim)
    moe = routed(
        fields,
        shared=shared_width(fields),
        router_bias=True,
        latent=fields.optional("routed_expert_hidden_size"),
        latent_norm=fields.flag("latent_moe_use_norm"),
    )
    sparse = sparse_layers(fields)
    dense = moe if all(sparse) else mlp(fields)
    return Body(
        tuple(
            Layer(look if i + 1 in full else delta, moe if is_sparse else dense)
            for i, is_sparse in enumerate(sparse)
        )
    )


def kimi_k3(fields: Fields) -> Body:
    """Kimi-K3: the text part of a model that sees."""
    return replace(kimi_linear(fields), prefix="language_model.model.")


def glm5_next(fields: Fields) -> Body:
    """GLM-5.3-Flash: Kimi Delta Attention, every so many layers latent attention with pooled index
    keys, several residual streams.
    """
    layers, hidden = fields.layers(), fields.count("hidden_size")
    heads, size = fields.count("linear_num_heads"), fields.count("linear_head_dim")
    taps = fields.count("linear_conv_kernel_dim", default=4)
    delta = LinearAttention(heads, heads, size, size, taps, decay_rank=size)
    index = Indexer(
        fields.count("index_n_heads"), fields.count("index_head_dim"), fields.count("index_kpool")
    )
    look = replace(latent(fields), top_k=fields.count("index_topk"))
    kinds = fields.per_layer("layer_types", layers)
    if not kinds:
        raise fields.error("layer_types is missing, expected an entry for each layer")
    scored = fields.per_layer("indexer_types", layers) or ["full"] * layers
    moe = routed(fields, shared=shared_width(fields), router_bias=True)
    extra = stream_mixes(fields.count("hc_mult", most=64), hidden)
    dense = mlp(fields)
    found: list[Layer] = []
    for kind, score, is_sparse in zip(kinds, scored, sparse_layers(fields), strict=True):
        own = replace(look, index=index) if score == "full" else look
        mixer = delta if kind == "linear_attention" else own
        found.append(Layer(mixer, moe if is_sparse else dense, extra=extra))
    return Body(tuple(found))


def gemma4(fields: Fields) -> Body:
    """Gemma 4: window layers and full ones with heads of their own; an MLP and experts side by
    side, or a per-layer input, where given.
    """
    layers, hidden = fields.layers(), fields.count("hidden_size")
    narrow = replace(grouped(fields), qk_norm="head", window=fields.optional("sliding_window"))
    wide = replace(
        narrow,
        head_dim=fields.count("global_head_dim", "head_dim", default=narrow.head_dim),
        window=None,
    )
    if fields.flag("attention_k_eq_v"):
        keys = fields.count("num_global_key_value_heads", default=narrow.kv_heads)
        wide = replace(wide, kv_heads=keys, key_is_value=True)
        check_groups(fields, wide.heads, wide.kv_heads)
    kinds = sliding(fields, lambda i: (i + 1) % 6 != 0)
    first_shared = layers - fields.count("num_kv_shared_layers", default=0, least=0)
    doubled = fields.flag("use_double_wide_mlp")
    feed, norms, extra = _gemma_feed(fields, hidden)
    found: list[Layer] = []
    for i, is_narrow in enumerate(kinds):
        own = narrow if is_narrow else wide
        last = feed
        if i >= first_shared:
            own = replace(own, kv_shared=True)
            if doubled and isinstance(feed, Mlp):
                last = replace(feed, intermediate=2 * feed.intermediate)
        name = "" if isinstance(feed, Moe) else "mlp"
        found.append(Layer(own, last, norms, extra, mlp_name=name))
    return Body(
        tuple(found), tied=True, extra=_per_layer_inputs(fields), prefix="model.language_model."
    )


def _gemma_feed(
    fields: Fields, hidden: int
) -> tuple[Mlp | Moe, tuple[str, ...], tuple[Tensor, ...]]:
    extra = [whole("layer_scalar", "small", 1)]
    norms = FOUR_NORMS
    feed: Mlp | Moe = mlp(fields)
    if fields.flag("enable_moe_block"):
        # The dense MLP beside the experts is what every token passes: a shared expert.
        feed = routed(fields, shared=fields.count("intermediate_size"), shared_name="mlp")
        norms += tuple(
            f"{at}_feedforward_layernorm_{n}.weight"
            for at, n in (("post", 1), ("post", 2), ("pre", 2))
        )
        extra.append(whole("router.scale", "small", hidden))
        extra.append(whole("router.per_expert_scale", "small", feed.experts))
    if width := fields.optional("hidden_size_per_layer_input"):
        extra.append(whole("per_layer_input_gate.weight", "latent", width, hidden))
        extra.append(whole("per_layer_projection.weight", "latent", hidden, width))
        norms += ("post_per_layer_input_norm.weight",)
    return feed, norms, tuple(extra)


def _per_layer_inputs(fields: Fields) -> tuple[Tensor, ...]:
    width = fields.optional("hidden_size_per_layer_input")
    if not width:
        return ()
    at, hidden, wide = "model.language_model.", fields.count("hidden_size"), width * fields.layers()
    rows = fields.count("vocab_size_per_layer_input", "vocab_size")
    table = Tensor(at + "embed_tokens_per_layer.weight", (rows, wide), "small")
    return (
        table,
        whole(at + "per_layer_model_projection.weight", "latent", wide, hidden),
        whole(at + "per_layer_projection_norm.weight", "norm", width),
    )


HYBRID: dict[str, Reader] = {
    "qwen3_next": qwen3_next,
    "qwen3_5": qwen3_next,
    "qwen3_5_text": qwen3_next,
    "qwen3_5_moe": qwen3_next,
    "qwen3_5_moe_text": qwen3_next,
    "nemotron_h": nemotron_h,
    "kimi_linear": kimi_linear,
    "kimi_k3": kimi_k3,
    "glm5_next": glm5_next,
    "glm5_next_text": glm5_next,
    "gemma4": gemma4,
    "gemma4_text": gemma4,
    "gemma4_unified": gemma4,
}
