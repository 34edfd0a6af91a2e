"""Routed experts over the ranks that share them, against the same experts computed in one place."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from in_threads import in_threads, shared_groups
from wirecut.cost.exchange import Tokens
from wirecut.engine import worker
from wirecut.engine.exchange import ExpertComm, Experts
from wirecut.engine.trace import Off
from wirecut.errors import RankFailed
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.shards import expert_tp, holders, tensor_slice
from wirecut.sched.step import JOIN, Entry, Step
from wirecut.spec.tensor import column

HIDDEN, WIDE, TOP_K = 16, 12, 3
ROW_BYTES = 4 * HIDDEN


@dataclass(frozen=True)
class Part:
    """Experts `first` up to `last`, of each its columns in `columns`."""

    up_NWE: torch.Tensor
    down_NEW: torch.Tensor
    first: int
    last: int
    columns: slice

    def __call__(
        self, x_TE: torch.Tensor, weights_TK: torch.Tensor, picks_TK: torch.Tensor
    ) -> torch.Tensor:
        y_TE = torch.zeros_like(x_TE)
        for expert in range(self.first, self.last):
            up_TW = torch.relu(x_TE @ self.up_NWE[expert, self.columns].T)
            weight_T = torch.where(picks_TK == expert, weights_TK, 0).sum(1)
            y_TE += weight_T[:, None] * (up_TW @ self.down_NEW[expert][:, self.columns].T)
        return y_TE


def experts(count: int) -> Part:
    draw = torch.Generator().manual_seed(count)
    up = torch.randn(count, WIDE, HIDDEN, generator=draw)
    down = torch.randn(count, HIDDEN, WIDE, generator=draw)
    return Part(up, down, 0, count, slice(0, WIDE))


def held(whole: Part, layout: Layout, index: int) -> Part:
    """What rank `index` of a stage has, as `layout.shards` deals."""
    up = replace(column("up", "up", WIDE, HIDDEN, units=WIDE), experts=whole.last)
    dp_rank, tp_rank = divmod(index, layout.tp)
    cut = tensor_slice(
        up, tp=layout.tp, tp_rank=tp_rank, dp=layout.dp, dp_rank=dp_rank, ep=layout.ep
    )
    columns = slice(None) if cut.dim is None else slice(cut.start, cut.stop)
    return replace(whole, first=cut.first_expert, last=cut.last_expert, columns=columns)


@dataclass(frozen=True)
class Rank:
    """One rank of a stage: its experts' communication, and the layer over it."""

    comm: ExpertComm
    layer: Experts


