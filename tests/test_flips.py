"""Flips in the user's units, each checked by planning again on either side; other wires; and where
an assumed number decided.
"""

from dataclasses import replace

import pytest

from fabrics import big_model, fabric
from wirecut.cost.collectives import collective_price
from wirecut.cost.engines import engine_profile
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import HALF_WIDTH
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.rewire import other_wires, rewired
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import parse_layout
from wirecut.planner.doubt import ENDS
from wirecut.planner.flips import Flip
from wirecut.planner.plan import Ranking, plan
from wirecut.spec.find import find_model
from wirecut.spec.traffic import Traffic

LLAMA_8B = find_model("meta-llama/Llama-3.1-8B-Instruct")[1]
BOX = typed_fabric("4xL40S:pcie4")


def pricing_of(wires: Fabric) -> Pricing:
    return Pricing(LLAMA_8B, wires, dtype="bf16", engine=engine_profile("vllm"))


def ranked(wires: Fabric, traffic: Traffic, goal: str = "throughput") -> Ranking:
    return plan(pricing_of(wires), traffic, goal=goal)


def of(ranking: Ranking, what: str) -> list[Flip]:
    return [flip for flip in ranking.flips if flip.what == what]


def test_prompt_flips_by_planning_again():
    traffic = Traffic(1024, 128, concurrency=48)
    ranking = ranked(BOX, traffic)
    flips = of(ranking, "input tokens")
    assert flips
    for flip in flips:
        assert (flip.now, flip.unit) == (1024, "tokens")
        past = ranked(BOX, replace(traffic, input_tokens=int(flip.threshold)))
        assert past.chosen.layout == flip.to != ranking.chosen.layout
        inward = 1.15 if float(flip.threshold) < 1024 else 1 / 1.15  # they are found to a tenth
        near = ranked(BOX, replace(traffic, input_tokens=int(float(flip.threshold) * inward)))
        assert near.chosen.layout == ranking.chosen.layout


def test_rate_flips_by_planning_again():
    traffic = Traffic(512, 128, rate=2.0)
    ranking = ranked(BOX, traffic, "latency")
    flips = of(ranking, "rate")
    assert flips
    assert not of(ranking, "concurrency")
    for flip in flips:
        rate = float(flip.threshold)
        inward = 1.02 if rate < 2.0 else 1 / 1.02
        past = ranked(BOX, replace(traffic, rate=rate), "latency")
        near = ranked(BOX, replace(traffic, rate=rate * inward), "latency")
        assert past.chosen.layout == flip.to != ranking.chosen.layout
        assert near.chosen.layout == ranking.chosen.layout


def test_a_speed_flip_says_what_all_reduce_has_and_needs():
    ranking = ranked(BOX, Traffic(1024, 128, concurrency=48))
    flip = next(flip for flip in of(ranking, "wire speed") if flip.all_reduce is not None)
    reduce = flip.all_reduce
    assert reduce is not None
    assert flip.factor is not None
    assert reduce.threshold == pytest.approx(reduce.now * flip.factor)
    larger = max(parse_layout(flip.to).tp, parse_layout(ranking.chosen.layout).tp)
    assert len(reduce.devices) == larger > 1
    layout = parse_layout(flip.to)
    if layout.tp < larger:
        layout = parse_layout(ranking.chosen.layout)
    seconds = collective_price(
        BOX,
        "all_reduce",
        reduce.devices,
        reduce.num_bytes,
        at_once=layout.pp * layout.dp,
        library=engine_profile("vllm").library,
    ).seconds
    moved = 2 * (larger - 1) / larger * reduce.num_bytes
    assert reduce.now == pytest.approx(moved / seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8xH100-SXM", {"pcie5", "pcie5-nop2p"}),
        ("8xH100-SXM:pcie5", {"nvswitch", "pcie5-nop2p"}),
        ("4xA100-PCIe-80GB:pcie4", {"nvlink-pairs", "pcie4-nop2p"}),
        ("4xA100-PCIe-80GB:nvlink-pairs", {"pcie4", "pcie4-nop2p"}),
        ("4xL40S", {"pcie4-nop2p"}),
        ("2xRTX-4090", set()),  # its driver refuses the only other way
        ("1xL40S", set()),
        ("2x8xH100-SXM:nvswitch:100gbe", {"pcie5", "pcie5-nop2p", "ib-400x8"}),
        ("2x8xH100-SXM:nvswitch:ib-400x8", {"pcie5", "pcie5-nop2p", "100gbe"}),
        ("16x8xH100-SXM:nvswitch:ib-400x8", {"pcie5", "pcie5-nop2p", "100gbe"}),
        ("8xMI300X", set()),
        ("4x24GB,936GB/s,71TFLOP/s", set()),
    ],
)
def test_other_wires_are_those_that_are_sold(text: str, words: set[str]):
    assert {word for _, word in other_wires(typed_fabric(text))} == words


