"""Readers of models with latent attention: DeepSeek, Kimi-K2, GLM-5, by `model_type`.

LATENT["deepseek_v3"](Fields(config, "config.json")).layers
"""

from dataclasses import replace

from wirecut.spec.attention import CompressedAttention, Indexer, LatentAttention
from wirecut.spec.families.experts import routed, shared_width, sparse_layers
from wirecut.spec.families.parts import Body, Reader, mlp
from wirecut.spec.fields import Fields
from wirecut.spec.model import Layer
from wirecut.spec.tensor import Tensor, whole

INDEXED_RATIO = 4  # DeepSeek-V4: keys pooled by 4 are chosen by an indexer, those by 128 are not


def latent(fields: Fields) -> LatentAttention:
    """Latent attention by the usual names of fields."""
    nope, rope = fields.count("qk_nope_head_dim"), fields.count("qk_rope_head_dim", least=0)
    return LatentAttention(
        heads=fields.count("num_attention_heads"),
        q_rank=fields.optional("q_lora_rank"),
        kv_rank=fields.count("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=fields.count("v_head_dim"),
        bias=fields.flag("attention_bias"),
    )


def _layers(fields: Fields, own: list[LatentAttention], *, router_bias: bool) -> tuple[Layer, ...]:
    moe = routed(fields, shared=shared_width(fields), router_bias=router_bias)
    sparse = sparse_layers(fields)
    dense = moe if all(sparse) else mlp(fields)
    return tuple(
        Layer(one, moe if is_sparse else dense) for one, is_sparse in zip(own, sparse, strict=True)
    )


def deepseek_v2(fields: Fields) -> Body:
    """DeepSeek-V2: no correction bias in the router."""
    biased = fields.text("topk_method") == "noaux_tc"
    return Body(_layers(fields, [latent(fields)] * fields.layers(), router_bias=biased))


def deepseek_v3(fields: Fields) -> Body:
    """DeepSeek-V3, R1, V3.1 and Kimi-K2."""
    return Body(_layers(fields, [latent(fields)] * fields.layers(), router_bias=True))


def kimi_k25(fields: Fields) -> Body:
    """Kimi-K2.5: the text part of a model that sees."""
    return replace(deepseek_v3(fields), prefix="language_model.model.")


def sparse_latent(fields: Fields) -> Body:
    """DeepSeek-V3.2 and GLM-5: an indexer chooses keys; since GLM-5.2 some layers share one."""
    layers = fields.layers()
    index = Indexer(fields.count("index_n_heads"), fields.count("index_head_dim"))
    top_k = fields.count("index_topk")
    kinds = fields.per_layer("indexer_types", layers) or ["full"] * layers
    attention = replace(latent(fields), top_k=top_k)
    own = [replace(attention, index=index) if kind == "full" else attention for kind in kinds]
    return Body(_layers(fields, own, router_bias=True))


def deepseek_v4(fields: Fields) -> Body:
    """DeepSeek-V4: windows and compressed keys, several residual streams with mixing weights."""
    layers, hidden = fields.layers(), fields.count("hidden_size")
    index = Indexer(fields.count("index_n_heads"), fields.count("index_head_dim"))
    base = CompressedAttention(
        heads=fields.count("num_attention_heads"),
        head_dim=fields.count("head_dim"),
        q_rank=fields.count("q_lora_rank"),
        out_groups=fields.count("o_groups"),
        out_rank=fields.count("o_lora_rank"),
        window=fields.count("sliding_window"),
    )
    if base.heads % base.out_groups:
        raise fields.error(f"o_groups {base.out_groups} does not divide {base.heads} heads")
    top_k = fields.count("index_topk")
    streams = fields.count("hc_mult", default=4, most=64)
    extra = stream_mixes(streams, hidden)
    hashed = fields.count("num_hash_layers", default=0, least=0)
    moe = routed(fields, shared=shared_width(fields))
    found: list[Layer] = []
    for i, ratio in enumerate(_ratios(fields, layers)):
        own = replace(base, ratio=ratio)
        if ratio == INDEXED_RATIO:
            own = replace(own, top_k=top_k, index=index)
        feed = replace(moe, router_bias=i >= hashed)
        found.append(Layer(own, feed, extra=extra, mixer_name="attn", mlp_name="ffn"))
    return Body(tuple(found), extra=_last_mix(streams, hidden), prefix="")


def stream_mixes(streams: int, hidden: int) -> tuple[Tensor, ...]:
    """What mixes a layer's residual streams before and behind each of its halves."""
    mixes = (2 + streams) * streams
    return tuple(
        tensor
        for at in ("attn_hc", "ffn_hc")
        for tensor in (
            whole(f"{at}.fn", "small", mixes, streams * hidden),
            whole(f"{at}.base", "small", mixes),
            whole(f"{at}.scale", "small", 3),
        )
    )


def _ratios(fields: Fields, layers: int) -> list[int]:
    found = fields.per_layer("compress_ratios", layers)
    if not found or not all(type(one) is int and 0 <= one < 10**5 for one in found):
        raise fields.error(f"compress_ratios is {found!r}, expected a number for each layer")
    return found


def _last_mix(streams: int, hidden: int) -> tuple[Tensor, ...]:
    return (
        whole("hc_head_fn", "small", streams, streams * hidden),
        whole("hc_head_base", "small", streams),
        whole("hc_head_scale", "small", 1),
    )


LATENT: dict[str, Reader] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "kimi_k2": deepseek_v3,
    "kimi_k25": kimi_k25,
    "glm4_moe_lite": deepseek_v3,
    "deepseek_v32": sparse_latent,
    "glm_moe_dsa": sparse_latent,
    "deepseek_v4": deepseek_v4,
    "deepseek_ref": deepseek_v4,
}
