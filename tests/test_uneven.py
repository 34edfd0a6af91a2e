"""Ranks that get unlike parts of a layer: 8 key-value groups over ranks that do not divide them,
and over ranks whose shares the cut says.
"""

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parity
from fabrics import big_model, fabric
from models import write_model
from wirecut.cost.engines import engine_profile
from wirecut.cost.memory import RankSizes
from wirecut.cost.replica import Pricing
from wirecut.explain.words import layout_in_words
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.rules import why_not_shares
from wirecut.layout.shards import cut_by_shares, rank_bytes, tensor_slice
from wirecut.planner.plan import plan
from wirecut.planner.plan_file import to_json, to_plan_file
from wirecut.planner.sharing import deal, shares_for
from wirecut.spec.traffic import Traffic

TRAFFIC = Traffic(input_tokens=64, output_tokens=64, concurrency=1)


@pytest.fixture(scope="module")
def eight_groups(tmp_path_factory: pytest.TempPathFactory) -> parity.Reference:
    folder = write_model(
        tmp_path_factory.mktemp("eight"),
        hidden=64,
        layers=2,
        heads=16,
        kv_heads=8,
        intermediate=151,
        vocab=323,
        positions=512,
        dtype=torch.float32,
        seed=3,
    )
    return parity.reference(folder)


@pytest.mark.parametrize("tp", [3, 5, 6, 7])
def test_ranks_that_do_not_divide_the_groups(eight_groups: parity.Reference, tp: int) -> None:
    parity.check(parity.run_cell(eight_groups, Layout(tp=tp)))


@pytest.mark.parametrize(
    ("layout", "shares"), [(Layout(tp=2), (5, 3)), (Layout(tp=3, pp=2), (1, 5, 2))], ids=str
)
def test_shares_that_the_cut_says(
    eight_groups: parity.Reference, layout: Layout, shares: tuple[int, ...]
) -> None:
    parity.check(parity.run_cell(eight_groups, layout, shares=shares))


@given(st.integers(1, 300), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_shares_cover_everything_in_proportion(length: int, dealt: list[int]) -> None:
    parts = [cut_by_shares(length, len(dealt), i, tuple(dealt)) for i in range(len(dealt))]
    assert (parts[0][0], parts[-1][1]) == (0, length)
    assert all(one[1] == other[0] for one, other in pairwise(parts))
    for (first, last), share in zip(parts, dealt, strict=True):
        assert abs((last - first) - length * share / sum(dealt)) < 1


def test_what_a_rank_holds_is_priced_as_it_is_cut() -> None:
    """Heads by whole groups, the MLP in the same proportion, the vocabulary evenly."""
    spec, layout, shares = big_model(), Layout(tp=2), (5, 3)
    own = {
        tensor.name.rpartition(".layers.0.")[2]: tensor_slice(
            tensor, tp=2, tp_rank=0, shares=shares
        )
        for tensor in spec.tensors
        if tensor.layer in (0, None)
    }
    assert own["self_attn.q_proj.weight"].stop == 1024 * 5 // 8
    assert own["self_attn.k_proj.weight"].stop == 512 * 5 // 8
    assert own["mlp.down_proj.weight"].stop == 2816 * 5 // 8
    assert own["model.embed_tokens.weight"].stop == spec.vocab // 2
    for rank in (0, 1):
        sizes = RankSizes.of(spec, layout, tp_rank=rank, kv="bf16", shares=shares)
        whole = ((0, spec.num_layers),)
        held = rank_bytes(spec, whole, layout, stage=0, tp_rank=rank, shares=shares)
        assert sizes.weight_bytes(whole[0], is_first=True, is_last=True) == held


def test_shares_that_cannot_be_are_refused() -> None:
    spec = big_model()
    assert why_not_shares(spec, Layout(tp=2), (5, 3)) is None
    assert "1+9" in (why_not_shares(spec, Layout(tp=2), (1, 9)) or "")
    with pytest.raises(ValueError, match="one of at least 1 for each"):
        Cut(Layout(tp=2), (0, 1), ((0, 8),), (5, 3, 1))


@pytest.mark.parametrize(
    ("speeds", "dealt"),
    [([1.0, 1.0], (4, 4)), ([5.0, 3.0], (5, 3)), ([100.0, 1.0], (7, 1)), ([2.0, 1.0], (6, 2))],
)
def test_groups_go_to_the_faster_rank(speeds: list[float], dealt: tuple[int, ...]) -> None:
    assert deal(8, speeds) == dealt


def test_a_plan_over_unequal_devices_deals_unequal_shares() -> None:
    """Two devices, one 5 / 3 as fast: with 5 + 3 both stream their part in the same time."""
    equal = fabric(2, device_bytes_per_s=3e9, bytes_per_s=1e11, latency_s=1e-6)
    fast = replace(equal.devices[0], bytes_per_s=5e9)
    unequal = replace(equal, devices=(fast, equal.devices[1]))
    pricing = Pricing(big_model(), unequal, dtype="bf16")
    chosen = plan(pricing, TRAFFIC, goal="latency").chosen
    assert (chosen.layout, chosen.shares, chosen.placement) == ("tp2", (5, 3), (0, 1))
    assert "cut over 2 devices as 5 + 3" in layout_in_words(chosen)
    alike = plan(Pricing(big_model(), equal, dtype="bf16"), TRAFFIC, goal="latency").chosen
    assert alike.shares == ()
    assert chosen.tpot_s < 0.9 * alike.tpot_s
    other = Pricing(big_model(), unequal, dtype="bf16", engine=engine_profile("vllm"))
    assert shares_for(other, Layout(tp=2), (0, 1)) == ()


def test_a_plan_file_carries_the_shares() -> None:
    equal = fabric(2, device_bytes_per_s=3e9, bytes_per_s=1e11, latency_s=1e-6)
    fast = replace(equal.devices[0], bytes_per_s=5e9)
    pricing = Pricing(big_model(), replace(equal, devices=(fast, equal.devices[1])), dtype="bf16")
    ranking = plan(pricing, TRAFFIC, goal="latency")
    made = to_plan_file(ranking, pricing, traffic=TRAFFIC, model="here")
    assert made.cut() == ranking.chosen.cut
    without = {name: value for name, value in to_json(ranking.chosen).items() if name != "shares"}
    assert msgspec.structs.replace(made, chosen=without).cut().shares == ()