def test_rewired_is_what_one_would_type():
    typed = typed_fabric("2x4xH100-SXM:nvswitch:ib-400x8")
    assert (
        rewired(typed, "inside", "pcie5").links == typed_fabric("2x4xH100-SXM:pcie5:ib-400x8").links
    )
    other = rewired(typed, "between", "100gbe")
    wanted = typed_fabric("2x4xH100-SXM:nvswitch:100gbe")
    for a, b in ((0, 1), (0, 5), (3, 7)):
        assert other.link(a, b) == wanted.link(a, b)
    assert other.islands == wanted.islands


def test_flips_to_other_wires_by_planning_again():
    traffic = Traffic(4096, 128, concurrency=16)
    ranking = ranked(BOX, traffic, "latency")
    (flip,) = of(ranking, "wires inside")
    assert flip.threshold == "pcie4-nop2p"
    again = ranked(typed_fabric("4xL40S:pcie4-nop2p"), traffic, "latency")
    assert again.chosen.layout == flip.to
    here, there = (one.chosen.ttft_s + 127 * one.chosen.tpot_s for one in (ranking, again))
    assert flip.times == pytest.approx(here / there)
    assert here <= there  # slower wires are no gain


def assumed(wires: Fabric) -> Fabric:
    return replace(wires, links=tuple(replace(k, source="assumed") for k in wires.links))


@pytest.mark.parametrize("rate", [1e-9, 1e9])
def test_the_ends_of_rates_are_searched_inside(rate: float):
    assert ranked(BOX, Traffic(512, 128, rate=rate), "latency").chosen


def test_the_slowest_wires_and_devices_that_there_may_be():
    """Assumed, so that they are asked about slower still."""
    wires = assumed(fabric(2, latency_s=90.0, bytes_per_s=1.0, device_bytes_per_s=1.0))
    devices = tuple(replace(device, source="assumed") for device in wires.devices)
    found = plan(
        Pricing(big_model(), replace(wires, devices=devices), dtype="bf16"), Traffic(10, 10)
    )
    assert found.ranked


def near_a_flip(goal: str) -> Fabric:
    """Wires on which the choice is close: a tenth on this side of its flip."""
    wires = fabric(2, latency_s=100e-6, launch_s=1e-6)
    question = Traffic(100, 100)
    found = plan(Pricing(big_model(), wires, dtype="bf16"), question, goal=goal)
    (flip, *_) = of(found, "wire speed")
    assert flip.factor is not None
    return wires.with_wires(speed=flip.factor * (1.1 if flip.factor < 1 else 1 / 1.1))


def test_an_assumed_wire_that_decides_is_told():
    wires = near_a_flip("latency")
    question = Traffic(100, 100)
    measured = plan(Pricing(big_model(), wires, dtype="bf16"), question, goal="latency")
    assert measured.fragile == ()
    guess = assumed(wires)
    found = plan(Pricing(big_model(), guess, dtype="bf16"), question, goal="latency")
    assert found.fragile
    for spot in found.fragile:
        assert (spot.what, spot.names) == ("wires", ("shm",))
        assert spot.factor in ENDS
        other = guess.with_wires(speed=spot.factor)
        again = plan(Pricing(big_model(), other, dtype="bf16"), question, goal="latency")
        assert again.chosen.layout == spot.to != found.chosen.layout


def test_assumed_numbers_are_asked_about_where_intervals_end():
    wide = HALF_WIDTH["assumed"]
    slower, faster = ENDS
    assert slower == pytest.approx(1 / (1 + wide))
    assert faster == pytest.approx(1 + wide)


def test_an_assumed_wire_that_does_not_decide_is_not_told():
    wires = assumed(fabric(2, latency_s=1e-6, bytes_per_s=100e9))
    found = plan(Pricing(big_model(), wires, dtype="bf16"), Traffic(100, 100), goal="latency")
    assert found.chosen.layout == "tp2"
    assert found.fragile == ()


def test_assumed_devices_that_decide_are_told():
    wires = near_a_flip("latency")
    devices = tuple(replace(device, source="assumed") for device in wires.devices)
    guess = replace(wires, devices=devices)
    found = plan(Pricing(big_model(), guess, dtype="bf16"), Traffic(100, 100), goal="latency")
    assert {(spot.what, spot.names) for spot in found.fragile} == {("devices", ("core",))}


def test_a_network_that_nobody_named_is_assumed():
    assert {k.source for k in typed_fabric("2x1xL40S").links} == {"assumed"}
    assert {k.source for k in typed_fabric("2x1xL40S:pcie4:100gbe").links} == {"datasheet"}
