"""How wide predictions are said to be, by what their time is spent on."""

import math

import pytest

import wirecut
from wirecut.cost.terms import Estimate, Term, half_width, intervals, time_width
from wirecut.spec.traffic import Traffic

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"


def priced(users: int, fabric: str = "1xH100-SXM") -> Estimate:
    found = wirecut.estimate(
        LLAMA_8B, fabric, layout="tp1", engine="vllm", traffic=Traffic(1024, 256, concurrency=users)
    )
    assert isinstance(found, Estimate), found.reason
    return found


def test_an_interval_is_as_wide_up_as_down_in_ratio():
    found = priced(8)
    values = (found.ttft_s, found.tpot_s, found.output_tokens_per_s)
    for (low, high), value in zip(found.interval.values(), values, strict=True):
        assert 0 < low < value < high
        assert math.sqrt(low * high) == pytest.approx(value)


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


def test_waiting_for_others_is_less_sure_than_work():
    def ratio(found: Estimate) -> float:
        low, high = found.interval["ttft_s"]
        return high / low

    assert ratio(priced(256)) > 1.2 * ratio(priced(1))


def test_times_are_as_wide_as_what_they_are_spent_on():
    assert time_width("memory", "measured", 0.07) == 0.07
    assert time_width("memory", "measured") == half_width("measured")
    for kind in ("compute", "memory", "all-reduce", "overhead"):
        assert time_width(kind, "assumed") > time_width(kind, "datasheet")
    assert time_width("memory", "datasheet") < time_width("compute", "datasheet")


def test_derived_kernels_are_less_sure():
    """MI300X's kernels are derived from another generation's."""
    widths = [
        next(term.spread for term in priced(1, fabric).terms if term.name == "weights")
        for fabric in ("1xH100-SXM", "1xMI300X")
    ]
    assert widths[0] < widths[1]
