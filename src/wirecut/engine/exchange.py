"""The routed experts of a stage: tokens to the ranks that hold their experts, and results back.

    ep = ExpertComm(layout, index=0, transport=transport)
    experts = ep.over(local, experts=128, top_k=8, hidden=2048, dtype=dtype, device=device)
    y_TE = tp.all_reduce(experts(x_TE, weights_TK, picks_TK))

`local` computes the experts that this rank holds. Where one replica has all experts, each of its TP
ranks computes its own for all rows. Where replicas share them, each TP rank sends its part of its
replica's rows to the ranks that hold one of their experts, once to each; those compute and send
back, and what comes back is added up. Either way the layer's sum over TP makes the whole. All ranks
exchange at the same time; one without tokens joins with no rows.

Shapes: T tokens, E hidden, K picks of a token, N experts, C copies of rows, R ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from wirecut.engine.comm import Count
from wirecut.engine.messages import CountedExperts
from wirecut.layout.layout import Layout
from wirecut.layout.shards import even_cut, expert_tp, holders


class Experts(Protocol):
    """The routed experts of a layer: hidden states, weights and numbers of each token's picks to
    this rank's part of the result. Picks that this rank does not hold add nothing.
    """

    def __call__(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor: ...


class Rows(Protocol):
    """What carries rows between the ranks that share experts."""

    def all_to_all_rows(
        self, x: torch.Tensor, counts: Sequence[int]
    ) -> tuple[torch.Tensor, list[int]]: ...


class ExpertComm:
    """The ranks that share a stage's experts, as number `index` of them sees it, and what it
    counted.
    """

    def __init__(self, layout: Layout, *, index: int, transport: Rows | None) -> None:
        self.layout = layout
        self._index, self._transport = index, transport
        self._dispatch, self._combine, self._copies = Count(), Count(), 0
        self._picked_N: list[torch.Tensor] = []  # by layer
        self._travelling: list[_Travelling] = []

    def over(
        self,
        local: Experts,
        *,
        experts: int,
        top_k: int,
        hidden: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Experts:
        """A layer's experts on all ranks, of which `local` are this one's. Every rank makes its
        layers in the same order.
        """
        picked_N = torch.zeros(experts, dtype=torch.int64, device=device)
        self._picked_N.append(picked_N)
        if self._transport is None:
            return _Here(self, local, picked_N)
        no_rows = (
            torch.empty(0, hidden, dtype=dtype, device=device),
            torch.empty(0, top_k, device=device),
            torch.empty(0, top_k, dtype=torch.int64, device=device),
        )
        holder_N = torch.tensor(holders(experts, self.layout.ep), device=device)
        made = _Travelling(self, local, picked_N, holder_N, no_rows)
        self._travelling.append(made)
        return made

    def join(self) -> None:
        """Take part in one forward of the others, with no rows."""
        for layer in self._travelling:
            layer.exchange(*layer.no_rows)

    def part(self, rows: int) -> slice:
        """The rows of the replica that this rank answers for."""
        return slice(*even_cut(rows, self.layout.tp, self._index % self.layout.tp))

    def send(self, x: torch.Tensor, counts: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Rows to the ranks that hold their experts; theirs, and how many each sent."""
        assert self._transport
        self._dispatch.add(x.nbytes)
        self._copies += len(x)
        return self._transport.all_to_all_rows(x, counts)

    def send_back(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Results to where the rows came from; those of this rank's rows, in the order sent."""
        assert self._transport
        back, _ = self._transport.all_to_all_rows(x, counts)
        self._combine.add(back.nbytes)
        return back

    @property
    def count(self) -> Count:
        """Bytes that this rank sent and got back; calls are told by the first of the ranks."""
        there, back = self._dispatch, self._combine
        calls = there.calls + back.calls if self._index == 0 else 0
        return Count(calls, there.bytes + back.bytes)

    def counted(self) -> CountedExperts:
        """What this rank sent, and whom its part of the rows picked."""
        picks = [picked_N.tolist() for picked_N in self._picked_N]
        return CountedExperts(self._copies, self._dispatch.bytes, self._combine.bytes, picks)

    def reset(self) -> None:
        """Count from zero."""
        self._dispatch.reset()
        self._combine.reset()
        self._copies = 0
        for picked_N in self._picked_N:
            picked_N.zero_()


@dataclass(frozen=True, slots=True)
class _Here:
    """A layer whose experts are all in this replica."""

    comm: ExpertComm
    local: Experts
    picked_N: torch.Tensor

    def __call__(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor:
        _count(self.picked_N, picks_TK[self.comm.part(len(x_TE))])
        return self.local(x_TE, weights_TK, picks_TK)


@dataclass(frozen=True, slots=True)
class _Travelling:
    """A layer whose experts replicas share. `holder_N`: which holder has each."""

    comm: ExpertComm
    local: Experts
    picked_N: torch.Tensor
    holder_N: torch.Tensor
    no_rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]

    def __call__(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor:
        part = self.comm.part(len(x_TE))
        y_TE = torch.zeros_like(x_TE)
        y_TE[part] = self.exchange(x_TE[part], weights_TK[part], picks_TK[part])
        return y_TE

    def exchange(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor:
        """The whole result of this rank's rows."""
        _count(self.picked_N, picks_TK)
        row_C, counts_R = self._copies(picks_TK)
        sent = _pack(x_TE[row_C], weights_TK[row_C], picks_TK[row_C])
        came, theirs_R = self.comm.send(sent, counts_R)
        y_CE = self.local(*_unpack(came, x_TE, picks_TK))
        back_CE = self.comm.send_back(y_CE, theirs_R)
        sums_TE = torch.zeros_like(x_TE, dtype=torch.float32)
        return sums_TE.index_add_(0, row_C, back_CE.float()).to(x_TE.dtype)

    def _copies(self, picks_TK: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """The row of each copy, by the rank that it goes to, and how many go to each."""
        layout = self.comm.layout
        wanted = torch.zeros(len(picks_TK), layout.ep, dtype=torch.bool, device=picks_TK.device)
        wanted.scatter_(1, self.holder_N[picks_TK], True)
        wanted_RT = wanted.t().repeat_interleave(expert_tp(layout), dim=0)
        return wanted_RT.nonzero()[:, 1], wanted_RT.sum(1).tolist()


def _count(picked_N: torch.Tensor, picks_TK: torch.Tensor) -> None:
    picks = picks_TK.flatten()
    picked_N.scatter_add_(0, picks, torch.ones_like(picks))


def _pack(x_CE: torch.Tensor, weights_CK: torch.Tensor, picks_CK: torch.Tensor) -> torch.Tensor:
    """Each row's bytes: its hidden state, then the weights (fp32) and numbers (int32) of its
    picks.
    """
    parts = (x_CE, weights_CK.float(), picks_CK.int())
    return torch.cat([part.view(torch.uint8) for part in parts], dim=1)


def _unpack(
    packed: torch.Tensor, x_TE: torch.Tensor, picks_TK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `_pack` took, of rows like these."""
    width, picks = x_TE.shape[1] * x_TE.itemsize, 4 * picks_TK.shape[1]
    x, weights, numbers = packed.split([width, picks, picks], dim=1)
    return (
        x.contiguous().view(x_TE.dtype),
        weights.contiguous().view(torch.float32),
        numbers.contiguous().view(torch.int32).long(),
    )
