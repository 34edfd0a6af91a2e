"""A model as the thing that is cut: its layers, tensors, FLOPs and KV bytes.

Knows no hardware and no layout.

    layers = (Layer(Attention(8, 4, 32), Mlp(704)),) * 8
    spec = ModelSpec(name="demo", layers=layers, hidden=256, vocab=4096, ...)
    spec.parameters          # exact, from the same tensor list that the loader reads
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from wirecut.units import DTYPE_BYTES

Part = Literal["embed", "norm", "q", "k", "v", "o", "gate", "up", "down", "head"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Mlp:
    """A gated MLP (SwiGLU): gate and up widen hidden to intermediate, down goes back."""

    intermediate: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer."""

    attention: Attention
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoint: its name there, its shape (out, in), what it is, its layer.

    `layer` None: outside all layers.
    """

    name: str
    shape: tuple[int, ...]
    part: Part
    layer: int | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ModelSpec:
    """All about a model that a cut needs, from its `config.json` alone. Sizes in elements."""

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

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the checkpoint, first to last layer; a tied head has none of its own."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        hidden = self.hidden
        yield Tensor("model.embed_tokens.weight", (self.vocab, hidden), "embed")
        for i, layer in enumerate(self.layers):
            at, queries = f"model.layers.{i}.", layer.attention.heads * layer.attention.head_dim
            keys, wide = layer.attention.kv_heads * layer.attention.head_dim, layer.mlp.intermediate
            yield Tensor(at + "input_layernorm.weight", (hidden,), "norm", i)
            yield Tensor(at + "self_attn.q_proj.weight", (queries, hidden), "q", i)
            yield Tensor(at + "self_attn.k_proj.weight", (keys, hidden), "k", i)
            yield Tensor(at + "self_attn.v_proj.weight", (keys, hidden), "v", i)
            yield Tensor(at + "self_attn.o_proj.weight", (hidden, queries), "o", i)
            yield Tensor(at + "post_attention_layernorm.weight", (hidden,), "norm", i)
            yield Tensor(at + "mlp.gate_proj.weight", (wide, hidden), "gate", i)
            yield Tensor(at + "mlp.up_proj.weight", (wide, hidden), "up", i)
            yield Tensor(at + "mlp.down_proj.weight", (hidden, wide), "down", i)
        yield Tensor("model.norm.weight", (hidden,), "norm")
        if not self.tied_embeddings:
            yield Tensor("lm_head.weight", (self.vocab, hidden), "head")

    @cached_property
    def parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(tensor.elements for tensor in self.tensors)

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values that one token leaves behind in all layers."""
        return (
            sum(2 * layer.attention.kv_heads * layer.attention.head_dim for layer in self.layers)
            * DTYPE_BYTES[dtype]
        )
