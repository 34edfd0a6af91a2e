"""Tokens to their experts and back: by hand, as properties, and beside published measurements."""

import random
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import bundled, on_gpus, replica_of
from wirecut.cost.collectives import collective_price
from wirecut.cost.engines import ENGINES
from wirecut.cost.exchange import EXCHANGES, Tokens, exchange_of, exchange_prices
from wirecut.cost.forward import Batch
from wirecut.cost.kernels_experts import rank_load, routed
from wirecut.cost.pace import chunk_batch
from wirecut.cost.rates import rate_of
from wirecut.cost.step import price_forward
from wirecut.cost.step_wires import wires
from wirecut.cost.work import Routed
from wirecut.errors import UsageError
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.typed import typed_fabric

QWEN_MOE, QWEN_BIG = "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B"
H100, NODES = "8xH100-SXM:nvswitch", "4x8xH100-SXM:nvswitch:ib-400x8"
NAMES = st.sampled_from(sorted(EXCHANGES))


def deepseek(rows: float, ranks: int) -> Tokens:
    """DeepSeek-V3's: 8 of 256 experts, 7,168 wide."""
    return Tokens(rows, 8, 256, ranks)


def both(
    fabric: Fabric, tokens: Tokens, exchange: str, sent: float = 7168 * 1.03
) -> tuple[float, float]:
    group = range(tokens.holders)
    there, back = exchange_prices(fabric, group, tokens, sent, 2 * 7168, exchange=exchange)
    return there.seconds, back.seconds


# ---- copies


def test_ranks_that_a_token_goes_to():
    """8 of 16 experts on 4 ranks: C(12, 8) of C(16, 8) choices leave a rank out."""
    tokens = Tokens(1, top_k=8, experts=16, holders=4)
    assert tokens.reached(4) == pytest.approx(4 * (1 - comb(12, 8) / comb(16, 8)))
    assert Tokens(1, 8, 8, 8).reached(8) == 8  # all are chosen
    assert Tokens(1, 1, 64, 8).reached(8) == pytest.approx(1)


