"""Who picked which experts in a run: by layer and expert, and how that fell on the ranks.

load = read_load(counted, layout)
load.of_ranks                   # rows that each rank's experts had, over its layers
uneven(load.of_ranks)           # the busiest over the mean
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wirecut.engine.messages import Counted
from wirecut.layout.layout import Layout
from wirecut.layout.shards import even_cut, expert_tp

Picks = tuple[int, ...]  # of each expert


@dataclass(frozen=True, slots=True)
class Load:
    """Picks of each expert by layer, of layers that have experts; rows that each rank computed for
    them, in the order of ranks. Where replicas share experts: `copies` of rows sent, one for each
    rank that they went to, and the bytes there and back.
    """

    layers: tuple[Picks, ...]
    of_ranks: tuple[int, ...]
    copies: int
    dispatch_bytes: int
    combine_bytes: int

    @property
    def of_experts(self) -> Picks:
        """Picks of each expert number over all layers."""
        return tuple(map(sum, zip(*self.layers, strict=True)))


def read_load(counted: Mapping[int, Counted], layout: Layout) -> Load:
    """What all ranks counted, put together."""
    layers: list[Picks] = []
    of_ranks = [0] * layout.world_size
    for stage in range(layout.pp):
        ranks = layout.stage_ranks(stage)
        for by_rank in zip(*(counted[rank].experts.picks for rank in ranks), strict=True):
            layers.append(_sum(by_rank))
            for rank, rows in zip(ranks, _rows(layout, by_rank), strict=True):
                of_ranks[rank] += rows
    told = [each.experts for each in counted.values()]
    return Load(
        tuple(layers),
        tuple(of_ranks),
        sum(each.copies for each in told),
        sum(each.dispatch_bytes for each in told),
        sum(each.combine_bytes for each in told),
    )


def uneven(rows: Sequence[int]) -> float:
    """The most over the mean; 1 where there are none."""
    return max(rows) * len(rows) / sum(rows) if any(rows) else 1.0


def _rows(layout: Layout, by_rank: Sequence[Sequence[int]]) -> list[int]:
    """Rows that each rank of a stage had in one layer: picks of its experts, by the ranks of its
    own replica or, where replicas share experts, by all.
    """
    size = len(by_rank) if layout.shares_experts else layout.tp
    rows: list[int] = []
    for first in range(0, len(by_rank), size):
        picks = _sum(by_rank[first : first + size])
        cuts = [even_cut(len(picks), layout.ep, holder) for holder in range(layout.ep)]
        dealt = [sum(picks[low:high]) for low, high in cuts]
        rows += [dealt[place // expert_tp(layout)] for place in range(size)]
    return rows


def _sum(picks: Sequence[Sequence[int]]) -> Picks:
    return tuple(map(sum, zip(*picks, strict=True)))
