"""Placement and stages against brute force: every device on every rank."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrics import MADE, big_model
from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import estimate
from wirecut.cost.forward import Batch
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.step import price_forward
from wirecut.cost.terms import Estimate
from wirecut.errors import NothingFits
from wirecut.fabric.fabric import Device, Fabric, Link
from wirecut.fabric.islands import find_islands
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.rules import why_not
from wirecut.layout.stages import Room, Stages, cut_stages
from wirecut.planner.cutting import cut_for
from wirecut.planner.place import every_placement, place, placements
from wirecut.planner.plan import plan
from wirecut.planner.sharing import shares_for
from wirecut.planner.space import all_layouts, has_experts
from wirecut.spec.find import find_model
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic


def score(one: Estimate, traffic: Traffic, goal: str) -> float:
    if goal == "throughput":
        return -one.output_tokens_per_s
    return one.ttft_s + (traffic.output_tokens - 1) * one.tpot_s


def brute_force(pricing: Pricing, traffic: Traffic, goal: str) -> float:
    """The best score of all layouts on all devices in all orders."""
    ids, found = range(len(pricing.fabric.devices)), [float("inf")]
    context, at_once = traffic.input_tokens + traffic.output_tokens / 2, traffic.requests_at_once
    for layout in all_layouts(len(ids), experts=has_experts(pricing.spec)):
        if why_not(pricing.spec, layout, len(ids), pricing.engine.rules):
            continue
        for devices, shares in dealt(pricing, layout, ids):
            cut = partial(
                cut_for,
                pricing,
                layout,
                devices,
                context=context,
                sequences=at_once,
                shares=shares,
            )
            one = estimate(pricing, cut(), traffic)
            if not isinstance(one, Estimate):  # then by memory alone
                one = estimate(pricing, cut(slack=math.inf), traffic)
            if isinstance(one, Estimate):
                found.append(score(one, traffic, goal))
    return min(found)


def dealt(
    pricing: Pricing, layout: Layout, ids: range
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every placement, its ranks alike and, where devices are not, with shares by their speed."""
    for devices in itertools.permutations(ids, layout.world_size):
        for shares in {(), shares_for(pricing, layout, devices)}:
            yield devices, shares


def check(spec: ModelSpec, fabric: Fabric, traffic: Traffic, goal: str, engine: str) -> None:
    pricing = Pricing(spec, fabric, dtype="bf16", engine=engine_profile(engine))
    best = brute_force(pricing, traffic, goal)
    if best == float("inf"):
        with pytest.raises(NothingFits):
            plan(pricing, traffic, goal=goal)
        return
    ranking = plan(pricing, traffic, goal=goal)
    assert score(ranking.chosen, traffic, goal) == pytest.approx(best, rel=1e-9)


def mixed(*texts: str, wire: tuple[str, float, float]) -> Fabric:
    """Typed fabrics side by side, each on hosts of its own, joined by one kind of wire."""
    devices: list[Device] = []
    links: list[Link] = []
    kind, latency_s, bytes_per_s = wire
    for text in texts:
        part, at = typed_fabric(text), len(devices)
        links += [
            Link(a, at + b, kind, latency_s, bytes_per_s, "datasheet")
            for a in range(at)
            for b in range(len(part.devices))
        ]
        links += [replace(k, a=at + k.a, b=at + k.b, shares="") for k in part.links]
        devices += [replace(d, id=at + d.id, host=f"{text}-{d.host}") for d in part.devices]
    return Fabric(tuple(devices), tuple(links), find_islands(len(devices), links), MADE)