def test_ranks_that_a_token_goes_to_are_those_of_random_choices():
    pick, times = random.Random(0), 20_000
    ranks = sum(len({e // 32 for e in pick.sample(range(256), 8)}) for _ in range(times)) / times
    assert deepseek(1, 8).reached(8) == pytest.approx(ranks, rel=0.01)


@given(top_k=st.integers(1, 16), each=st.integers(1, 32), parts=st.integers(2, 64))
def test_no_more_ranks_than_experts_or_ranks(top_k: int, each: int, parts: int):
    experts = each * parts
    chosen = min(top_k, experts)
    reached = Tokens(1, chosen, experts, parts).reached(parts)
    assert 1 - 1e-9 <= reached <= min(chosen, parts) + 1e-9


# ---- properties


@given(name=NAMES)
def test_one_rank_sends_nothing(name: str):
    alone = exchange_prices(
        typed_fabric(H100), (3,), Tokens(4096, 8, 256, 1), 7168, 14336, exchange=name
    )
    assert [price.seconds for price in alone] == [0.0, 0.0]


@given(
    name=NAMES,
    wires=st.sampled_from([H100, NODES, "8xL40S:pcie4", "2x4xGB200:nvswitch:mnnvl"]),
    rows=st.floats(1, 128),
    more=st.floats(1.01, 50),
)
@settings(deadline=None)
def test_more_tokens_take_longer(name: str, wires: str, rows: float, more: float):
    fabric = typed_fabric(wires)
    ranks = len(fabric.devices)
    few, many = (both(fabric, deepseek(r, ranks), name) for r in (rows, rows * more))
    assert sum(few) < sum(many) * (1 + 1e-9)
    assert min(few) > 0


@given(rows=st.floats(1, 16384), load=st.floats(1, 4), name=NAMES)
@settings(deadline=None)
def test_the_busiest_rank_is_waited_for(rows: float, load: float, name: str):
    """All tokens to all ranks is the same for all ranks; what is routed is not."""
    fabric, even = typed_fabric(H100), deepseek(rows, 8)
    level, uneven = (both(fabric, one, name) for one in (even, replace(even, load=load)))
    assert sum(level) <= sum(uneven) * (1 + 1e-9)
    if name == "all-gather":
        assert level == uneven
    elif rows > 4096 and load > 2:
        assert sum(uneven) > 1.5 * sum(level)


@given(rows=st.integers(64, 8192), top_k=st.integers(1, 4))
@settings(deadline=None)
def test_sparse_is_cheaper_where_few_of_many_ranks_are_chosen(rows: int, top_k: int):
    fabric, tokens = typed_fabric(NODES), Tokens(rows, top_k, 256, 32)
    whole = sum(both(fabric, tokens, "all-gather", 14336))
    for name in ("all-to-all", "deepep"):
        assert sum(both(fabric, tokens, name, 14336)) < whole


@given(rows=st.floats(1, 8192), name=st.sampled_from(["all-gather", "all-to-all", "deepep"]))
@settings(deadline=None)
def test_a_network_is_slower(rows: float, name: str):
    inside, between = typed_fabric(H100), typed_fabric("2x4xH100-SXM:nvswitch:ib-400x4")
    tokens = deepseek(rows, 8)
    assert sum(both(inside, tokens, name)) < sum(both(between, tokens, name))


# ---- which way


def test_kernels_need_their_wires():
    """No DeepEP over PCIe, over Ethernet, between AMD's, or where ranks share an expert."""
    for text in ("8xL40S:pcie4", "2x8xH100-SXM:nvswitch:100gbe", "8xMI300X"):
        fabric = typed_fabric(text)
        tokens = deepseek(256, len(fabric.devices))
        for name in ("deepep", "one-sided"):
            assert both(fabric, tokens, name) == both(fabric, tokens, "all-gather")
    cut, group = Tokens(256, 8, 256, 4), range(8)
    shared = [
        exchange_prices(typed_fabric(H100), group, cut, 7168, 14336, exchange=name)[0].seconds
        for name in ("deepep", "all-gather")
    ]
    assert shared[0] == shared[1]


def test_what_is_said():
    fabric = typed_fabric(NODES)

    def words(rows: float, name: str) -> str:
        tokens = deepseek(rows, 32)
        there, _ = exchange_prices(fabric, range(32), tokens, 7168, 14336, exchange=name)
        return there.because

    assert words(32, "deepep").startswith("DeepEP low latency: ")
    assert words(4096, "deepep").startswith("DeepEP: ")
    assert words(4096, "one-sided").startswith("DeepEP: ")  # NVLink ends at the box
    assert "over ib" in words(4096, "deepep")
    with pytest.raises(UsageError, match="no exchange 'pigeon'; there are all-gather"):
        exchange_of("pigeon")


def test_every_runtime_has_a_way():
    assert {engine.exchange for engine in ENGINES.values()} <= set(EXCHANGES)


def test_runtimes_exchange_as_they_do():
    """vLLM gathers all tokens; wirecut sends what is routed, and waits for the busiest rank."""
    batch, layers = chunk_batch(4096, 4096), 48
    load, tokens = rank_load(128, 16), Tokens(4096, 8, 128, 8)
    for engine, op, copies, picks in (
        ("vllm", "all_gather", 8.0, 0),
        ("wirecut", "all_to_all", load * tokens.reached(8), 8 * 8),
    ):
        pricing = on_gpus(QWEN_MOE, "8xH100-SXM", engine)
        num_bytes = 4096 * copies * (pricing.spec.hidden * 2 + picks)
        one = collective_price(
            pricing.fabric, op, range(8), num_bytes, library=pricing.engine.library
        )
        found = price_forward(replica_of(pricing, "dp8ep8"), batch)
        (dispatch,) = (piece for piece in found.pieces if piece.name == "dispatch")
        assert dispatch.seconds == pytest.approx(layers * one.seconds)


def test_dispatch_in_eight_bits_only_where_weights_are():
    def dispatch(model: str) -> float:
        replica = replica_of(on_gpus(model, "8xH200-SXM", "sglang"), "dp8ep8")
        found = wires(replica, 0, chunk_batch(8192, 8192))
        return next(line.price.seconds for line in found if line.name == "dispatch")

    assert bundled(QWEN_BIG).hidden == bundled(QWEN_BIG + "-FP8").hidden
    assert dispatch(QWEN_BIG + "-FP8") < 0.75 * dispatch(QWEN_BIG)


# ---- load


def test_the_busiest_rank_computes_longer():
    """Of a long prompt, by its rows; of one token, by the same experts: not at all."""
    h100 = typed_fabric("8xH100-SXM").devices[0]
    rate = rate_of(h100, "bf16", kv="bf16")
    part = Routed(16, 128, 8, 4096, 1536, True, "bf16", 16 * 3 * 4096 * 1536 * 2.0)
    whole = replace(part, here=128, weight_bytes=8 * part.weight_bytes)
    load = rank_load(128, 16)
    assert 1.2 < load < 1.7
    assert rate.routed_s(part, 65536) > 0.9 * load * rate.routed_s(whole, 65536) / 8
    assert rate.routed_s(part, 1) < 1.3 * rate.routed_s(whole, 1)


@given(tokens=st.integers(1, 8192), load=st.floats(1, 4))
def test_a_loaded_rank_has_more_rows_of_as_many_experts(tokens: int, load: float):
    mean, busy = (routed(tokens, 16, 128, 8, load=x) for x in (1.0, load))
    assert busy.touched == mean.touched
    assert mean.pairs <= busy.pairs <= load * mean.pairs * (1 + 1e-9)


# ---- as published: SGLang's and TensorRT-LLM's runs, in us (dispatch, combine)


@pytest.mark.parametrize(
    ("fabric", "rows", "measured"),
    [
        (H100, 1, (13.2, 14.4)),
        (H100, 64, (24.6, 40.3)),
        (H100, 128, (36.7, 67.2)),
        (H100, 4096, (492, 983)),
        (H100, 65536, (7897, 13534)),
        ("8xB200-SXM:nvswitch", 8192, (977, 1644)),
        ("4xGB200:nvswitch", 128, (27, 36)),
        ("2x8xH100-SXM:nvswitch:ib-400x8", 64, (58, 102)),
        (NODES, 32, (55.7, 86.4)),
        (NODES, 128, (143, 263)),
        (NODES, 4096, (1860, 3634)),
        ("8x8xH100-SXM:nvswitch:ib-400x8", 128, (167, 305)),
    ],
)
def test_measured_deepep(fabric: str, rows: int, measured: tuple[float, float]):
    wires = typed_fabric(fabric)
    found = both(wires, deepseek(rows, len(wires.devices)), "deepep")
    assert sum(found) * 1e6 == pytest.approx(sum(measured), rel=0.25)


def test_measured_deepep_of_narrow_tokens():
    """2,048 wide: to handle a copy takes longer than its bytes do. H100's are a quarter faster."""
    found = exchange_prices(
        typed_fabric("8xB200-SXM:nvswitch"),
        range(8),
        Tokens(16384, 8, 128, 8),
        2048 * 1.03,
        2 * 2048,
        exchange="deepep",
    )
    for price, microseconds in zip(found, (1171, 1507), strict=True):
        assert price.seconds * 1e6 == pytest.approx(microseconds, rel=0.15)


@pytest.mark.parametrize(
    ("nodes", "rows", "measured"),
    [
        (1, 1, (14.9, 17.1)),
        (1, 65536, (1192, 4183)),
        (2, 1024, (64.2, 189.3)),
        (8, 256, (32.8, 68.5)),
        (8, 20480, (1017.7, 3462)),
    ],
)
def test_measured_one_sided(nodes: int, rows: int, measured: tuple[float, float]):
    """Balanced: a token's 8 experts are on as many ranks as there are, at most 8."""
    inter = ":mnnvl" if nodes > 1 else ""
    wires, ranks = typed_fabric(f"{nodes}x4xGB200:nvswitch{inter}"), 4 * nodes
    found = both(wires, Tokens(rows, min(8, ranks), ranks, ranks), "one-sided", 7168 * 0.5625)
    for seconds, microseconds in zip(found, measured, strict=True):
        assert seconds * 1e6 == pytest.approx(microseconds, rel=0.15)


def test_bytes_over_the_wire_bound_it():
    """No exchange is faster than what crosses at the raw rate of NVLink."""
    fabric, raw = typed_fabric(H100), find_device("H100-SXM").link_bytes_per_s
    for rows in (16, 1024, 65536):
        crossing = rows * deepseek(rows, 8).reached(8) * 7 / 8 * 14336
        for name in EXCHANGES:
            assert both(fabric, deepseek(rows, 8), name)[1] > crossing / raw


def test_decode_of_a_step_waits_for_both_ways():
    replica = replica_of(on_gpus(QWEN_MOE, "8xH100-SXM", "sglang"), "dp8ep8")
    lines = {line.name: line for line in wires(replica, 0, Batch(decodes=64, context=1000))}
    assert lines["dispatch"].calls == lines["combine"].calls == 48
    assert min(line.price.seconds for line in lines.values()) > 10e-6
