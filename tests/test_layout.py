"""The rank grid, the layouts that are allowed, and the cut into stages."""

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs import LLAMA_8B, spec_of
from wirecut.errors import LayoutError, UsageError
from wirecut.layout.layout import AXES, Layout, parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.rules import allowed_tp, why_not
from wirecut.layout.stages import cut_stages

degrees = st.integers(1, 6)
layouts = st.builds(Layout, tp=degrees, pp=degrees, dp=degrees)


def test_groups_by_hand():
    layout = Layout(tp=2, pp=3, dp=2)
    assert layout.groups("tp") == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
    assert layout.groups("pp") == [(0, 2, 4), (1, 3, 5), (6, 8, 10), (7, 9, 11)]
    assert layout.groups("dp") == [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]
    assert (layout.world_size, layout.replica_size) == (12, 6)
    assert layout.coord(9) == {"dp": 1, "pp": 1, "tp": 1}


@given(layouts)
def test_the_grid_round_trips(layout):
    for rank in range(layout.world_size):
        assert layout.rank(**layout.coord(rank)) == rank
    assert parse_layout(str(layout)) == layout


@given(layouts, st.sampled_from(AXES))
def test_groups_differ_along_their_axis_alone_and_hold_every_rank_once(layout, axis):
    groups = layout.groups(axis)
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world_size))
    for group in groups:
        coords = [layout.coord(rank) for rank in group]
        assert [coord[axis] for coord in coords] == list(range(getattr(layout, axis)))
        assert len({tuple(c[other] for other in AXES if other != axis) for c in coords}) == 1


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("tp4", Layout(tp=4)),
        (" TP4PP2 ", Layout(tp=4, pp=2)),
        ("pp2tp4", Layout(tp=4, pp=2)),
        ("tp2pp2dp2ep4", Layout(2, 2, 2, 4)),
        ("dp1", Layout()),
    ],
)
def test_layouts_as_written(text, layout):
    assert parse_layout(text) == layout


def test_degrees_of_one_are_left_out_when_printed():
    assert str(Layout()) == "tp1"
    assert str(Layout(2, 1, 3)) == "tp2dp3"
    assert str(Layout(2, 2, 2, 4)) == "tp2pp2dp2ep4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not understood: write tp4"),
        ("4", "not understood"),
        ("tp", "not understood"),
        ("tp4x", "not understood"),
        ("tp-4", "not understood"),
        ("tp4,pp2", "not understood"),
        ("tp2tp2", "gives tp twice"),
        ("tp0", "tp is 0, expected a whole number of at least 1"),
        ("tp2ep3", "ep 3 does not divide dp x tp = 2"),
        ("tp99999pp99999", "more than 1000000"),
        ("tp" + "9" * 40, "not understood"),
        ("tp\u0664", "not understood"),
    ],
)
def test_layouts_that_cannot_be_read(text, words):
    with pytest.raises(LayoutError, match=words):
        parse_layout(text)


@given(st.text() | st.from_regex(r"((tp|pp|dp|ep)\d{0,12}){0,5}.?", fullmatch=True))
def test_no_text_crashes_the_parser(text):
    try:
        layout = parse_layout(text)
    except LayoutError:
        return
    assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize("degree", [0, -1, 1.5, "2", True, None])
def test_degrees_are_whole_numbers_of_at_least_one(degree):
    with pytest.raises(LayoutError, match="pp is "):
        Layout(pp=degree)


# -- rules


def test_tp_sizes_that_heads_allow():
    assert allowed_tp(spec_of()) == [1, 2, 4, 8]  # 8 query heads, 4 key-value heads
    assert allowed_tp(spec_of(LLAMA_8B)) == [1, 2, 4, 8, 16, 32]
    assert allowed_tp(spec_of(num_attention_heads=12, num_key_value_heads=3, head_dim=32)) == [
        1,
        3,
        6,
        12,
    ]


