"""Readers of mixtures of experts with grouped-query attention, by `model_type`.

EXPERTS["mixtral"](Fields(config, "config.json")).layers
"""

from dataclasses import replace

from wirecut.spec.attention import Attention, Indexer
from wirecut.spec.families.parts import (
    BIASED_NORMS,
    Body,
    Reader,
    check_groups,
    grouped,
    heads,
    mlp,
    norm_bias,
    sliding,
    windowed,
)
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.fields import Fields
from wirecut.spec.model import Layer
from wirecut.spec.tensor import whole

EXPERT_FIELDS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
WIDTH_FIELDS = ("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
MIXTRAL_NAMES = ("w1", "w3", "w2")
TOP_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k")


def routed(fields: Fields, **own: int | bool | str | tuple[str, ...] | None) -> Moe:
    """Experts and router by the usual names of fields."""
    experts, top_k = fields.count(*EXPERT_FIELDS), fields.count(*TOP_FIELDS)
    if top_k > experts:
        raise fields.error(f"num_experts_per_tok {top_k} is more than the {experts} experts")
    moe = Moe(experts, top_k, fields.count(*WIDTH_FIELDS))
    return replace(moe, **own)


def shared_width(fields: Fields) -> int:
    """Intermediate size of all shared experts together, each as wide as a routed one."""
    count = fields.optional("n_shared_experts", "num_shared_experts") or 0
    return count * fields.count(*WIDTH_FIELDS)


def sparse_layers(fields: Fields) -> list[bool]:
    """Which layers have experts: by `mlp_layer_types`, by a list in `moe_layer_freq`, or all behind
    the first `first_k_dense_replace`.
    """
    layers = fields.layers()
    kinds = fields.per_layer("mlp_layer_types", layers)
    if kinds:
        return [kind == "sparse" for kind in kinds]
    if isinstance(fields.values.get("moe_layer_freq"), list):
        return [one == 1 for one in fields.per_layer("moe_layer_freq", layers)]
    first = fields.count("first_k_dense_replace", default=0, least=0)
    step = fields.count("moe_layer_freq", default=1)
    return [i >= first and i % step == 0 for i in range(layers)]


def mixtral(fields: Fields) -> Body:
    """Mixtral: experts in every layer."""
    own = windowed(grouped(fields), fields, [fields.has("sliding_window")] * fields.layers())
    moe = routed(fields, names=MIXTRAL_NAMES)
    return Body(tuple(Layer(one, moe, mlp_name="block_sparse_moe") for one in own))


def phimoe(fields: Fields) -> Body:
    """Phi-3.5-MoE: Mixtral with biases on attention, norms and head."""
    biased = fields.flag("attention_bias")
    attention = grouped(fields, bias=biased, out_bias=biased)
    own = windowed(attention, fields, [fields.has("sliding_window")] * fields.layers())
    moe, extra = routed(fields, names=MIXTRAL_NAMES), (norm_bias(fields),)
    if fields.flag("lm_head_bias"):
        extra += (whole("lm_head.bias", "bias", fields.count("vocab_size")),)
    layers = tuple(Layer(one, moe, BIASED_NORMS, mlp_name="block_sparse_moe") for one in own)
    return Body(layers, extra=extra)


def qwen2_moe(fields: Fields) -> Body:
    """Qwen2-MoE: a gated shared expert, bias on queries, keys and values."""
    attention = grouped(fields, bias=fields.flag("qkv_bias", True))
    return qwen_moe(fields, [attention] * fields.layers())


def qwen3_moe(fields: Fields) -> Body:
    """Qwen3-MoE: norms of queries and keys by head, no shared expert."""
    biased = fields.flag("attention_bias")
    attention = replace(grouped(fields, bias=biased, out_bias=biased), qk_norm="head")
    return qwen_moe(fields, [attention] * fields.layers())


def qwen_moe(fields: Fields, own: list[Attention]) -> Body:
    """Qwen's rule for which layers have experts."""
    shared = fields.optional("shared_expert_intermediate_size") or 0
    moe = routed(fields, shared=shared, shared_gate=shared > 0, shared_name="shared_expert")
    dense, step = fields.numbers("mlp_only_layers"), fields.count("decoder_sparse_step", default=1)
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(len(own))]
    feed = moe if all(sparse) else mlp(fields)
    return Body(
        tuple(
            Layer(one, moe if is_sparse else feed)
            for one, is_sparse in zip(own, sparse, strict=True)
        )
    )


