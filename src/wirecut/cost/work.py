"""What one rank does in one layer: its products, its experts, its share of the cache.

    work = layer_work(spec, spec.layers[0], Layout(tp=2))
    [(one.name, one.n, one.k) for one in work.products]

Asks `layout.shards`, the one definition of a shard. Knows no device and no time.
"""

from collections.abc import Iterable

from wirecut.cost.halves import native_halves
from wirecut.cost.product import Product
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.shards import held_bytes, held_units, tensor_slice, unit_cut
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.model import AnyMixer, Layer, ModelSpec
from wirecut.spec.tensor import Tensor

# Products that engines run as one, by part of the layer; a part that is not here runs alone.
MERGED = {"q": "qkv", "k": "qkv", "v": "qkv", "z": "qkv", "gate": "gate_up", "up": "gate_up"}


@fact
class Routed:
    """The experts of one rank: `here` of `experts`, each token going to `top_k` of all."""

    here: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    gated: bool
    format: str
    weight_bytes: float


@fact
class LayerWork:
    """One rank's part of one layer.

    `heads` and `kv_heads` are the rank's own; `kv_elements` a token leaves in its cache,
    `state_elements` a sequence occupies. `weight_bytes` count all its tensors, `linear_bytes` those
    that products stream. `native_halves`: those that native code runs on cores in bf16. `reduces`
    are the layer's sums over the TP ranks.
    """

    mixer: AnyMixer | None
    mlp: Mlp | Moe | None
    products: tuple[Product, ...]
    routed: Routed | None
    heads: int
    kv_heads: int
    kv_elements: int
    state_elements: int
    weight_bytes: float
    linear_bytes: float
    native_halves: int

    @property
    def reduces(self) -> int:
        return (self.mixer is not None) + (self.mlp is not None)


def layer_work(
    spec: ModelSpec,
    layer: Layer,
    layout: Layout,
    tp_rank: int = 0,
    shares: tuple[int, ...] = (),
) -> LayerWork:
    """What rank `tp_rank` of the first replica does in this layer; `shares` as in `layout.plan`.
    Of experts dealt unevenly the first rank of that has the most.
    """
    tensors, tp, mixer = spec.layer_tensors(layer), layout.tp, layer.mixer
    dense = [tensor for tensor in tensors if not tensor.experts]
    products = _products(spec, dense, tp, tp_rank, shares)
    routed = None
    if isinstance(layer.mlp, Moe):
        routed = _routed(spec, layer.mlp, tensors, layout, tp_rank, shares)
    heads = kv_heads = kv = state = 0
    if mixer is not None:
        first, last = unit_cut(mixer.heads, tp, tp_rank, mixer.groups, shares)
        heads, groups = last - first, max(1, mixer.groups)
        first, last = unit_cut(groups, tp, tp_rank, groups, shares)
        kv_heads = last - first
        kv, state = (held_units(held, tp, tp_rank, shares) for held in (mixer.kv, mixer.state))
    return LayerWork(
        mixer=mixer,
        mlp=layer.mlp,
        products=products,
        routed=routed,
        heads=heads,
        kv_heads=kv_heads,
        kv_elements=kv,
        state_elements=state,
        weight_bytes=_held(spec, tensors, layout, tp_rank, shares),
        linear_bytes=sum(p.weight_bytes for p in products) + (routed.weight_bytes if routed else 0),
        native_halves=native_halves(layer, products),
    )


def _products(
    spec: ModelSpec, tensors: Iterable[Tensor], tp: int, tp_rank: int, shares: tuple[int, ...]
) -> tuple[Product, ...]:
    """The rank's products, those that run as one put together."""
    found: dict[tuple[str, int, str], tuple[int, float]] = {}
    for tensor in tensors:
        if not tensor.is_linear:
            continue
        own = tensor_slice(tensor, tp=tp, tp_rank=tp_rank, shares=shares)
        n, k = own.shape_of(tensor)
        key = (MERGED.get(tensor.part, tensor.part), k, tensor.format or spec.dtype)
        wide, held = found.get(key, (0, 0.0))
        found[key] = wide + n, held + own.elements_of(tensor) * tensor.element_bytes(spec.dtype)
    return tuple(
        Product(name, n, k, format, held) for (name, k, format), (n, held) in found.items() if held
    )


def _routed(
    spec: ModelSpec,
    moe: Moe,
    tensors: Iterable[Tensor],
    layout: Layout,
    tp_rank: int,
    shares: tuple[int, ...],
) -> Routed:
    """This rank's experts, cut inside as `layout` does."""
    linears = [tensor for tensor in tensors if tensor.experts and tensor.is_linear]
    down = next(tensor for tensor in linears if tensor.part == "down")
    own = tensor_slice(
        down,
        tp=layout.tp,
        tp_rank=tp_rank,
        dp=layout.dp,
        ep=layout.ep,
        shares=shares,
    )
    return Routed(
        here=own.last_expert - own.first_expert,
        experts=moe.experts,
        top_k=moe.top_k,
        hidden=moe.latent or spec.hidden,
        intermediate=own.shape_of(down)[1],
        gated=moe.gated,
        format=linears[0].format or spec.dtype,
        weight_bytes=_held(spec, linears, layout, tp_rank, shares),
    )


def _held(
    spec: ModelSpec,
    tensors: Iterable[Tensor],
    layout: Layout,
    tp_rank: int,
    shares: tuple[int, ...],
) -> float:
    return held_bytes(tensors, layout, dtype=spec.dtype, tp_rank=tp_rank, shares=shares)