TEN_GBE = ("ethernet", 90e-6, 1.1e9)
IRREGULAR = {
    "pairs": typed_fabric("4xA100-PCIe-40GB:nvlink-pairs"),
    "pcie": typed_fabric("4xL40S:pcie4"),
    "boxes": typed_fabric("2x2xL40S:pcie4-nop2p:10gbe"),
    "unequal": mixed("2xH100-PCIe:pcie5", "2xL4:pcie4", wire=TEN_GBE),
    "one small": mixed("2xL40S:pcie4", "1xRTX-4090", wire=TEN_GBE),
    "three and two": mixed("3xL40S:pcie4", "2xA100-PCIe-40GB:nvlink-pairs", wire=TEN_GBE),
}


@pytest.mark.parametrize(("goal", "users"), [("latency", 1), ("throughput", 24)])
@pytest.mark.parametrize("name", IRREGULAR)
def test_no_placement_beats_the_plan(name: str, goal: str, users: int):
    _, spec = find_model("Qwen/Qwen2.5-14B")
    check(spec, IRREGULAR[name], Traffic(512, 64, concurrency=users), goal, "vllm")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_way_to_deal_experts_beats_the_plan(engine: str):
    _, spec = find_model("Qwen/Qwen3-30B-A3B")
    check(spec, typed_fabric("3xH100-SXM"), Traffic(512, 64, concurrency=24), "throughput", engine)
    check(spec, IRREGULAR["pairs"], Traffic(512, 64), "latency", engine)


@st.composite
def wild_fabrics(draw: st.DrawFn) -> Fabric:
    """Two to four devices of any speed and memory, any wire between any two."""
    count = draw(st.integers(2, 4))
    rates = st.sampled_from([0.5e9, 1e9, 1.02e9, 4e9])
    devices = tuple(
        Device(
            id=i,
            host=f"host{draw(st.integers(0, 1))}",
            kind="cpu-core",
            name="core",
            memory_bytes=draw(st.sampled_from([150_000_000, 10**9])),
            bytes_per_s=draw(rates),
            flops_per_s={"bf16": 1e12},
            launch_s=1e-6,
            source="measured",
        )
        for i in range(count)
    )
    links = [
        Link(a, b, kind, latency_s, draw(st.sampled_from([1e7, 1e9, 5e10])), "measured", 0.1)
        for a, b in itertools.combinations(range(count), 2)
        for kind, latency_s in [draw(st.sampled_from([("shm", 2e-6), ("tcp", 1e-4)]))]
    ]
    return Fabric(devices, tuple(links), find_islands(count, links), MADE)


@settings(max_examples=12, deadline=None)
@given(wild_fabrics(), st.sampled_from([1, 2, 5, 40]), st.sampled_from(["latency", "throughput"]))
def test_no_placement_beats_the_plan_on_wild_fabrics(fabric: Fabric, users: int, goal: str):
    check(big_model(), fabric, Traffic(200, 30, concurrency=users), goal, "wirecut")


@pytest.mark.parametrize(
    "text",
    ["8xH100-SXM", "8xA100-PCIe-40GB:nvlink-pairs", "8xL40S:pcie4", "2x4xL40S:pcie4:100gbe"],
)
def test_no_shuffle_beats_the_islands_on_eight(text: str):
    """The placement by islands against swaps of any two of its devices, of every layout; to a
    thousandth, since small hand-offs are no faster over NVLink than over PCIe.
    """
    _, spec = find_model("Qwen/Qwen2.5-14B")
    pricing = Pricing(spec, typed_fabric(text), dtype="bf16", engine=engine_profile("vllm"))
    traffic = Traffic(512, 64, concurrency=16)

    def answer_s(layout: Layout, devices: tuple[int, ...]) -> float:
        one = estimate(pricing, cut_for(pricing, layout, devices, context=544.0), traffic)
        return score(one, traffic, "latency") if isinstance(one, Estimate) else float("inf")

    for layout in all_layouts(8):
        if why_not(spec, layout, 8, pricing.engine.rules) or layout.world_size < 7:
            continue
        ours = place(pricing.fabric, layout)
        best = min(answer_s(layout, one) for one in placements(pricing.fabric, layout))
        for i, j in itertools.combinations(range(layout.world_size), 2):
            swapped = list(ours)
            swapped[i], swapped[j] = ours[j], ours[i]
            assert answer_s(layout, tuple(swapped)) >= best * 0.999, (str(layout), i, j)


