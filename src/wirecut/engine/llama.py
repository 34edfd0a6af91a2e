"""The Llama architecture as one rank of one stage runs it: its layers, its heads, its slice of the
vocabulary.

Two all-reduces a layer, after attention and after the MLP (Megatron-LM), one after the embedding
and one gather of logits. Shapes: T tokens, E hidden, H query and K key-value heads of this rank, D
head dim, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, rms_norm, silu

from wirecut.engine.attention import KvCache, attend
from wirecut.engine.batch import Batch
from wirecut.engine.comm import Comm
from wirecut.machine.kernels import PackedLinear


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """One layer's weights on this rank: q, k and v stand in one matrix, gate and up in another."""

    attention_norm: torch.Tensor
    qkv: PackedLinear
    o: PackedLinear
    mlp_norm: torch.Tensor
    gate_up: PackedLinear
    down: PackedLinear


@dataclass(frozen=True, slots=True)
class Embedding:
    """This rank's rows of the embedding: tokens `first` and on."""

    weight_VE: torch.Tensor
    first: int

    def __call__(self, tokens_T: torch.Tensor, tp: Comm) -> torch.Tensor:
        if tp.size == 1:
            return embedding(tokens_T, self.weight_VE)
        mine_T = tokens_T - self.first
        elsewhere_T = (mine_T < 0) | (mine_T >= self.weight_VE.shape[0])
        x_TE = embedding(mine_T.masked_fill_(elsewhere_T, 0), self.weight_VE)
        return tp.all_reduce(x_TE.masked_fill_(elsewhere_T[:, None], 0))


@dataclass(frozen=True, slots=True)
class Head:
    """The final norm and this rank's rows of the head, padded so that every rank has as many."""

    norm: torch.Tensor
    product: PackedLinear
    vocab: int

    def __call__(self, x_TE: torch.Tensor, tp: Comm, eps: float) -> torch.Tensor | None:
        """Logits (T, V) on the first rank of the group, None elsewhere."""
        logits_TV = tp.gather(self.product(rms_norm(x_TE, self.norm.shape, self.norm, eps)))
        return None if logits_TV is None else logits_TV[:, : self.vocab]


@dataclass(frozen=True, slots=True)
class LlamaStage:
    """One stage on one rank. `embed` is on the first stage only, `head` on the last."""

    layers: tuple[LlamaLayer, ...]
    embed: Embedding | None
    head: Head | None
    kv: KvCache
    tp: Comm
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    cos_PD: torch.Tensor
    sin_PD: torch.Tensor

    def forward(self, batch: Batch, x_TE: torch.Tensor | None) -> torch.Tensor:
        """Hidden states behind this stage's layers; `x_TE` comes from the stage before, if there is
        one.
        """
        if x_TE is None:
            assert self.embed is not None
            x_TE = self.embed(batch.tokens_T, self.tp)
        cos_T1D = self.cos_PD[batch.positions_T][:, None]
        sin_T1D = self.sin_PD[batch.positions_T][:, None]
        for i, layer in enumerate(self.layers):
            h_TE = rms_norm(x_TE, layer.attention_norm.shape, layer.attention_norm, self.eps)
            a_TE = self._attention(layer, i, h_TE, batch, cos_T1D, sin_T1D)
            x_TE = x_TE + self.tp.all_reduce(a_TE)
            h_TE = rms_norm(x_TE, layer.mlp_norm.shape, layer.mlp_norm, self.eps)
            gate_TF, up_TF = layer.gate_up(h_TE).chunk(2, dim=1)
            x_TE = x_TE + self.tp.all_reduce(layer.down(silu(gate_TF).mul_(up_TF)))
        return x_TE

    def logits(self, batch: Batch, x_TE: torch.Tensor) -> torch.Tensor | None:
        """Logits of the rows that sample, on the first rank of the last stage; None elsewhere."""
        assert self.head is not None
        return self.head(x_TE.index_select(0, batch.sampled_rows), self.tp, self.eps)

    def _attention(
        self,
        layer: LlamaLayer,
        index: int,
        h_TE: torch.Tensor,
        batch: Batch,
        cos_T1D: torch.Tensor,
        sin_T1D: torch.Tensor,
    ) -> torch.Tensor:
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = layer.qkv(h_TE).view(-1, heads + 2 * kv_heads, self.head_dim)
        turned = rotate(qkv[:, : heads + kv_heads], cos_T1D, sin_T1D)
        mixed = attend(
            turned[:, :heads],
            turned[:, heads:],
            qkv[:, heads + kv_heads :],
            self.kv.keys[index],
            self.kv.values[index],
            batch,
        )
        return layer.o(mixed)


def rotate(x_THD: torch.Tensor, cos_T1D: torch.Tensor, sin_T1D: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding on halves; the sign of the first half's sine is in the table."""
    half = x_THD.shape[-1] // 2
    return torch.addcmul(x_THD * cos_T1D, x_THD.roll(half, -1), sin_T1D)


def rotary_tables(
    head_dim: int, positions: int, theta: float, *, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines (P, D), computed in fp32 as transformers does."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles_PD = torch.outer(torch.arange(positions, dtype=torch.float32), inverse).repeat(1, 2)
    sign_D = torch.ones(head_dim)
    sign_D[: head_dim // 2] = -1
    sin_PD = angles_PD.sin() * sign_D
    return angles_PD.cos().to(device, dtype), sin_PD.to(device, dtype)
