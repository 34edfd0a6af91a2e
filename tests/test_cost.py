"""Prices against numbers computed by hand, and the sums that every estimate keeps."""

import itertools
import math
from dataclasses import replace

import pytest

from fabrics import FAST, SLOW, big_model, fabric, model
from wirecut.cost.compute import MatrixRate
from wirecut.cost.engines import EngineProfile, engine_profile
from wirecut.cost.estimate import estimate
from wirecut.cost.memory import RankSizes
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected, Term, half_width, intervals, time_width
from wirecut.cost.wire import WireCount, wire_traffic
from wirecut.errors import FabricError, UsageError
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import shard_elements
from wirecut.planner.space import cut_for
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic

BARE = EngineProfile(
    name="bare",
    ops_per_layer=0,
    ops_per_sequence_layer=0,
    step_ops=0,
    stage_ops=0,
    ops_per_sequence=0,
    request_ops=0,
    min_chunk_tokens=10**9,
    block_tokens=1,
    message_bytes=0,
)
US = 1e-6


def price(
    layout: str,
    traffic: Traffic,
    *,
    spec: ModelSpec | None = None,
    wires: Fabric | None = None,
    limits: Limits | None = None,
    engine: EngineProfile = BARE,
) -> Estimate | Rejected:
    pricing = Pricing(
        spec or model(), wires or fabric(8), dtype="bf16", limits=limits, engine=engine
    )
    return estimate(pricing, cut_for(pricing, parse_layout(layout), context=100.0), traffic)


def priced(layout: str, traffic: Traffic, **options: object) -> Estimate:
    outcome = price(layout, traffic, **options)  # type: ignore[arg-type]
    assert isinstance(outcome, Estimate)
    return outcome


def terms_of(estimate: Estimate, phase: str) -> dict[str, float]:
    return {term.name: term.seconds for term in estimate.terms if term.phase == phase}


def test_decode_on_one_device_by_hand():
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


def test_prefill_on_one_device_by_hand():
    # compute bound at 10 000 rows: 2 FLOP x 147 456 x 10 000 / 1 TFLOP/s; the head sees one row
    one = priced("tp1", Traffic(4000, 1), limits=Limits(max_batched_tokens=4000))
    terms = terms_of(one, "prefill")
    assert terms["weights"] == pytest.approx(2 * 147_456 * 4000 / 1e12)
    assert terms["LM head"] == pytest.approx(128 * US)
    assert terms["attention"] == pytest.approx(4 * 256 * 4000 * 4001 / 2 / 1e12)


def test_tensor_parallel_decode_by_hand():
    # half of everything streamed; 9 all-reduces of 128 B: 2 steps x (10 us + 64 B / 1 GB/s);
    # gather 1000 x 2 B: one send of 1000 B; the step message here is empty: its latency
    terms = terms_of(priced("tp2", Traffic(100, 10)), "decode")
    assert terms["weights"] == pytest.approx(147.456 * US)
    assert terms["LM head"] == pytest.approx(64 * US)
    assert terms["KV cache"] == pytest.approx(26.88 * US)
    assert terms["all-reduce"] == pytest.approx(9 * 2 * 10.064 * US)
    assert terms["logits gather"] == pytest.approx(11 * US)
    assert terms["step message"] == pytest.approx(10 * US)


def test_pipeline_decode_by_hand():
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


def test_full_pipeline_waits_for_its_slowest_stage():
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
    engine = replace(
        BARE,
        ops_per_layer=5,
        ops_per_sequence_layer=3,
        step_ops=7,
        ops_per_sequence=2,
        request_ops=9,
    )
    one = priced(
        "tp1", Traffic(100, 10, concurrency=4), wires=fabric(1, launch_s=US), engine=engine
    )
    terms = terms_of(one, "decode")
    assert terms["launches"] == pytest.approx(4 * (5 + 3 * 4) * US)
    assert terms["step"] == pytest.approx((7 + 2 * 4) * US)
    assert terms_of(one, "prefill")["request"] == pytest.approx(9 * US)