def stage_of(
    layout: Layout, whole: Part, *, slot_bytes: int = 4096, deadline_s: float = 20
) -> list[Rank]:
    ranks: list[Rank] = []
    groups = shared_groups(layout.dp * layout.tp, slot_bytes=slot_bytes, deadline_s=deadline_s)
    for index, group in enumerate(groups):
        transport = group if layout.shares_experts else None
        comm = ExpertComm(layout, index=index, transport=transport)
        layer = comm.over(
            held(whole, layout, index),
            experts=whole.last,
            top_k=TOP_K,
            hidden=HIDDEN,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        ranks.append(Rank(comm, layer))
    return ranks


def batch(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, and for each its picks among `count` experts."""
    draw = torch.Generator().manual_seed(seed)
    picks = torch.rand(rows, count, generator=draw).topk(TOP_K).indices
    return torch.randn(rows, HIDDEN, generator=draw), torch.rand(rows, TOP_K, generator=draw), picks


LAYOUTS = (
    "dp2ep2",
    "tp2ep2",
    "tp3ep3",
    "dp3ep3",
    "tp2dp2ep2",
    "tp2dp2ep4",
    "dp4ep2",
    "tp2dp3ep3",
    "dp4ep4",
    "tp3dp2ep6",
    "tp4dp2ep8",
    "tp4dp2ep2",
    "tp2",
    "tp2dp2ep1",
)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("count", [8, 11])
def test_as_if_all_were_in_one_place(name: str, count: int) -> None:
    """Also where experts are dealt unevenly, and where replicas have other numbers of rows."""
    layout, whole = parse_layout(name), experts(count)
    ranks = stage_of(layout, whole)
    inputs = [batch((5, 0, 13, 1)[replica], count, replica) for replica in range(layout.dp)]

    def work(index: int) -> torch.Tensor:
        return ranks[index].layer(*inputs[index // layout.tp])

    parts = in_threads(len(ranks), work)
    for replica, given_ in enumerate(inputs):
        summed = sum(parts[replica * layout.tp : (replica + 1) * layout.tp])
        torch.testing.assert_close(summed, whole(*given_))
    picked = sum(torch.tensor(rank.comm.counted().picks[0]) for rank in ranks)
    picks = torch.cat([picks.flatten() for _, _, picks in inputs])
    assert torch.equal(picked, picks.bincount(minlength=count))


@given(data=st.data(), name=st.sampled_from([n for n in LAYOUTS if parse_layout(n).shares_experts]))
@settings(deadline=None, max_examples=30)
def test_no_row_is_lost_and_none_is_sent_twice(data: st.DataObject, name: str) -> None:
    """Each goes once to every rank that has one of its experts, whatever the others have."""
    layout, count = parse_layout(name), data.draw(st.integers(parse_layout(name).ep, 13))
    count = max(count, TOP_K)
    whole, dealt = experts(count), holders(count, layout.ep)
    ranks = stage_of(layout, whole, slot_bytes=data.draw(st.sampled_from([256, 4096])))
    rows = data.draw(st.lists(st.integers(0, 20), min_size=layout.dp, max_size=layout.dp))
    inputs = [batch(n, count, data.draw(st.integers(0, 99))) for n in rows]

    def work(index: int) -> torch.Tensor:
        rank, given_ = ranks[index], inputs[index // layout.tp]
        if len(given_[0]) == 0:
            rank.comm.join()
            return given_[0]
        return rank.layer(*given_)

    parts = in_threads(len(ranks), work)
    for replica, given_ in enumerate(inputs):
        summed = sum(parts[replica * layout.tp : (replica + 1) * layout.tp])
        torch.testing.assert_close(summed, whole(*given_))
    wanted = [len({dealt[e] for e in row}) for _, _, picks in inputs for row in picks.tolist()]
    copies = sum(wanted) * expert_tp(layout)
    counted = [rank.comm.counted() for rank in ranks]
    assert sum(one.copies for one in counted) == copies
    assert sum(one.dispatch_bytes for one in counted) == copies * (ROW_BYTES + 8 * TOP_K)
    assert sum(one.combine_bytes for one in counted) == copies * ROW_BYTES
    assert [rank.comm.count.calls for rank in ranks] == [2] + [0] * (len(ranks) - 1)


def test_as_many_copies_as_the_cost_model_expects_of_random_picks() -> None:
    layout, count, rows = parse_layout("dp4ep4"), 16, 4000
    ranks = stage_of(layout, experts(count), slot_bytes=1 << 20)
    inputs = [batch(rows, count, seed) for seed in range(4)]
    in_threads(4, lambda index: ranks[index].layer(*inputs[index]))
    copies = sum(rank.comm.counted().copies for rank in ranks) / (4 * rows)
    assert copies == pytest.approx(Tokens(1, TOP_K, count, 4).reached(4), rel=0.01)


class OneLayer(worker.Rank):
    """A rank of the engine whose steps are one layer of experts."""

    def __init__(self, rank: Rank) -> None:
        self.log, self.joined = Off(), 0
        self.wires = SimpleNamespace(experts=rank.comm)
        self._layer = rank.layer

    def _forward(self, entries: tuple[Entry, ...]) -> None:
        self._layer(*batch(len(entries), 8, 0))


def test_an_exchange_that_others_do_not_come_to_is_named_with_its_step() -> None:
    layout = parse_layout("dp2ep2")
    for rank in (0, 1):
        mine = OneLayer(stage_of(layout, experts(8), deadline_s=0.2)[rank])
        late = rf"rank {1 - rank} \(test: all-to-all number 1\) did not come"
        with pytest.raises(RankFailed, match=f"^step 7: {late}"):
            mine.forward(Step(7, (Entry(0, 0, (1,), (0,), True),)))
        with pytest.raises(RankFailed, match=r"^a step of other replicas: rank"):
            mine.forward(JOIN)