def test_alike_placements_are_tried_once():
    four = typed_fabric("4xH100-SXM")
    for layout in (Layout(tp=2, pp=2), Layout(pp=4), Layout(dp=3)):
        assert len(every_placement(four, layout)) == 1
    pairs = IRREGULAR["pairs"]
    assert len(every_placement(pairs, Layout(tp=2))) == 2  # a pair, or not
    unequal = IRREGULAR["unequal"]
    # both fast, both slow, one of each in either order
    assert len(every_placement(unequal, Layout(tp=2))) == 4
    assert len(every_placement(unequal, Layout(pp=2))) == 4  # and which of them is first


def test_the_fastest_of_many_devices_are_taken():
    fabric = mixed("4xL4:pcie4", "4xH100-PCIe:pcie5", wire=TEN_GBE)
    fast = {4, 5, 6, 7}
    assert any(set(one) == fast for one in placements(fabric, Layout(tp=4)))
    assert set(place(fabric, Layout(tp=2))) <= fast
    _, spec = find_model("Qwen/Qwen2.5-14B")
    pricing = Pricing(spec, fabric, dtype="bf16", engine=engine_profile("vllm"))
    assert set(plan(pricing, Traffic(512, 64), goal="latency").chosen.placement) <= fast


def test_stages_follow_the_speed_and_the_room_of_their_devices():
    fabric = mixed("1xH100-PCIe", "1xL4", wire=TEN_GBE)  # 2.0 TB/s and 0.3 TB/s, 80 GB and 24 GB
    _, spec = find_model("Qwen/Qwen2.5-14B")
    pricing = Pricing(spec, fabric, dtype="bf16", engine=engine_profile("vllm"))
    (_, fast), (_, last) = cut_for(pricing, Layout(pp=2), (0, 1), context=500.0).stages
    assert last == spec.num_layers
    assert fast > 0.7 * last
    (_, slow), _ = cut_for(pricing, Layout(pp=2), (1, 0), context=500.0).stages
    assert slow < 0.3 * last


def test_stages_leave_room_for_the_cache():
    """70B on four 48 GB cards: the first stage holds the embedding, the last the head."""
    _, spec = find_model("meta-llama/Llama-3.1-70B-Instruct")
    pricing = Pricing(spec, typed_fabric("4xL40S"), dtype="bf16", engine=engine_profile("vllm"))
    stages = cut_for(pricing, Layout(pp=4), (0, 1, 2, 3), context=500.0).stages
    sizes = [last - first for first, last in stages]
    assert sizes == [19, 21, 21, 19]
    even = Replica(
        pricing, Cut(Layout(pp=4), (0, 1, 2, 3), ((0, 20), (20, 40), (40, 60), (60, 80)))
    )
    ours = Replica(pricing, Cut(Layout(pp=4), (0, 1, 2, 3), stages))
    assert ours.memory(1024).kv_tokens > even.memory(1024).kv_tokens


def brute_stages(weights: list[float], speeds: list[float], room: Room | None) -> float:
    layers, pp, best = len(weights), len(speeds), float("inf")
    for ends in itertools.combinations(range(1, layers), pp - 1):
        bounds = [0, *ends, layers]
        spans = list(itertools.pairwise(bounds))
        if room and any(
            sum(room.layers[a:b]) > held for (a, b), held in zip(spans, room.stages, strict=True)
        ):
            continue
        best = min(
            best, max(sum(weights[a:b]) / s for (a, b), s in zip(spans, speeds, strict=True))
        )
    return best