def test_a_later_stage_has_a_step_of_its_own_and_large_weights_leave_it_cold():
    """Operations between steps: 7 on the first stage, 5 on the second, cold after 1 MB of weights
    (two working sets were measured, of 1 kB and of 100 kB)."""
    engine = replace(BARE, step_ops=7, stage_ops=5)
    points = tuple(MatrixPoint("bf16", 1, size, size * 1e-9) for size in (1000, 100_000))
    wires = fabric(2, launch_s=US, points=points)
    cold = replace(wires, devices=tuple(replace(d, launch_cold_s=3 * US) for d in wires.devices))
    traffic = Traffic(100, 10, concurrency=2)
    for layout, ops in (("tp1", 7), ("pp2", 7 + 5)):
        warm = terms_of(priced(layout, traffic, wires=wires, engine=engine), "decode")["step"]
        after = terms_of(priced(layout, traffic, wires=cold, engine=engine), "decode")["step"]
        assert after == pytest.approx(3 * warm)
        assert warm == pytest.approx(ops * US, rel=0.5)


def test_others_prefills_slow_every_token():
    # closed loop of 4: each answer of 10 tokens sees the 3 others prefilled once
    one = priced("tp1", Traffic(100, 10, concurrency=4))
    alone = priced("tp1", Traffic(100, 10))
    expected = 3 * alone.ttft_s / 10
    assert terms_of(one, "decode")["prefill of others"] == pytest.approx(expected)
    whole = one.ttft_s + 9 * one.tpot_s
    assert one.output_tokens_per_s == pytest.approx(4 * 10 / whole)


def test_idle_replicas_give_nothing():
    alone = priced("tp1", Traffic(100, 10, concurrency=1))
    assert priced("dp4", Traffic(100, 10, concurrency=1)).output_tokens_per_s == pytest.approx(
        alone.output_tokens_per_s
    )
    three = priced("dp4", Traffic(100, 10, concurrency=3))
    assert three.output_tokens_per_s == pytest.approx(3 * alone.output_tokens_per_s)


def test_replicas_with_fewer_users_are_faster():
    # 5 users on 2 replicas: one runs 3, the other 2; latencies are those of the fuller one
    two, three, five = (
        priced(layout, Traffic(100, 10, concurrency=users))
        for layout, users in (("tp1", 2), ("tp1", 3), ("dp2", 5))
    )
    both = two.output_tokens_per_s + three.output_tokens_per_s
    assert five.output_tokens_per_s == pytest.approx(both)
    assert (five.ttft_s, five.tpot_s) == (three.ttft_s, three.tpot_s)


