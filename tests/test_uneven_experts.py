"""Experts that EP does not divide: who holds them, what that takes, and which engines can."""

import pytest

from pricing import bundled, candidate_of, on_gpus
from wirecut.cost.memory import RankSizes
from wirecut.cost.work import layer_work
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.rules import ANY_ENGINE, OWN_ENGINE, why_not
from wirecut.layout.shards import even_cut, holders, rank_bytes
from wirecut.spec.traffic import Traffic

MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def test_every_expert_has_one_holder_and_none_has_two_more_than_another():
    for experts in (5, 8, 60, 128):
        for ep in range(1, experts + 1):
            found = holders(experts, ep)
            assert found == sorted(found)
            assert set(found) == set(range(ep))
            counts = [found.count(holder) for holder in range(ep)]
            assert max(counts) - min(counts) <= 1
            assert counts[0] == max(counts)
            assert counts == [b - a for a, b in (even_cut(experts, ep, i) for i in range(ep))]


def test_only_an_engine_that_deals_whole_experts_takes_it():
    spec = bundled(MIXTRAL)
    for layout in ("dp3ep3", "tp3dp2ep6", "tp2dp3ep3"):
        assert why_not(spec, parse_layout(layout), 8, OWN_ENGINE) is None
    said = why_not(spec, parse_layout("dp3ep3"), 8, ANY_ENGINE)
    assert said == "ep 3 does not divide 8 experts"
    said = why_not(spec, parse_layout("dp9ep9"), 9, OWN_ENGINE)
    assert said == "ep 9 is more than the 8 experts"


@pytest.mark.parametrize("name", ["dp3ep3", "tp2dp3ep3", "tp3ep3", "tp2dp3ep6"])
def test_the_rank_with_the_most_experts_is_the_one_that_is_priced(name: str):
    spec, layout = bundled(MIXTRAL), parse_layout(name)
    stages = ((0, spec.num_layers),)
    held = [
        rank_bytes(spec, stages, layout, stage=0, tp_rank=tp, dp_rank=dp)
        for dp in range(layout.dp)
        for tp in range(layout.tp)
    ]
    alike = Layout(tp=layout.tp, dp=layout.dp, ep=layout.ep)
    priced = RankSizes.of(spec, alike, tp_rank=0, kv=spec.dtype)
    found = priced.weight_bytes(stages[0], is_first=True, is_last=True)
    assert found == pytest.approx(max(held), rel=1e-5)  # it has no more of the vocabulary
    routed = layer_work(spec, spec.layers[0], layout).routed
    assert routed is not None
    assert routed.here == -(-8 // layout.ep)


def test_such_a_cut_has_a_price():
    pricing, traffic = on_gpus(MIXTRAL, "8xH200-SXM", "wirecut"), Traffic(512, 64, concurrency=12)
    assert candidate_of(pricing, "dp3ep3", traffic).cut.layout.ep == 3
