"""Which halves of a layer native code runs on cores: what `engine.models.fused` puts together and
`machine.sizes` takes.

    native_halves(spec.layers[0], work.products)
"""

from collections.abc import Iterable
from dataclasses import replace

from wirecut.cost.product import Product
from wirecut.machine.sizes import fits_product, fits_prompts, fits_turn
from wirecut.spec.attention import Attention
from wirecut.spec.dtypes import FLOATS
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.model import TWO_NORMS, AnyMixer, Layer


def native_halves(layer: Layer, products: Iterable[Product]) -> int:
    """How many halves of a layer with these products native code runs in bf16: those of plain
    attention and of gated MLPs, in whole vectors, with nothing behind their sums.
    """
    if layer.norms != TWO_NORMS:
        return 0
    misfits = {one.name for one in products if not _fits(one)}
    attention = _is_plain_attention(layer.mixer) and misfits.isdisjoint(("qkv", "o"))
    return attention + (_is_plain_mlp(layer.mlp) and misfits.isdisjoint(("gate_up", "down")))


def _is_plain_attention(mixer: AnyMixer | None) -> bool:
    if not isinstance(mixer, Attention) or mixer.qk_norm == "all":
        return False
    plain = Attention(mixer.heads, mixer.kv_heads, mixer.head_dim)
    alike = replace(mixer, window=None, bias=False, qk_norm="") == plain
    return alike and fits_turn(mixer.head_dim) and fits_prompts(mixer.head_dim)


def _is_plain_mlp(mlp: Mlp | Moe | None) -> bool:
    return isinstance(mlp, Mlp) and mlp.gated and mlp.act == "silu" and not mlp.bias


def _fits(one: Product) -> bool:
    return one.format in FLOATS and fits_product(one.n, one.k)