TRAFFICS = [
    Traffic(100, 10),
    Traffic(3000, 1, concurrency=5),
    Traffic(700, 50, concurrency=300),
    Traffic(100, 10, rate=3.0),
    Traffic(100, 10, rate=1e6),
    Traffic(100, 10, rate=math.inf, num_requests=100),
    Traffic(100, 10, concurrency=8, static_batch=True),
    Traffic(3000, 20, num_requests=3, concurrency=9),
]
LAYOUTS = ["tp1", "tp2", "tp4", "pp2", "pp3", "pp4", "dp3", "tp2pp2dp2", "tp2pp4"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("traffic", TRAFFICS, ids=str)
def test_terms_sum_to_their_phases(layout: str, traffic: Traffic):
    one = priced(layout, traffic, wires=fabric(8, launch_s=US), engine=engine_profile("wirecut"))
    assert sum(terms_of_all(one, "prefill")) == pytest.approx(one.ttft_s, rel=1e-9)
    assert sum(terms_of_all(one, "decode")) == pytest.approx(one.tpot_s, rel=1e-9)
    assert all(term.seconds >= -1e-12 for term in one.terms), one.terms
    assert 0 <= one.bubble_fraction < 1
    for name, value in (("ttft_s", one.ttft_s), ("tpot_s", one.tpot_s)):
        low, high = one.interval[name]
        assert low < value < high
    assert one.requests_per_s * traffic.output_tokens == pytest.approx(one.output_tokens_per_s)


def terms_of_all(estimate: Estimate, phase: str) -> list[float]:
    return [term.seconds for term in estimate.terms if term.phase == phase]


@pytest.mark.parametrize("layout", ["tp2", "pp3", "tp2pp2", "tp4dp2"])
def test_wire_bytes_of_terms_are_the_formula(layout: str):
    spec, cut, users = model(), parse_layout(layout), 6
    one = priced(layout, Traffic(3000, 10, concurrency=users))
    running = math.ceil(users / cut.dp)
    batches = min(cut.pp, running)
    expected = {
        "prefill": wire_traffic(
            spec, cut, forwards=2, tokens=3000, logit_rows=1, gathers=1, dtype="bf16"
        ),
        "decode": wire_traffic(
            spec,
            cut,
            forwards=batches,
            tokens=running,
            logit_rows=running,
            gathers=batches,
            dtype="bf16",
        ),
    }
    for phase, axes in expected.items():
        for axis in ("tp", "pp"):
            found = sum(t.wire_bytes for t in one.terms if (t.phase, t.axis) == (phase, axis))
            assert found == axes.get(axis, WireCount(0, 0)).bytes


def test_wire_traffic_by_hand():
    # 2 x 4 + 1 = 9 all-reduces of tokens x 64 x 2 B a forward; logits 1000 x 2 B a row
    found = wire_traffic(
        model(),
        Layout(tp=2, pp=3),
        forwards=3,
        tokens=40,
        logit_rows=12,
        gathers=2,
        dtype="bf16",
    )
    assert found == {
        "tp": WireCount(9 * 3 + 2, 9 * 40 * 128 + 12 * 2000),
        "pp": WireCount(2 * 3, 2 * 40 * 128),
    }
    alone = wire_traffic(
        model(), Layout(dp=4), forwards=3, tokens=40, logit_rows=12, gathers=2, dtype="bf16"
    )
    assert alone == {}


def test_logits_are_padded_to_whole_shares():
    found = wire_traffic(
        model(vocab_size=1001),
        Layout(tp=4),
        forwards=1,
        tokens=1,
        logit_rows=1,
        gathers=1,
        dtype="fp32",
    )
    assert found["tp"].bytes == 9 * 64 * 4 + 1004 * 4


POINTS = tuple(
    MatrixPoint("bf16", rows, size, seconds)
    for rows, size, seconds in (
        (1, 10**6, 1e-4),
        (4, 10**6, 2e-4),
        (1, 10**8, 4e-2),
        (4, 10**8, 8e-2),
    )
)


@pytest.mark.parametrize(
    ("rows", "working_set", "seconds_per_mb"),
    [
        (1, 10**6, 1e-4),
        (2, 10**6, math.sqrt(2) * 1e-4),  # half way in log rows: the geometric mean
        (8, 10**6, 4e-4),  # beyond: twice the rows, twice the time
        (1, 10**7, 2e-4),  # half way in log working set, between 1e-4 and 4e-4
        (1, 10**3, 1e-4),  # smaller than measured: as the smallest
        (1, 10**10, 4e-4),
    ],
)
def test_measured_products_are_interpolated(rows: int, working_set: int, seconds_per_mb: float):
    for dtype in ("bf16", "fp16"):  # bf16 stands in for fp16
        rate = MatrixRate(fabric(1, points=POINTS).devices[0], dtype)
        found = rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=working_set)
        assert found == pytest.approx(seconds_per_mb)


def beside_idle(num_devices: int, *, hosts: bool = False) -> Fabric:
    """Devices that are twice as fast alone, and start operations in half the time: 1e-9 s a byte
    with all busy, whatever the rows.
    """
    points = tuple(MatrixPoint("bf16", rows, 10**6, 1e-3) for rows in (1, 8, 64))
    halves = tuple(replace(point, seconds=point.seconds / 2) for point in points)
    wires = fabric(num_devices, points=points, launch_s=US)
    devices = tuple(
        replace(each, alone=halves, launch_alone_s=US / 2, host=f"h{each.id}" if hosts else "here")
        for each in wires.devices
    )
    return replace(wires, devices=devices)


