"""A model as the thing that is cut: its layers, tensors, FLOPs and KV bytes.

Knows no hardware and no layout.

    layers = (Layer(Attention(8, 4, 32), Mlp(704)),) * 8
    spec = ModelSpec(name="demo", layers=layers, hidden=256, vocab=4096, ...)
    spec.parameters          # exact, from the same tensor list that the loader reads
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf

from wirecut.facts import fact
from wirecut.spec.attention import Attention, CompressedAttention, LatentAttention
from wirecut.spec.feedforward import Mlp, Moe
from wirecut.spec.formats import element_bits, group_size
from wirecut.spec.mixer import kv_elements, state_elements
from wirecut.spec.recurrent import LinearAttention, Mamba
from wirecut.spec.tensor import PRECISE, Tensor, whole

AnyMixer = Attention | LatentAttention | CompressedAttention | LinearAttention | Mamba
TWO_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")


@fact
class Layer:
    """One layer: a mixer, then a feed-forward; hybrids have layers with one of them alone.

    `norms`: names of the vectors of `hidden` elements. `extra`: what else every rank holds.
    `mixer_name`, `mlp_name`: what the checkpoint calls them. `formats`: (tensor, format) of those
    that are not stored in the model's dtype, named within the layer.
    """

    mixer: AnyMixer | None
    mlp: Mlp | Moe | None
    norms: tuple[str, ...] = TWO_NORMS
    extra: tuple[Tensor, ...] = ()
    mixer_name: str = "self_attn"
    mlp_name: str = "mlp"
    formats: tuple[tuple[str, str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.mixer, self.mlp, len(self.norms), len(self.formats)))


@fact
class WeightFormat:
    """How linears are stored in the main, and what their inputs are rounded to for the product; ""
    is the model's dtype. `method` is the name of it in the configuration.
    """

    linear: str = ""
    activations: str = ""
    method: str = ""


# What products with these formats round their inputs to, where quantisation is asked for by name.
ACTIVATIONS = {"fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4", "mxfp8": "mxfp8"}


@lru_cache(maxsize=4096)
def layer_tensors(layer: Layer, hidden: int) -> tuple[Tensor, ...]:
    """The tensors of a layer, in no place yet: `layer` None, named within the layer."""
    found = [whole(name, "norm", hidden) for name in layer.norms]
    if layer.mixer:
        own = layer.mixer.tensors(hidden)
        found += [replace(tensor, name=f"{layer.mixer_name}.{tensor.name}") for tensor in own]
    if layer.mlp:
        at = f"{layer.mlp_name}." if layer.mlp_name else ""
        groups = layer.mixer.groups if layer.mixer else 0
        for one in layer.mlp.tensors(hidden):
            # Ranks with more of the head groups get more columns, in proportion.
            dealt = groups if one.dim is not None else 0
            found.append(replace(one, name=at + one.name, groups=dealt))
    found += layer.extra
    formats = dict(layer.formats)
    stored = (replace(tensor, format=formats.get(tensor.name, "")) for tensor in found)
    return tuple(_in_groups(tensor) for tensor in stored)


def _in_groups(tensor: Tensor) -> Tensor:
    """A feed-forward is cut between the groups of inputs that share a scale in its way back; the
    way there has the same columns, and the same groups.
    """
    size = group_size(tensor.format)
    if tensor.part not in ("gate", "up", "down") or not size or tensor.units % size:
        return tensor
    return replace(tensor, units=tensor.units // size)


@dataclass(frozen=True)
class ModelSpec:
    """All about a model that a cut needs, from its `config.json` alone. Sizes in elements.

    `prefix` is what the checkpoint puts before the names of tensors, `extra` what lies outside
    layers besides embedding, last norm and head. `kv_dtype`: the cache's where the checkpoint says.
    `head_format`: how the head is stored; "" is the model's dtype.
    """

    name: str
    architecture: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool
    dtype: str
    max_positions: int
    norm_eps: float
    rope_theta: float
    rope_kind: str = "default"
    stop_tokens: tuple[int, ...] = ()
    weights: WeightFormat = WeightFormat()  # noqa: RUF009 (a fact)
    kv_dtype: str | None = None
    prefix: str = "model."
    extra: tuple[Tensor, ...] = ()
    head_format: str = ""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def kinds(self) -> Counter[Layer]:
        """The distinct layers, and how many there are of each."""
        return Counter(self.layers)

    @cached_property
    def first_alike(self) -> tuple[int, ...]:
        """By layer, the first one of its kind."""
        first: dict[Layer, int] = {}
        return tuple(first.setdefault(layer, i) for i, layer in enumerate(self.layers))

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the checkpoint, first to last layer; a tied head has none of its own.

        Expert copies are one tensor. Names are the checkpoint's, but what it stores fused (as Phi-3
        its q, k and v) is listed apart.
        """
        embed, *rest = self.outside_tensors
        placed = [
            replace(tensor, name=f"{self.prefix}layers.{i}.{tensor.name}", layer=i)
            for i, layer in enumerate(self.layers)
            for tensor in self.layer_tensors(layer)
        ]
        return (embed, *placed, *rest)

    def layer_tensors(self, layer: Layer) -> tuple[Tensor, ...]:
        """The tensors of a layer wherever it stands: `layer` None, named within it."""
        return layer_tensors(layer, self.hidden)

    @cached_property
    def outside_tensors(self) -> tuple[Tensor, ...]:
        """The tensors outside all layers: embedding first."""
        table, at = (self.vocab, self.hidden), self.prefix
        found = [
            Tensor(at + "embed_tokens.weight", table, "embed", dim=0, units=self.vocab),
            whole(at + "norm.weight", "norm", self.hidden),
        ]
        if not self.tied_embeddings:
            head = Tensor("lm_head.weight", table, "head", dim=0, units=self.vocab)
            found.append(replace(head, format=self.head_format))
        return (*found, *self.extra)

    def _sum(self, of: Callable[[Tensor, Layer | None], int]) -> int:
        inside = (
            count * of(tensor, layer)
            for layer, count in self.kinds.items()
            for tensor in self.layer_tensors(layer)
        )
        return sum(inside) + sum(of(tensor, None) for tensor in self.outside_tensors)

    @cached_property
    def parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return self._sum(lambda tensor, _: tensor.elements)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes: of the experts, those it is sent to."""
        return self._sum(_active)

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Bytes of all weights, where those not quantised are held in `dtype`."""
        held = dtype or self.dtype
        return self._sum(lambda tensor, _: tensor.stored_bytes(held))

    def quantized(self, format: str) -> "ModelSpec":
        """The same model with its layers' linears stored in `format`; embedding, head, norms and
        routers stay. Raises UsageError for an unknown format.
        """
        element_bits(format)
        changed = {layer: self._requantized(layer, format) for layer in self.kinds}
        kind = format.partition("-")[0]
        weights = WeightFormat(format, ACTIVATIONS.get(kind, ""), format)
        return replace(self, layers=tuple(changed[layer] for layer in self.layers), weights=weights)

    def reformatted(self, change: Callable[[str], str]) -> "ModelSpec":
        """The same model with what is stored in a format stored in what `change` makes of it."""
        changed = {
            layer: replace(layer, formats=tuple((n, change(f)) for n, f in layer.formats))
            for layer in self.kinds
        }
        linear = self.weights.linear and change(self.weights.linear)
        activations = self.weights.activations if linear == self.weights.linear else ""
        return replace(
            self,
            layers=tuple(changed[layer] for layer in self.layers),
            weights=replace(self.weights, linear=linear, activations=activations),
            head_format=self.head_format and change(self.head_format),
        )

    def _requantized(self, layer: Layer, format: str) -> Layer:
        formats = (
            (tensor.name, format)
            for tensor in self.layer_tensors(layer)
            if tensor.is_linear and tensor.part not in PRECISE
        )
        return replace(layer, formats=tuple(formats))

    def kv_bytes_per_token(self, dtype: str | None = None) -> int:
        """Bytes of keys and values that one token leaves behind in all layers, windows not
        considered. In `dtype`, else in the cache's dtype that the checkpoint names, else the
        model's.
        """
        total = sum(kv_elements(one.mixer) * n for one, n in self.kinds.items() if one.mixer)
        return round(total * element_bits(dtype or self.kv_dtype or self.dtype) / 8)

    @property
    def state_elements(self) -> int:
        """Elements that a sequence occupies in all layers however long it is."""
        return sum(state_elements(one.mixer) * n for one, n in self.kinds.items() if one.mixer)

    @cached_property
    def attention_tokens(self) -> float:
        """How many tokens of context cost as many FLOPs as the rest of a token's way through the
        model; a mean up to the longest context. Infinite when the context costs nothing.
        """
        alone, far = self.flops_per_token(1), self.flops_per_token(self.max_positions)
        return self.max_positions * alone / (far - alone) if far > alone else inf

    def flops_per_token(self, context: int) -> float:
        """FLOPs of one token that is the last of `context`: a multiply and an add per active weight
        in a matrix product, and what its mixers do with the keys that they look at.
        """
        flops = 2.0 * self._sum(lambda tensor, layer: tensor.is_linear * _active(tensor, layer))
        if self.tied_embeddings:
            flops += 2.0 * self.vocab * self.hidden
        for layer, count in self.kinds.items():
            if mixer := layer.mixer:
                pairs = mixer.keys(context) * mixer.pair_flops(decode=False)
                scored = mixer.index_keys(context) * mixer.index_flops
                flops += count * (pairs + scored + mixer.token_flops)
        return flops


def _active(tensor: Tensor, layer: Layer | None) -> int:
    if tensor.experts and layer and isinstance(layer.mlp, Moe):
        return tensor.copy_elements * layer.mlp.top_k
    return tensor.elements
