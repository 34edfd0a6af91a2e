"""Multi-head latent attention (DeepSeek-V2, section 2.1) as one rank runs it: its heads over the
latent that every rank caches whole.

The up projections of keys and values are absorbed into query and output (there, appendix C), so
that the latent itself is key and value of one head that all share. Shapes: T tokens, H heads of
this rank, R latent, N dims without and D dims with rotation, V dims of a value.
"""

from dataclasses import dataclass

import torch

from wirecut.engine.attention import Cache, Look, attend
from wirecut.engine.models.blocks import Forward, Norm
from wirecut.machine import kernels
from wirecut.machine.kernels import Linear


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """`q_down` and `q_norm`: None where queries come straight from hidden. `paired`: the dims that
    turn lie in pairs, else in halves.
    """

    q_down: Linear | None
    q_norm: Norm | None
    q: Linear
    kv_down: Linear
    kv_norm: Norm
    key_up_HNR: torch.Tensor
    value_up_HRV: torch.Tensor
    o: Linear
    paired: bool
    look: Look
    cache: Cache

    def __call__(self, x_TE: torch.Tensor, at: Forward) -> torch.Tensor:
        heads, nope, rank = self.key_up_HNR.shape
        low = x_TE
        if self.q_down is not None and self.q_norm is not None:
            low = self.q_norm(self.q_down(x_TE))
        q_THX = self.q(low).view(x_TE.shape[0], heads, -1)
        kv_TX = self.kv_down(x_TE)
        q_THR = (q_THX[..., :nope].transpose(0, 1) @ self.key_up_HNR).transpose(0, 1)
        latent_T1R = self.kv_norm(kv_TX[:, :rank])[:, None]
        q_THD, k_T1D = self._turned(q_THX[..., nope:], at), self._turned(kv_TX[:, None, rank:], at)
        mixed = attend(
            torch.cat([q_THR, q_THD], -1),
            torch.cat([latent_T1R, k_T1D], -1),
            latent_T1R,
            self.cache.keys_KSD,
            self.cache.values_KSD,
            at.batch,
            self.look,
        )
        values_HTV = mixed.view(-1, heads, rank).transpose(0, 1) @ self.value_up_HRV
        return self.o(values_HTV.transpose(0, 1).flatten(1))

    def _turned(self, x_THD: torch.Tensor, at: Forward) -> torch.Tensor:
        if self.paired:
            x_THD = x_THD.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return kernels.rotate(x_THD, *at.turns[0])