@pytest.mark.parametrize(
    ("busy", "total", "share"),
    [(1, 2, 0.5), (2, 2, 1), (0, 2, 1), (5, 2, 1), (1, 1, 1), (1, 5, 0.5), (3, 5, 0.75)],
)
def test_seconds_lie_between_alone_and_all_busy(busy: int, total: int, share: float):
    rate = MatrixRate(beside_idle(1).devices[0], "bf16", total)
    for rows in (1, 5, 64):
        found = rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=1e6, busy=busy)
        assert found == pytest.approx(share * 1e-3)
    assert rate.launch_s(busy) == pytest.approx(share * US)


def test_alone_takes_its_ratio_from_the_points_around():
    # ratios alone over busy: 0.9 at 1 MB, 0.4 at 100 MB with 1 row, 1.0 (noise above) with 4
    ratios = {(1, 10**6): 0.9, (4, 10**6): 0.9, (1, 10**8): 0.4, (4, 10**8): 1.3}
    alone = tuple(replace(p, seconds=p.seconds * ratios[p.rows, p.weight_bytes]) for p in POINTS)
    device = replace(fabric(1, points=POINTS).devices[0], alone=alone)
    rate = MatrixRate(device, "bf16", 2)
    for rows, size, ratio in (
        (1, 10**6, 0.9),
        (1, 10**9, 0.4),
        (100, 10**8, 1.0),
        (2, 10**8, math.sqrt(0.4)),
        (1, 10**7, math.sqrt(0.9 * 0.4)),
    ):
        one, both = (
            rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=size, busy=busy)
            for busy in (1, 2)
        )
        assert one == pytest.approx(ratio * both)


def test_devices_never_measured_alone_cost_the_same_however_many_work():
    rate = MatrixRate(fabric(2, points=POINTS, launch_s=US).devices[0], "bf16", 2)
    one, both = (
        rate.seconds(weight_bytes=1e6, rows=2, working_set_bytes=1e7, busy=busy) for busy in (1, 2)
    )
    assert one == both
    assert rate.launch_s(1) == US


@pytest.mark.parametrize("hosts", [False, True], ids=["one host", "a host each"])
@pytest.mark.parametrize(
    ("layout", "users", "share"),
    [
        ("tp1", 8, 0.5),
        ("dp2", 1, 0.5),
        ("dp2", 2, 1),
        ("dp2", 8, 1),
        ("pp2", 1, 0.5),
        ("pp2", 2, 1),
        ("tp2", 1, 1),
    ],
)
def test_only_devices_at_work_slow_each_other(layout: str, users: int, share: float, hosts: bool):
    wires = beside_idle(2, hosts=hosts)
    traffic = Traffic(100, 10, concurrency=users)
    engine = replace(BARE, ops_per_layer=10)
    one = priced(layout, traffic, wires=wires, engine=engine)
    bare = tuple(replace(each, alone=(), launch_alone_s=0.0) for each in wires.devices)
    all_busy = priced(layout, traffic, wires=replace(wires, devices=bare), engine=engine)
    for phase in ("prefill", "decode"):
        found, expected = terms_of(one, phase), terms_of(all_busy, phase)
        for name in ("weights", "LM head", "launches"):
            assert found[name] == pytest.approx(share * expected[name])


def test_the_words_for_weights_and_launches_give_the_rates_that_were_used():
    engine = replace(BARE, ops_per_layer=10)
    one = priced("dp2", Traffic(100, 10), wires=beside_idle(2), engine=engine)
    because = {term.name: term.because for term in one.terms if term.phase == "decode"}
    assert "2.00 GB/s with 1 row" in because["weights"]
    assert because["launches"].endswith("10 launches x 500 ns")


