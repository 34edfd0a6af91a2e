"""Islands: known hierarchies found through noise, and properties that hold for any wires."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecut.fabric.fabric import Link, Source
from wirecut.fabric.islands import distance, find_islands

Islands = tuple[tuple[int, ...], ...]
LATENCY_S, BYTES_PER_S = 5e-6, 50e9


def slower(times: float, a: int, b: int, kind: str = "shm", source: Source = "measured") -> Link:
    return Link(a, b, kind, LATENCY_S * times, BYTES_PER_S / times, source)


def hierarchy(sizes: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int]], Islands]:
    """Boxes of devices in racks: (rack, box) of each device, and the islands that should be found
    when a box, a rack and the whole differ: those of two devices or more, but not the whole.
    """
    where = [
        (rack, box)
        for rack, boxes in enumerate(sizes)
        for box, count in enumerate(boxes)
        for _ in range(count)
    ]
    devices = range(len(where))
    sets = {
        tuple(i for i in devices if where[i][: len(key)] == key)
        for device in devices
        for key in (where[device], where[device][:1])
    }
    inner = [one for one in sets if 2 <= len(one) < len(where)]
    return where, tuple(sorted(inner, key=lambda one: (len(one), one)))


def links_of(
    where: Sequence[tuple[int, int]], gaps: Sequence[float], noise: Callable[[], float]
) -> list[Link]:
    def times(a: int, b: int) -> float:
        if where[a] == where[b]:
            return 1.0
        return gaps[0] if where[a][0] == where[b][0] else gaps[0] * gaps[1]

    pairs = combinations(range(len(where)), 2)
    return [slower(times(a, b) * noise(), a, b) for a, b in pairs]


def noise_of(share: float, seed: int) -> Callable[[], float]:
    draw = random.Random(seed)
    return lambda: draw.uniform(1 - share, 1 + share)


@given(st.integers(2, 12), st.integers())
def test_uniform_wires_with_noise_are_one_island(num_devices: int, seed: int):
    links = links_of([(0, 0)] * num_devices, (1, 1), noise_of(0.1, seed))
    assert find_islands(num_devices, links) == (tuple(range(num_devices)),)


boxes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@given(
    st.lists(boxes, min_size=2, max_size=3),
    st.tuples(st.floats(1.6, 20), st.floats(1.6, 20)),
    st.integers(),
)
def test_boxes_in_racks_are_found(
    sizes: list[list[int]], gaps: tuple[float, float], seed: int
) -> None:
    where, expected = hierarchy(sizes)
    found = find_islands(len(where), links_of(where, gaps, noise_of(0.08, seed)))
    assert found == (expected or (tuple(range(len(where))),))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.floats(1.6, 20), st.integers())
def test_boxes_are_found(sizes: list[int], gap: float, seed: int):
    where, expected = hierarchy([[size] for size in sizes])
    found = find_islands(len(where), links_of(where, (1, gap), noise_of(0.08, seed)))
    assert found == (expected or (tuple(range(len(where))),))


@st.composite
def any_links(draw: st.DrawFn) -> tuple[int, list[Link]]:
    num_devices = draw(st.integers(1, 9))
    pairs = list(combinations(range(num_devices), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=40)) if pairs else []
    return num_devices, [
        Link(
            a,
            b,
            draw(st.sampled_from(["shm", "tcp"])),
            draw(st.sampled_from([1e-6, 2e-6, 1e-5, 1e-3]) | st.floats(1e-7, 1e-2)),
            draw(st.sampled_from([1e9, 2e9, 1e10]) | st.floats(1e6, 1e12)),
            draw(st.sampled_from(["measured", "datasheet"])),
            spread=draw(st.sampled_from([0.0, 0.1, 0.6])),
        )
        for a, b in chosen
    ]


@given(any_links())
def test_any_two_are_apart_or_one_holds_the_other(wires: tuple[int, list[Link]]) -> None:
    found = find_islands(*wires)
    assert list(found) == sorted(found, key=lambda one: (len(one), one))
    assert len(set(found)) == len(found)
    for one in found:
        assert len(one) >= min(2, wires[0])
        assert list(one) == sorted(set(one))
    for one, other in combinations([frozenset(one) for one in found], 2):
        assert one <= other or not one & other


@given(any_links(), st.randoms(use_true_random=False))
def test_numbers_and_order_mean_nothing(wires: tuple[int, list[Link]], draw: random.Random) -> None:
    num_devices, links = wires
    number = list(range(num_devices))
    draw.shuffle(number)
    renamed = [replace(link, a=number[link.a], b=number[link.b]) for link in links]
    draw.shuffle(renamed)
    there = {frozenset(number[i] for i in one) for one in find_islands(num_devices, links)}
    assert {frozenset(one) for one in find_islands(num_devices, renamed)} == there


@given(any_links(), st.sampled_from([2**-10, 0.25, 2, 2**7]))
def test_only_ratios_matter(wires: tuple[int, list[Link]], speed: float) -> None:
    num_devices, links = wires
    faster = [
        replace(k, latency_s=k.latency_s / speed, bytes_per_s=k.bytes_per_s * speed) for k in links
    ]
    assert find_islands(num_devices, faster) == find_islands(num_devices, links)


def test_latency_and_bandwidth_both_count():
    base = slower(1, 0, 1)
    assert distance(replace(base, latency_s=1e-4)) > 2 * distance(base)
    assert distance(replace(base, bytes_per_s=1e9)) > 2 * distance(base)


def test_two_hosts_of_two_with_two_kinds_of_wire():
    hosts = (0, 0, 1, 1)
    links: list[Link] = []
    for a, b in combinations(range(4), 2):
        links.append(Link(a, b, "tcp", 60e-6, 2e9 if hosts[a] == hosts[b] else 117e6, "measured"))
        if hosts[a] == hosts[b]:
            links.append(Link(a, b, "shm", 3e-6, 5e9, "measured", spread=0.4))
    assert find_islands(4, links) == ((0, 1), (2, 3))


def test_hosts_joined_as_well_as_their_devices_are_one_island():
    three = [Link(a, b, "tcp", 1e-4, 117e6 * (1 + a / 20), "measured") for a, b in ((0, 1), (1, 2))]
    assert find_islands(3, [*three, Link(0, 2, "tcp", 1.1e-4, 115e6, "measured")]) == ((0, 1, 2),)


def test_datasheets_need_less_of_a_gap_than_measurements():
    def islands(source: Source) -> Islands:
        return find_islands(
            4, [slower(1.0 if b == a ^ 1 else 1.15, a, b, "pcie4", source)
                for a, b in combinations(range(4), 2)]
        )  # fmt: skip

    assert islands("measured") == ((0, 1, 2, 3),)
    assert islands("datasheet") == ((0, 1), (2, 3))


def test_wires_that_scatter_need_more_of_a_gap():
    """One pair is 1.3 times as near as the rest: an island where the rest are alike, noise where
    they scatter by as much.
    """
    calm, wild = (
        [
            slower(1 / 1.3 if (a, b) == (0, 1) else 1 + scatter * ((a + b) % 2), a, b)
            for a, b in combinations(range(8), 2)
        ]
        for scatter in (0.02, 0.5)
    )
    assert find_islands(8, calm) == ((0, 1),)
    assert find_islands(8, wild) == (tuple(range(8)),)


def test_a_device_with_slow_wires_is_on_no_island():
    links = [slower(3 if b == 7 else 1, a, b) for a, b in combinations(range(8), 2)]
    assert find_islands(8, links) == (tuple(range(7)),)


def test_devices_without_a_link_are_alone():
    assert find_islands(1, []) == ((0,),)  # with nobody else there it is the whole machine
    assert find_islands(3, []) == ()
    assert find_islands(3, [slower(1, 0, 1)]) == ((0, 1),)
    assert find_islands(4, [slower(1, 0, 1), slower(9, 2, 3)]) == ((0, 1), (2, 3))


@pytest.mark.parametrize(("num_devices", "limit_s"), [(512, 2)])
def test_hundreds_of_devices(num_devices: int, limit_s: float):
    where, expected = hierarchy([[8] * 8] * (num_devices // 64))
    links = links_of(where, (2, 2), noise_of(0.08, 1))
    begin = time.perf_counter()
    assert find_islands(num_devices, links) == expected
    assert time.perf_counter() - begin < limit_s
