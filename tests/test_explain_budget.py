"""The time budget: its rows add up as printed, its bars are as long as the requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explained import PP2, TP1, TP2, TRAFFIC, estimate
from wirecut.explain.budget import (
    by_kind,
    compare,
    doubt,
    in_steps,
    request_seconds,
    shown_rows,
    whole_request,
)
from wirecut.explain.page import Grid
from wirecut.explain.tables import bar, budget_table, scale_of

N = TRAFFIC.output_tokens


SECONDS = st.floats(1e-9, 1e3)


KIND_SECONDS = st.dictionaries(
    st.sampled_from(["compute", "memory", "all-reduce", "bubble", "overhead", "wait"]),
    SECONDS,
    min_size=1,
)


def test_every_budget_row_adds_up_as_printed():
    third = estimate("tp2", {"memory": 1e-2 / 3, "all-reduce": 1e-2 / 3, "overhead": 1e-2 / 3})
    blocks = budget_table(N, shown_rows([third, PP2, TP1], N))
    grid = next(block for block in blocks if isinstance(block, Grid))
    assert grid.columns[:2] == ("layout", ">total")
    assert [one.removeprefix(">") for one in grid.columns[2:-1]] == [
        "compute", "memory", "all-reduce", "hand-off", "bubble", "overhead"
    ]  # fmt: skip
    for row in grid.rows:
        parts = [0 if cell == "-" else int(cell.replace(".", "")) for cell in row[2:-1]]
        assert sum(parts) == int(row[1].replace(".", ""))
    assert grid.rows[0][1] == "1100"


@given(KIND_SECONDS, st.floats(1e-6, 1.0))
def test_steps_add_up_and_are_near(parts, step):
    counts = in_steps(parts, step)
    assert sum(counts.values()) == pytest.approx(sum(parts.values()) / step, abs=0.51)
    assert all(abs(counts[kind] - parts[kind] / step) < 1.01 for kind in parts)


@given(KIND_SECONDS)
def test_a_bar_is_as_long_as_its_request(parts):
    total = sum(parts.values())
    assert len(bar(parts, total, 20)) == 20
    assert len(bar(parts, 2 * total, 20)) == 10


@given(SECONDS)
def test_times_are_shown_with_four_digits(longest):
    unit, name, digits = scale_of(longest)
    assert unit == {"s": 1.0, "ms": 1e-3, "us": 1e-6}[name]
    if longest >= 1e-6:
        assert len(f"{longest / unit:.{digits}f}".replace(".", "")) >= 4


def test_one_hopeless_layout_leaves_the_others_their_bars():
    slow = estimate("pp4", {"memory": 1.0})
    blocks = budget_table(N, shown_rows([TP2, TP1, slow], N))
    grid = next(block for block in blocks if isinstance(block, Grid))
    bars = [row[-1] for row in grid.rows]
    assert bars[2].endswith("»")
    assert len(bars[2]) > len(bars[1]) > len(bars[0]) > 2
    assert grid.rows[0][1] == "880"


def test_kinds_and_terms_sum_to_the_request():
    for one in (TP2, PP2, TP1):
        whole = whole_request(one, N)
        assert whole == pytest.approx(one.ttft_s + 10 * one.tpot_s)
        assert sum(by_kind(one, N).values()) == pytest.approx(whole)
        assert sum(request_seconds(one, N).values()) == pytest.approx(whole)
    lines = compare(TP2, TP1, N)
    assert sum(line.theirs - line.ours for line in lines) == pytest.approx(
        whole_request(TP1, N) - whole_request(TP2, N)
    )
    sizes = [abs(line.difference) for line in lines]
    assert sizes == sorted(sizes, reverse=True)


def test_what_both_share_is_not_in_doubt():
    assert doubt(TP2, TP2, N) == 0
    more = estimate("pp2", {"memory": 6e-3, "all-reduce": 2e-3, "overhead": 0.5e-3})
    assert doubt(TP2, more, N) == pytest.approx(0.1 * 110 * 0.5e-3)


def test_a_bubble_is_as_wrong_as_the_work_that_it_waits_for():
    # a pipeline that idles half of the time streams as much as one device: nothing else differs
    piped = estimate("pp2", {"memory": 6e-3, "bubble": 6e-3})
    alone = estimate("tp1", {"memory": 12e-3})
    assert doubt(piped, alone, N) == pytest.approx(0)