def test_few_requests_a_second_leave_replicas_idle():
    wires, alone = beside_idle(4), priced("tp1", Traffic(100, 10), wires=beside_idle(4))
    few = priced("dp4", Traffic(100, 10, rate=0.9 * alone.requests_per_s), wires=wires)
    assert few.tpot_s == pytest.approx(alone.tpot_s)
    more = priced("dp4", Traffic(100, 10, rate=1.1 * alone.requests_per_s), wires=wires)
    assert alone.tpot_s < more.tpot_s
    assert more.running == 1


def test_a_dtype_without_any_rate_is_an_error():
    wires = fabric(1)
    device = wires.devices[0]
    bare = type(device)(**{**_fields(device), "flops_per_s": {"fp32": 1e9}})
    with pytest.raises(FabricError, match=r"bf16.*fp32"):
        _ = MatrixRate(bare, "bf16").flops_per_s


def _fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("tp", "pp"), [*itertools.product((1, 2, 4), (1, 2, 3, 4))])
def test_sizes_agree_with_the_one_definition_of_a_shard(tp: int, pp: int, tied: bool):
    spec = model(tie_word_embeddings=tied, vocab_size=1003, intermediate_size=130)
    pricing = Pricing(spec, fabric(tp * pp), dtype="bf16")
    stages = cut_for(pricing, Layout(tp=tp, pp=pp), context=1.0).stages
    for stage, tp_rank in itertools.product(range(pp), range(tp)):
        sizes = RankSizes.of(spec, tp=tp, tp_rank=tp_rank)
        found = sizes.stage_elements(stages[stage], is_first=stage == 0, is_last=stage == pp - 1)
        assert found == shard_elements(spec, stages, stage=stage, tp=tp, tp_rank=tp_rank)


def test_memory_by_hand():
    limits = Limits(max_batched_tokens=100, max_seqs=10)
    one = priced("tp1", Traffic(100, 10, concurrency=3), limits=limits)
    weights = (64_000 * 2 + 4 * (36_864 + 128) + 64) * 2
    # a token: 4 x 64 + (4 + 2 x 2) heads x 16 + 3 x 128; 10 rows of 1000 fp32 logits
    activations = 100 * (256 + 128 + 384) * 2 + 10 * 1000 * 4
    assert one.memory.weights_bytes == weights
    assert one.memory.activation_bytes == activations
    assert one.memory.capacity_bytes == 9 * 10**8
    assert one.memory.kv_tokens == (9 * 10**8 - weights - activations) // 512
    assert one.memory.kv_bytes == 3 * 110 * 512


def test_what_does_not_fit_says_what_is_needed():
    small = fabric(2, memory_bytes=600_000)
    found = price("tp1", Traffic(10, 10), wires=small, limits=Limits(max_batched_tokens=1))
    assert isinstance(found, Rejected)
    assert "usable" in found.reason
    assert "weights" in found.reason
    assert isinstance(
        price("tp2", Traffic(10, 10), wires=small, limits=Limits(max_batched_tokens=1, max_seqs=1)),
        Estimate,
    )


def test_room_for_less_than_a_request_is_refused():
    limits = Limits(max_batched_tokens=1, max_seqs=1)
    bare = 552_064 + 768 * 2 + 4000  # weights and activations, as above
    small = fabric(1, memory_bytes=math.ceil((bare + 512 * 50.5) / 0.9))
    assert isinstance(price("tp1", Traffic(40, 10), wires=small, limits=limits), Estimate)
    found = price("tp1", Traffic(40, 11), wires=small, limits=limits)
    assert isinstance(found, Rejected)
    assert "KV room for 50 tokens, one request has 51" in found.reason


def test_too_little_room_makes_requests_wait():
    limits = Limits(max_seqs=4)
    two = priced("tp1", Traffic(100, 10, concurrency=8), limits=limits)
    four = priced("tp1", Traffic(100, 10, concurrency=4), limits=limits)
    assert two.running == 4
    assert two.output_tokens_per_s == pytest.approx(four.output_tokens_per_s)
    assert two.ttft_s == pytest.approx(four.ttft_s + four.ttft_s + 9 * four.tpot_s)


