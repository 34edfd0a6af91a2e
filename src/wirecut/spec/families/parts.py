"""What readers of all families share: heads, windows, and the result of reading.

attention = grouped(fields, bias=True)
Body((Layer(attention, Mlp(fields.count("intermediate_size"))),) * fields.layers())
"""

from collections.abc import Callable
from dataclasses import replace

from wirecut.facts import fact
from wirecut.spec.attention import Attention
from wirecut.spec.feedforward import Mlp
from wirecut.spec.fields import Fields
from wirecut.spec.model import AnyMixer, Layer
from wirecut.spec.tensor import Tensor, whole

FOUR_NORMS = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
)
BIASED_NORMS = (
    "input_layernorm.weight",
    "input_layernorm.bias",
    "post_attention_layernorm.weight",
    "post_attention_layernorm.bias",
)


@fact
class Body:
    """What a family's reader finds out: the layers, and what differs from Llama around them.

    `tied`: whether the head is the embedding where the configuration does not say.
    """

    layers: tuple[Layer, ...]
    tied: bool = False
    extra: tuple[Tensor, ...] = ()
    prefix: str = "model."


Reader = Callable[[Fields], Body]


def heads(fields: Fields) -> tuple[int, int, int]:
    """Query heads, key-value heads and the size of a head. Raises ModelError when they do not fit
    one another.
    """
    hidden = fields.count("hidden_size", "n_embed")
    queries = fields.count("num_attention_heads", "n_head", "num_heads")
    keys = fields.count("num_key_value_heads", "num_kv_heads", default=queries)
    check_groups(fields, queries, keys)
    if not fields.has("head_dim") and not fields.has("attention_head_dim") and hidden % queries:
        raise fields.error(
            f"hidden_size {hidden} is no multiple of num_attention_heads {queries}, "
            "and head_dim is not given"
        )
    size = fields.count("head_dim", "attention_head_dim", default=max(1, hidden // queries))
    if size % 2:
        raise fields.error(f"head_dim {size} is odd; rotary embeddings turn pairs")
    return queries, keys, size


def check_groups(fields: Fields, queries: int, keys: int) -> None:
    """Raise ModelError unless every key-value head serves as many query heads."""
    if queries % keys:
        raise fields.error(
            f"num_attention_heads {queries} is no multiple of num_key_value_heads {keys}"
        )


def grouped(fields: Fields, *, bias: bool = False, out_bias: bool = False) -> Attention:
    """Grouped-query attention by the usual names of fields."""
    return Attention(*heads(fields), bias=bias, out_bias=out_bias)


def mlp(fields: Fields) -> Mlp:
    """A gated MLP by the usual names of fields."""
    act = fields.text("hidden_activation") or fields.text("hidden_act", "silu")
    return Mlp(fields.count("intermediate_size"), bias=fields.flag("mlp_bias"), act=act)


def sliding(fields: Fields, by_default: Callable[[int], bool]) -> list[bool]:
    """Which layers see a window only: by `layer_types`, else `by_default` of the layer's number."""
    layers = fields.layers()
    kinds = fields.per_layer("layer_types", layers)
    if kinds:
        return [kind in ("sliding_attention", "chunked_attention") for kind in kinds]
    return [by_default(i) for i in range(layers)]


def windowed(attention: Attention, fields: Fields, narrow: list[bool]) -> list[Attention]:
    """The attention of each layer, `narrow` ones with `sliding_window`."""
    window = fields.optional("sliding_window") if any(narrow) else None
    return [replace(attention, window=window) if one else attention for one in narrow]


def alike(mixer: AnyMixer, feed: Mlp, layers: int, norms: tuple[str, ...] | None = None) -> Body:
    """`layers` times the same layer."""
    one = Layer(mixer, feed) if norms is None else Layer(mixer, feed, norms)
    return Body((one,) * layers)


def norm_bias(fields: Fields) -> Tensor:
    """The bias of the last norm."""
    return whole("model.norm.bias", "bias", fields.count("hidden_size", "n_embed"))