@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=8),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=1, max_size=3),
    st.lists(st.integers(4, 60), min_size=3, max_size=3),
)
def test_stages_are_the_best_that_have_room(
    weights: list[int], speeds: list[float], held: list[int]
):
    loads = [float(weight) for weight in weights]
    for room in (None, Room(loads, [float(one) for one in held[: len(speeds)]])):
        best = brute_stages(loads, speeds, room)
        if best == float("inf"):  # no cut has room: then the fastest
            best = brute_stages(loads, speeds, None)
        stages = cut_stages(loads, len(speeds), speeds=speeds, room=room)
        slowest = max(sum(loads[a:b]) / s for (a, b), s in zip(stages, speeds, strict=True))
        assert slowest == pytest.approx(best)


def test_a_stage_on_a_slow_device_may_be_lighter_though_the_model_is_longer():
    """A fourth layer lets the fast device take three and leave the slow one a light one."""
    stages = cut_stages([1.0, 1.0, 3.0, 1.0, 1.0], 3, speeds=[3.0, 0.5, 1.0])
    assert stages == ((0, 3), (3, 4), (4, 5))


def slowest_s(pricing: Pricing, stages: Stages, batch: Batch) -> float:
    """Seconds of compute of the slower of two stages, as forwards are priced."""
    replica = Replica(pricing, Cut(Layout(pp=2), (0, 1), stages))
    return max(price_forward(replica, batch).compute_s)


def near_the_best_cut(pricing: Pricing, sequences: int, context: float, within: float) -> None:
    layout, most = Layout(pp=2), pricing.spec.num_layers
    batch = Batch(decodes=max(1, sequences // 2), context=context)
    ours = cut_for(pricing, layout, (0, 1), context=context, sequences=sequences).stages
    cuts = [((0, first), (first, most)) for first in range(1, most)]
    best = min(slowest_s(pricing, one, batch) for one in cuts)
    assert slowest_s(pricing, ours, batch) <= within * best


def windows_first(spec: ModelSpec) -> ModelSpec:
    """The same layers, those that keep a window before those that keep all."""
    return replace(spec, layers=tuple(sorted(spec.layers, key=lambda one: one.mixer.window or 1e9)))


@pytest.mark.parametrize(
    ("name", "quantized", "engine", "sequences", "context", "within"),
    [
        ("Qwen/Qwen3-30B-A3B", "", "vllm", 2, 500.0, 1.04),  # a few of its experts are touched
        ("Qwen/Qwen3-30B-A3B", "", "vllm", 64, 500.0, 1.04),
        ("openai/gpt-oss-20b", "", "vllm", 32, 30000.0, 1.12),  # kernels do more than stream
        ("google/gemma-3-12b-it", "fp8", "trtllm", 32, 30000.0, 1.12),  # its cache in fp8
        ("Qwen/Qwen3.5-27B", "", "vllm", 32, 8000.0, 1.05),
    ],
)
def test_stages_are_cut_by_what_they_stream(
    name: str, quantized: str, engine: str, sequences: int, context: float, within: float
):
    _, spec = find_model(name)
    spec = spec.quantized(quantized) if quantized else spec
    spec = windows_first(spec) if context > 10000 else spec
    wires = typed_fabric("2xL40S")
    pricing = Pricing(spec, wires, dtype="bf16", engine=engine_profile(engine))
    near_the_best_cut(pricing, sequences, context, within)


@pytest.mark.parametrize("launch_s", [(2e-6, 20e-6), (20e-6, 2e-6)])
def test_stages_are_cut_by_the_launches_of_their_devices(launch_s: tuple[float, float]):
    _, spec = find_model("Qwen/Qwen3-0.6B")
    wires = typed_fabric("2xL40S")
    devices = [replace(d, launch_s=s) for d, s in zip(wires.devices, launch_s, strict=True)]
    pricing = Pricing(spec, replace(wires, devices=tuple(devices)), dtype="bf16")
    near_the_best_cut(pricing, 2, 500.0, 1.1)