def test_an_open_load_below_saturation_is_served_at_its_rate():
    one = priced("tp1", Traffic(100, 10, rate=20.0))
    assert one.output_tokens_per_s == pytest.approx(200)
    assert "queue" not in terms_of(one, "prefill")


def test_a_saturated_load_queues():
    one = priced("tp1", Traffic(100, 10, rate=1e6))
    limit = priced("tp1", Traffic(100, 10, concurrency=64))
    assert one.output_tokens_per_s == pytest.approx(limit.output_tokens_per_s)
    queue = next(term for term in one.terms if term.name == "queue")
    assert "saturated" in queue.because
    assert queue.seconds == pytest.approx(500 / limit.requests_per_s, rel=1e-2)


def test_a_static_batch_prefills_together_and_decodes_undisturbed():
    one = priced("tp1", Traffic(100, 10, concurrency=4, static_batch=True))
    single = priced("tp1", Traffic(100, 10))
    assert "prefill of others" not in terms_of(one, "decode")
    assert one.ttft_s < 4 * single.ttft_s
    assert one.output_tokens_per_s == pytest.approx(40 / (one.ttft_s + 9 * one.tpot_s))


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


def test_missing_links_are_a_reason():
    wires = fabric(2)
    cut_off = Fabric(wires.devices, (), wires.islands, wires.made)
    found = price("tp2", Traffic(100, 10), wires=cut_off)
    assert isinstance(found, Rejected)
    assert "no link joins devices 0 and 1" in found.reason
    assert isinstance(price("dp2", Traffic(100, 10), wires=cut_off), Estimate)


def test_a_request_longer_than_the_model_is_wrong_use():
    with pytest.raises(UsageError, match=r"4090.*4097.*4096"):
        price("tp1", Traffic(4090, 7))


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm", "exllama"])
def test_engines_that_are_not_there_yet(name: str):
    with pytest.raises(UsageError, match=name):
        engine_profile(name)


def test_intervals_weigh_terms_by_their_seconds():
    terms = [
        Term("a", "prefill", 3.0, "", "measured", spread=0.1),
        Term("b", "prefill", 1.0, "", "assumed", spread=0.6),
        Term("c", "decode", 1.0, "", "measured", spread=0.2),
    ]
    found = intervals(terms, output_tokens=5, output_tokens_per_s=100.0)
    ttft = 1 + 0.9 / 4
    assert found["ttft_s"] == pytest.approx((4 / ttft, 4 * ttft))
    assert found["tpot_s"] == pytest.approx((1 / 1.2, 1.2))
    whole = 1 + (0.9 + 4 * 0.2) / 8
    assert found["output_tokens_per_s"] == pytest.approx((100 / whole, 100 * whole))


def test_a_queue_widens_ttft_and_not_throughput():
    work = [
        Term("a", "prefill", 1.0, "", "measured", spread=0.1),
        Term("b", "decode", 1.0, "", "measured", spread=0.1),
    ]
    queue = Term("queue", "prefill", 9.0, "", "measured", spread=0.8, kind="wait")
    one, other = (
        intervals(terms, output_tokens=5, output_tokens_per_s=100.0)
        for terms in (work, [*work, queue])
    )
    assert one["output_tokens_per_s"] == other["output_tokens_per_s"]
    assert other["ttft_s"] == pytest.approx((10 / 1.73, 10 * 1.73))


def test_times_are_as_wide_as_what_they_are_spent_on():
    assert time_width("memory", "measured", 0.07) == 0.07
    assert time_width("memory", "measured") == half_width("measured")
    for kind in ("compute", "memory", "all-reduce", "overhead"):
        assert time_width(kind, "assumed") > time_width(kind, "datasheet")
    assert time_width("memory", "datasheet") < time_width("compute", "datasheet")