def gpt_oss(fields: Fields) -> Body:
    """gpt-oss: biases everywhere, attention sinks, every other layer with a window."""
    attention = replace(grouped(fields, bias=True, out_bias=True), sinks=True)
    own = windowed(attention, fields, sliding(fields, lambda i: i % 2 == 0))
    router = ("router.weight", "router.bias")
    moe = routed(fields, bias=True, router_bias=True, router_names=router, turned=True)
    return Body(tuple(Layer(one, moe) for one in own))


def llama4(fields: Fields) -> Body:
    """Llama 4: one shared expert, experts every so many layers, chunks of context in three layers
    of four.
    """
    narrow = _chunked(fields)
    chunk = fields.optional("attention_chunk_size")
    attention = grouped(fields)
    width = fields.count("intermediate_size")
    moe = routed(fields, intermediate=width, shared=width, shared_name="shared_expert")
    step = fields.count("interleave_moe_layer_step", default=1)
    listed = fields.numbers("moe_layers")
    dense = Mlp(fields.count("intermediate_size_mlp", default=width))
    layers: list[Layer] = []
    for i in range(fields.layers()):
        sparse = i in listed if listed else (i + 1) % step == 0
        one = replace(attention, window=chunk) if narrow[i] else attention
        layers.append(Layer(one, moe if sparse else dense, mlp_name="feed_forward"))
    return Body(tuple(layers), prefix="language_model.model.")


def _chunked(fields: Fields) -> list[bool]:
    rotary = fields.items("no_rope_layers")  # 1: rotary and chunked, 0: neither
    if len(rotary) == fields.layers():
        return [one == 1 for one in rotary]
    every = fields.count("no_rope_layer_interval", default=4)
    return sliding(fields, lambda i: (i + 1) % every != 0)


def glm4_moe(fields: Fields) -> Body:
    """GLM-4.5 to 4.7: shared expert, first layers dense."""
    norm = "head" if fields.flag("use_qk_norm") else ""
    attention = replace(grouped(fields, bias=fields.flag("attention_bias")), qk_norm=norm)
    moe = routed(fields, shared=shared_width(fields), router_bias=True)
    return _first_dense(fields, attention, moe)


def minimax_m2(fields: Fields) -> Body:
    """MiniMax-M2: norms over all queries and all keys, experts in every layer."""
    norm = "all" if fields.flag("use_qk_norm", True) else ""
    biased = fields.flag("use_routing_bias", True)
    moe = routed(fields, router_bias=biased, names=MIXTRAL_NAMES)
    one = Layer(replace(grouped(fields), qk_norm=norm), moe, mlp_name="block_sparse_moe")
    return Body((one,) * fields.layers())


def minimax_m3(fields: Fields) -> Body:
    """MiniMax-M3: an indexer chooses blocks of keys in all but the first layers."""
    attention = replace(grouped(fields), qk_norm="head")
    chosen = fields.inner("sparse_attention_config")
    index = Indexer(
        chosen.count("sparse_num_index_heads", default=4),
        chosen.count("sparse_index_dim", default=128),
    )
    blocks = chosen.count("sparse_topk_blocks", default=16)
    keys = blocks * chosen.count("sparse_block_size", default=128)
    layers = fields.layers()
    scored = [one == 1 for one in chosen.per_layer("sparse_attention_freq", layers)]
    scored = scored or [False] * layers
    moe = routed(
        fields,
        shared=shared_width(fields),
        router_bias=fields.flag("use_routing_bias"),
        names=MIXTRAL_NAMES,
    )
    dense = Mlp(fields.count("dense_intermediate_size", "intermediate_size"))
    found: list[Layer] = []
    for has_index, is_sparse in zip(scored, sparse_layers(fields), strict=True):
        one = replace(attention, top_k=keys, index=index) if has_index else attention
        name = "block_sparse_moe" if is_sparse else "mlp"
        found.append(Layer(one, moe if is_sparse else dense, mlp_name=name))
    return Body(tuple(found), prefix="language_model.model.")


