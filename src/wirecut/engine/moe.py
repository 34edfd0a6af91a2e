"""Mixtures of experts: the router, the experts of one rank, and what every token passes besides.

    weights_TK, picks_TK = router(x_TE)
    y_TE = experts(x_TE, weights_TK, picks_TK)

Every rank of a TP group routes alike, each computes the part of its own experts (or of its columns
of every expert), and the layer's all-reduce sums them. Shapes: T tokens, E hidden, N experts, K
chosen of them, G groups of experts.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from wirecut.engine.exchange import Experts
from wirecut.engine.models.blocks import Forward, Mlp
from wirecut.engine.models.style import Routing


@dataclass(frozen=True, slots=True)
class Router:
    """The router of a layer, in fp32 and the same on every rank."""

    weight_NE: torch.Tensor
    bias_N: torch.Tensor | None
    top_k: int
    how: Routing

    def __call__(self, x_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and numbers of each token's experts, both (T, K)."""
        by_logits = self.how.bias_of == "logits"
        logits_TN = linear(x_TE.float(), self.weight_NE, self.bias_N if by_logits else None)
        softmax = self.how.scores == "softmax"
        scores_TN = logits_TN.softmax(-1) if softmax else logits_TN.sigmoid()
        choice_TN = scores_TN
        if self.bias_N is not None and not by_logits:
            choice_TN = scores_TN + self.bias_N
        if self.how.top_groups < self.how.groups:
            choice_TN = self._within_groups(choice_TN)
        picks_TK = choice_TN.topk(self.top_k, -1).indices
        weights_TK = scores_TN.gather(-1, picks_TK)
        if self.how.normed:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return weights_TK * self.how.factor, picks_TK

    def _within_groups(self, choice_TN: torch.Tensor) -> torch.Tensor:
        """Leave the experts of the best groups only."""
        how = self.how
        choice_TGn = choice_TN.unflatten(-1, (how.groups, -1))
        judged_TG = choice_TGn.topk(how.judged_by, -1).values.sum(-1)
        best_TG = torch.zeros_like(judged_TG, dtype=torch.bool)
        best_TG.scatter_(-1, judged_TG.topk(how.top_groups, -1).indices, True)
        return choice_TGn.masked_fill(~best_TG[..., None], float("-inf")).flatten(-2)


@dataclass(frozen=True, slots=True)
class LocalExperts:
    """Experts `first` and on, of which each may be a share of its columns. Picks of others give
    nothing here.
    """

    experts: tuple[Mlp, ...]
    first: int

    def __call__(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor:
        """This rank's part of (T, E)."""
        y_TE = torch.zeros_like(x_TE)
        order = picks_TK.flatten().argsort(stable=True)
        counts = picks_TK.flatten().bincount(minlength=self.first + len(self.experts)).tolist()
        start = sum(counts[: self.first])
        weights = weights_TK.flatten()
        for expert, count in zip(self.experts, counts[self.first :], strict=False):
            if count:
                chosen = order[start : start + count]
                rows = chosen.div(picks_TK.shape[1], rounding_mode="floor")
                part = expert(x_TE[rows]) * weights[chosen, None].to(x_TE.dtype)
                y_TE.index_add_(0, rows, part)
            start += count
        return y_TE


@dataclass(frozen=True, slots=True)
class Mixture:
    """The feed-forward of a layer with experts. `shared` is what every token passes besides, under
    a gate of its own where `shared_gate` is given.
    """

    router: Router
    experts: Experts
    shared: Mlp | None
    shared_gate_1E: torch.Tensor | None

    def __call__(self, x_TE: torch.Tensor, at: Forward) -> torch.Tensor:
        y_TE = self.experts(x_TE, *self.router(x_TE))
        if self.shared is None:
            return y_TE
        shared_TE = self.shared(x_TE)
        if self.shared_gate_1E is not None:
            shared_TE = shared_TE * linear(x_TE, self.shared_gate_1E).sigmoid()
        return y_TE.add_(shared_TE)