@pytest.mark.parametrize(
    ("layout", "devices", "words"),
    [
        (Layout(tp=2, dp=2), 3, "tp2dp2 needs 4 devices, the fabric has 3"),
        (Layout(tp=3), 8, "does not divide 8 query and 4 key-value heads evenly; .* 1, 2, 4, 8"),
        (Layout(pp=9), 16, "pp 9 is more stages than the model's 8 layers"),
        (Layout(tp=2, ep=2), 8, "ep 2 needs experts; test is a dense model"),
    ],
)
def test_why_not(layout, devices, words):
    assert re.search(words, why_not(spec_of(), layout, devices))


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=8), Layout(pp=8), Layout(2, 2, 2)])
def test_layouts_that_work_have_no_why_not(layout):
    assert why_not(spec_of(), layout, 8) is None


# -- stages


def heaviest(weights, stages, first_extra, last_extra) -> float:
    loads = [sum(weights[first:last]) for first, last in stages]
    loads[0] += first_extra
    loads[-1] += last_extra
    return max(loads)


def every_cut(layers, pp):
    for inner in combinations(range(1, layers), pp - 1):
        yield tuple(pairwise((0, *inner, layers)))


def test_stages_by_hand():
    assert cut_stages([1] * 8, 1) == ((0, 8),)
    assert cut_stages([1] * 8, 2) == ((0, 4), (4, 8))
    assert cut_stages([1] * 8, 3) == ((0, 3), (3, 6), (6, 8))
    # a head that weighs two layers takes two from the last stage, an embedding one from the first
    assert cut_stages([1] * 8, 2, extras=(0, 2)) == ((0, 5), (5, 8))
    assert cut_stages([1] * 8, 2, extras=(2, 0)) == ((0, 3), (3, 8))
    assert cut_stages([5, 1, 1, 1], 2) == ((0, 1), (1, 4))
    assert cut_stages([1, 1, 1], 3, extras=(0, 0, 100)) == ((0, 1), (1, 2), (2, 3))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_stages_are_as_good_as_the_best_of_all_cuts(weights, pp, first_extra, last_extra):
    pp = min(pp, len(weights))
    extras = [0] * pp
    extras[0] += first_extra
    extras[-1] += last_extra
    found = cut_stages(weights, pp, extras=extras)
    assert found in set(every_cut(len(weights), pp))
    best = min(heaviest(weights, c, first_extra, last_extra) for c in every_cut(len(weights), pp))
    assert heaviest(weights, found, first_extra, last_extra) == best


@pytest.mark.parametrize("pp", [0, 4, -1])
def test_stages_need_a_layer_each(pp):
    with pytest.raises(ValueError, match=f"3 layers cannot make {pp} stages"):
        cut_stages([1, 1, 1], pp)


# -- a cut


def test_a_cut_holds_together():
    Cut(Layout(2, 2), (3, 1, 0, 2), ((0, 3), (3, 8)))


@pytest.mark.parametrize(
    ("placement", "stages", "words"),
    [
        ((0, 1, 2), ((0, 3), (3, 8)), "each of 4 ranks its own device"),
        ((0, 1, 2, 2), ((0, 3), (3, 8)), "each of 4 ranks its own device"),
        ((0, 1, 2, 3), ((0, 8),), "1 stages for pp 2"),
        ((0, 1, 2, 3), ((0, 3), (4, 8)), "do not follow one another"),
        ((0, 1, 2, 3), ((0, 3), (3, 3)), "do not follow one another"),
        ((0, 1, 2, 3), ((1, 3), (3, 8)), "do not follow one another"),
    ],
)
def test_a_cut_that_does_not(placement, stages, words):
    with pytest.raises(ValueError, match=words):
        Cut(Layout(2, 2), placement, stages)


@pytest.mark.parametrize(
    "fields",
    [{"max_batched_tokens": 0}, {"max_seqs": 10**10}, {"kv_tokens": -1}, {"max_seqs": 1.0}],
)
def test_limits_are_whole_numbers_in_range(fields):
    with pytest.raises(UsageError, match=f"{next(iter(fields))} is .*, expected a whole number"):
        Limits(**fields)
