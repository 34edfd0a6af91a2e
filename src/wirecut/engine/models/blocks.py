"""What layers of all architectures are made of, as one rank runs them: its heads, its columns.

A layer is two halves, each x + post(reduce(part(norm(x)))). A part computes this rank's share of
the sum. Shapes: T tokens, E hidden, H query and K key-value heads of this rank, D head dim, F
columns of an MLP on this rank.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import gelu

from wirecut.engine.attention import Cache, Look, attend
from wirecut.engine.batch import Batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.style import Gate
from wirecut.machine import kernels
from wirecut.machine.kernels import Linear


@dataclass(frozen=True, slots=True)
class Forward:
    """What every layer is told of a forward: the batch, the TP group, and by rope the cosines and
    signed sines of the batch's positions.
    """

    batch: Batch
    tp: Comm
    turns: tuple[tuple[torch.Tensor, torch.Tensor], ...]


Part = Callable[[torch.Tensor, Forward], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm over the last dim, computed in the dtype of its weight."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm of each head by itself; the heads may have different weights."""

    weight_HD: torch.Tensor
    eps: float

    def __call__(self, x_THD: torch.Tensor) -> torch.Tensor:
        return kernels.norm_heads(x_THD, self.weight_HD, self.eps)


@dataclass(frozen=True, slots=True)
class Half:
    """One residual step of a layer. `bias` is added once, when the ranks' shares are summed."""

    norm: Norm
    part: Part
    bias: torch.Tensor | None = None
    post: Norm | None = None

    def __call__(self, x_TE: torch.Tensor, at: Forward) -> torch.Tensor:
        y_TE = at.tp.all_reduce(self.part(self.norm(x_TE), at))
        if self.bias is not None:
            y_TE = y_TE + self.bias
        return x_TE + (y_TE if self.post is None else self.post(y_TE))


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Grouped-query attention: q, k and v stand in one matrix. `norm` is of queries and keys,
    `rope` the number of the turn.
    """

    qkv: Linear
    o: Linear
    heads: int
    kv_heads: int
    norm: HeadNorm | None
    rope: int
    look: Look
    cache: Cache

    def __call__(self, x_TE: torch.Tensor, at: Forward) -> torch.Tensor:
        heads, turning = self.heads, self.heads + self.kv_heads
        qkv_THD = self.qkv(x_TE).view(x_TE.shape[0], turning + self.kv_heads, -1)
        qk_THD = qkv_THD[:, :turning]
        if self.norm is not None:
            qk_THD = self.norm(qk_THD)
        qk_THD = kernels.rotate(qk_THD, *at.turns[self.rope])
        keys, values = self.cache.keys_KSD, self.cache.values_KSD
        q_THD, k_TKD, v_TKD = qk_THD[:, :heads], qk_THD[:, heads:], qkv_THD[:, turning:]
        return self.o(attend(q_THD, k_TKD, v_TKD, keys, values, at.batch, self.look))


@dataclass(frozen=True, slots=True)
class Mlp:
    """Up, gated, and down: gate and up stand in one matrix."""

    gate_up: Linear
    down: Linear
    gate: Gate

    def __call__(self, x_TE: torch.Tensor, at: Forward | None = None) -> torch.Tensor:
        return self.down(_gated(self.gate, self.gate_up(x_TE)))


def _gated(how: Gate, gate_up_TF: torch.Tensor) -> torch.Tensor:
    if how.act == "silu":
        return kernels.swiglu(gate_up_TF)
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
    if how.act == "gelu_pytorch_tanh":
        return gelu(gate_TF, approximate="tanh").mul_(up_TF)
    below_TF = gate_TF.clamp(max=how.limit)
    return (up_TF.clamp(-how.limit, how.limit) + 1) * below_TF * (below_TF * how.alpha).sigmoid()
