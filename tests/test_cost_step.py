"""One forward by hand, on cores."""

from dataclasses import replace

import pytest

from fabrics import FAST, SLOW, big_model, fabric, model
from pricing import BARE, US, priced, terms_of
from wirecut.cost.engines import Steps
from wirecut.cost.estimate import estimate
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.spec.traffic import Traffic


def test_decode_on_one_device():
    # 4 x 36 864 elements x 2 B = 294 912 B; head 64 000 x 2 B; KV 256 x 2 B a token, 105 tokens; 1
    # GB/s attention 4 FLOP x 4 layers x 64 x 105 / 1 TFLOP/s
    one = priced("tp1", Traffic(100, 10))
    terms = terms_of(one, "decode")
    assert terms["weights"] == pytest.approx(294.912 * US)
    assert terms["LM head"] == pytest.approx(128 * US)
    assert terms["KV cache"] == pytest.approx(53.76 * US)
    assert terms["attention"] == pytest.approx(0.10752 * US)
    assert one.tpot_s == pytest.approx(476.77952 * US)
    assert one.bubble_fraction == pytest.approx(0)


def test_prefill_on_one_device():
    # compute bound: 2 FLOP x 147 456 x 4 000 / 1 TFLOP/s; the head sees one row; attention reads
    # 512 B of each token once and sees 2,000 keys a token
    one = priced("tp1", Traffic(4000, 1), limits=Limits(max_batched_tokens=4000))
    terms = terms_of(one, "prefill")
    assert terms["weights"] == pytest.approx(2 * 147_456 * 4000 / 1e12)
    assert terms["LM head"] == pytest.approx(128 * US)
    read, computed = 4000 * 512 / 1e9, 4 * 256 * 4000 * 4001 / 2 / 1e12
    assert terms["attention"] == pytest.approx(read + computed, rel=1e-3)


def test_tensor_parallel_decode():
    # half of everything streamed; 9 all-reduces of 128 B: 2 steps x (10 us + 64 B / 1 GB/s);
    # gather 1000 x 2 B: one send of 1000 B; the step message here is empty: its latency
    terms = terms_of(priced("tp2", Traffic(100, 10)), "decode")
    assert terms["weights"] == pytest.approx(147.456 * US)
    assert terms["LM head"] == pytest.approx(64 * US)
    assert terms["KV cache"] == pytest.approx(26.88 * US)
    assert terms["all-reduce"] == pytest.approx(9 * 2 * 10.064 * US)
    assert terms["logits gather"] == pytest.approx(11 * US)
    assert terms["step message"] == pytest.approx(10 * US)


def test_pipeline_decode():
    # one request: the way is both stages, a hand-off of 128 B and an empty way back; half of the
    # stages idle
    one = priced("pp2", Traffic(100, 10))
    terms = terms_of(one, "decode")
    assert terms["hand-off"] == pytest.approx(10.128 * US)
    assert terms["tokens back"] == pytest.approx(10 * US)
    assert terms["weights"] == pytest.approx(294.912 * US / 2)
    assert one.tpot_s == pytest.approx((476.77952 + 20.128) * US)
    assert terms["bubble"] == pytest.approx(476.77952 * US / 2)
    assert one.bubble_fraction == pytest.approx(1 - 476.77952 / 2 / 496.90752)


def test_a_full_pipeline_waits_for_its_slowest_stage():
    # 8 layers on 3 stages (3, 3, 2), nothing but weights counts: 6 requests make 3 batches in
    # flight
    spec = model(num_hidden_layers=8, vocab_size=1)
    wires = fabric(3, latency_s=0.0, bytes_per_s=1e15)
    pricing = Pricing(spec, wires, dtype="bf16", engine=BARE)
    cut = Cut(Layout(pp=3), (0, 1, 2), ((0, 3), (3, 6), (6, 8)))
    one = estimate(pricing, cut, Traffic(1, 1000, concurrency=6))
    assert isinstance(one, Estimate)
    layer_s = 73_728 * 1e-9
    terms = terms_of(one, "decode")
    assert terms["weights"] == pytest.approx(8 * layer_s)
    work = sum(terms[name] for name in ("weights", "LM head", "KV cache", "attention"))
    assert terms["bubble"] == pytest.approx(9 / 8 * work - work, rel=1e-3)
    assert one.bubble_fraction == pytest.approx(1 - 8 / 9, rel=1e-3)


def test_launches_are_counted_from_the_profile():
    steps = Steps(ops_per_layer=5, step_ops=7, ops_per_sequence=2, request_ops=9)
    engine, wires = replace(BARE, steps=steps), fabric(1, launch_s=US)
    one = priced("tp1", Traffic(100, 1000, concurrency=4), wires=wires, engine=engine)
    terms = terms_of(one, "decode")
    assert terms["launches"] == pytest.approx(4 * 5 * US)
    assert terms["step"] == pytest.approx((7 + 2 * 4) * US)
    assert terms_of(one, "prefill")["request"] == pytest.approx(9 * US)


def test_a_later_stage_has_a_step_of_its_own_and_large_weights_leave_it_cold():
    """Operations between steps: 7 on the first stage, 5 on the second, cold after 1 MB of weights
    (two working sets were measured, of 1 kB and of 100 kB)."""
    engine = replace(BARE, steps=Steps(step_ops=7, stage_ops=5))
    points = tuple(MatrixPoint("bf16", 1, size, size * 1e-9) for size in (1000, 100_000))
    wires = fabric(2, launch_s=US, points=points)
    cold = replace(wires, devices=tuple(replace(d, launch_cold_s=3 * US) for d in wires.devices))
    traffic = Traffic(100, 10, concurrency=2)
    for layout, ops in (("tp1", 7), ("pp2", 7 + 5)):
        warm = terms_of(priced(layout, traffic, wires=wires, engine=engine), "decode")["step"]
        after = terms_of(priced(layout, traffic, wires=cold, engine=engine), "decode")["step"]
        assert after == pytest.approx(3 * warm)
        assert warm == pytest.approx(ops * US, rel=0.5)


def test_tensor_parallel_gains_on_fast_wires_and_loses_on_slow_ones():
    spec, traffic = big_model(), Traffic(100, 100)
    for wires, tp_wins in ((fabric(2, **FAST), True), (fabric(2, **SLOW), False)):
        tp2 = priced("tp2", traffic, spec=spec, wires=wires)
        pp2 = priced("pp2", traffic, spec=spec, wires=wires)
        assert (tp2.tpot_s < pp2.tpot_s) == tp_wins


def test_the_slowest_of_unequal_wires_counts():
    wires = fabric(4)
    slow = tuple(
        type(link)(link.a, link.b, "shm", 1e-3, 1e9, "measured") if link.b == 3 else link
        for link in wires.links
    )
    mixed = Fabric(wires.devices, slow, wires.islands, wires.made)
    tp2dp2 = terms_of(priced("tp2dp2", Traffic(100, 10), wires=mixed), "decode")
    assert tp2dp2["all-reduce"] == pytest.approx(9 * 2 * (1e-3 + 64e-9))