def mimo_v2(fields: Fields) -> Body:
    """MiMo-V2-Flash: window layers with key-value heads of their own and sinks."""
    queries, keys, size = heads(fields)
    value = fields.count("v_head_dim", default=size)
    wide = Attention(queries, keys, size, value, sinks=fields.flag("add_full_attention_sink_bias"))
    narrow = Attention(
        fields.count("swa_num_attention_heads", default=queries),
        fields.count("swa_num_key_value_heads", default=2 * keys),
        fields.count("swa_head_dim", default=size),
        fields.count("swa_v_head_dim", default=value),
        window=fields.count("sliding_window", "sliding_window_size"),
        sinks=fields.flag("add_swa_attention_sink_bias", True),
    )
    check_groups(fields, narrow.heads, narrow.kv_heads)
    pattern = fields.per_layer("hybrid_layer_pattern", fields.layers())
    kinds = [one == 1 for one in pattern] or sliding(fields, lambda _: False)
    moe, dense = routed(fields, shared=shared_width(fields), router_bias=True), mlp(fields)
    return Body(
        tuple(
            Layer(narrow if is_narrow else wide, moe if is_sparse else dense)
            for is_narrow, is_sparse in zip(kinds, sparse_layers(fields), strict=True)
        )
    )


def step(fields: Fields) -> Body:
    """Step-3.5 and 3.7-Flash: an output gate per head, window layers with more query heads."""
    attention = replace(grouped(fields), qk_norm="head", gate_dim=1)
    other = fields.inner("attention_other_setting")
    narrow = replace(
        attention,
        heads=other.count("num_attention_heads", default=attention.heads),
        kv_heads=other.count("num_attention_groups", default=attention.kv_heads),
        window=fields.optional("sliding_window"),
    )
    check_groups(fields, narrow.heads, narrow.kv_heads)
    shared = fields.optional("share_expert_dim", "share_expert_dims") or 0
    moe = routed(
        fields,
        shared=shared,
        router_bias=fields.flag("use_moe_router_bias", True),
        shared_name="share_expert",
    )
    kinds = sliding(fields, lambda i: i % 4 != 0)
    return Body(
        tuple(
            Layer(narrow if is_narrow else attention, moe if is_sparse else mlp(fields))
            for is_narrow, is_sparse in zip(kinds, sparse_layers(fields), strict=True)
        )
    )


def deepseek(fields: Fields) -> Body:
    """DeepSeek-MoE-16B: grouped-query attention, shared experts."""
    return _first_dense(fields, grouped(fields), routed(fields, shared=shared_width(fields)))


def _first_dense(fields: Fields, attention: Attention, moe: Moe) -> Body:
    sparse = sparse_layers(fields)
    dense = moe if all(sparse) else mlp(fields)
    return Body(tuple(Layer(attention, moe if one else dense) for one in sparse))


EXPERTS: dict[str, Reader] = {
    "mixtral": mixtral,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_vl_moe": qwen3_moe,
    "gpt_oss": gpt_oss,
    "llama4": llama4,
    "llama4_text": llama4,
    "glm4_moe": glm4_moe,
    "minimax_m2": minimax_m2,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl": minimax_m3,
    "mimo_v2_flash": mimo_v2,
    "step3p5": step,
    "step3p7": step,
    "deepseek": deepseek,
}
