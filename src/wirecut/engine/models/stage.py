"""A stage on one rank: embedding, layers and head, with this rank's slice of the vocabulary.

    stage = Stage(fused(halves), embed, head, tp, tables, windows)
    x_TE = stage.forward(batch, None)
    logits_TV = stage.logits(batch, x_TE)

Two all-reduces a layer, behind attention and behind the feed-forward (Megatron-LM), one behind the
embedding and one gather of logits. Shapes: T tokens, E hidden, V vocabulary, P positions, D dims
that turn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from wirecut.engine.batch import Batch, Windows
from wirecut.engine.comm import Comm
from wirecut.engine.models.blocks import Forward, Norm
from wirecut.machine.kernels import Linear, embed


@dataclass(frozen=True, slots=True)
class Embedding:
    """This rank's rows of the embedding: tokens `first` and on; `scale` multiplies them."""

    weight_VE: torch.Tensor
    first: int
    scale: float = 1.0

    def __call__(self, tokens_T: torch.Tensor, tp: Comm) -> torch.Tensor:
        x_TE = tp.all_reduce(embed(tokens_T, self.weight_VE, self.first))
        return x_TE if self.scale == 1.0 else x_TE * self.scale


@dataclass(frozen=True, slots=True)
class Head:
    """The final norm and this rank's rows of the head, padded so that every rank has as many.
    `cap`: logits are bent to stay below it.
    """

    norm: Norm
    product: Linear
    vocab: int
    cap: float | None = None

    def __call__(self, x_TE: torch.Tensor, tp: Comm) -> torch.Tensor | None:
        """Logits (T, V) on the first rank of the group, None elsewhere."""
        logits_TV = tp.gather(self.product(self.norm(x_TE)))
        if logits_TV is None:
            return None
        logits_TV = logits_TV[:, : self.vocab]
        return logits_TV if self.cap is None else (logits_TV / self.cap).tanh() * self.cap


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage on one rank. `embed` is on the first stage only, `head` on the last. `tables`: by
    rope, cosines and signed sines (P, D). `windows`: those of its layers.
    """

    steps: tuple[Callable[[torch.Tensor, Forward], torch.Tensor], ...]
    embed: Embedding | None
    head: Head | None
    tp: Comm
    tables: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    windows: Windows

    def forward(self, batch: Batch, x_TE: torch.Tensor | None) -> torch.Tensor:
        """Hidden states behind this stage's layers; `x_TE` comes from the stage before, if there is
        one.
        """
        if x_TE is None:
            assert self.embed is not None
            x_TE = self.embed(batch.tokens_T, self.tp)
        at = Forward(batch, self.tp, tuple(_turn(table, batch) for table in self.tables))
        for step in self.steps:
            x_TE = step(x_TE, at)
        return x_TE

    def logits(self, batch: Batch, x_TE: torch.Tensor) -> torch.Tensor | None:
        """Logits of the rows that sample, on the first rank of the last stage; None elsewhere."""
        assert self.head is not None
        if len(batch.sampled_rows) < batch.num_tokens:
            x_TE = x_TE.index_select(0, batch.sampled_rows)
        return self.head(x_TE, self.tp)


def _turn(
    table: tuple[torch.Tensor, torch.Tensor], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    cos_PD, sin_PD = table
    rows_T = batch.positions_T
    if batch.long_T is not None:  # theirs stand behind those of the short
        rows_T = rows_T + batch.long_T * (cos_PD.shape[0] // 2)
    return cos_PD[rows_T], sin_PD[rows_T]
