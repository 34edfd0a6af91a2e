"""The goal "cost": prices of the user, how few devices, and which of several fabrics."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import wirecut
from wirecut.cli.app import app
from wirecut.errors import NothingFits, UsageError
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.plan import load_plan, save_plan
from wirecut.planner.contest import misses
from wirecut.planner.plan import Ranking
from wirecut.planner.plan_file import ranking_of
from wirecut.planner.prices import hourly, per_million, read_prices
from wirecut.spec.traffic import Traffic

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LOAD = Traffic(512, 128, concurrency=32)
PRICES = {"H100-SXM": 2.5, "L40S": 0.9}
NO_PRICES = ("0", "-1", "inf", "nan", "1e-320", "1e300", "1e308")


def planned(fabric: str | list[str], traffic: Traffic = LOAD, **more: object) -> Ranking:
    more = {"goal": "cost", "prices": PRICES, "engine": "vllm", **more}
    return wirecut.plan(MODEL, fabric, traffic=traffic, **more)  # type: ignore[arg-type]


def price_of(ranking: Ranking, fabric: str) -> list[float]:
    wires = typed_fabric(fabric)
    return [
        per_million(hourly(wires, one.placement, ranking.prices), one.output_tokens_per_s)
        for one in ranking.ranked
    ]


def test_prices_are_read():
    assert read_prices(["H100-SXM=2.5", "0.7"]) == {"H100-SXM": 2.5, "*": 0.7}
    assert read_prices(["NVIDIA H100 80GB HBM3=2"]) == {"H100-SXM": 2.0}
    assert read_prices(["My Card=1"]) == {"My Card": 1.0}
    for texts, says in (
        (["H100-SXM=cheap"], "not understood"),
        *(([number], "every device is .*, expected 1e-09 to") for number in NO_PRICES),
        (["=3"], "names no device before the ="),
        (["L40S=1", "l40s=2"], "L40S is given twice"),
    ):
        with pytest.raises(UsageError, match=says):
            read_prices(texts)


def test_a_million_tokens_by_hand():
    assert per_million(3.6, 1000.0) == pytest.approx(1.0)  # 3.6 million tokens an hour
    wires = typed_fabric("4xL40S")
    assert hourly(wires, (0, 3), {"L40S": 0.9}) == pytest.approx(1.8)
    assert hourly(wires, (0, 3), {"*": 2.0}) == pytest.approx(4.0)
    with pytest.raises(UsageError, match="no price for L40S: give --price L40S=PRICE"):
        hourly(wires, (0,), {"H100-SXM": 2.5})


@pytest.mark.parametrize("price", [1e-9, 1e9])
def test_the_ends_of_prices(price: float):
    ranking = planned("2xL40S", prices=price)
    assert ranking.chosen.layout == planned("2xL40S").chosen.layout


def test_cost_needs_prices():
    with pytest.raises(UsageError, match=r"needs prices.*--price"):
        planned("2xL40S", prices=None)
    with pytest.raises(UsageError, match="no price for L40S"):
        planned("2xL40S", prices={"H100-SXM": 2.5})
    assert planned("2xL40S", prices=1.0).prices == {"*": 1.0}


def test_the_cheapest_leads():
    prices = price_of(planned("4xL40S"), "4xL40S")
    assert prices == pytest.approx(sorted(prices), rel=1e-9)


def test_how_few_devices_within_targets():
    free = planned("8xL40S")
    assert free.chosen.devices_used == 1  # idle devices cost too
    target = 0.7e3 * free.chosen.tpot_s
    held = planned("8xL40S", replace(LOAD, tpot_ms=target))
    assert held.chosen.tpot_s * 1e3 <= target
    assert held.chosen.devices_used > 1
    cheaper = [
        one
        for one, price in zip(held.ranked, price_of(held, "8xL40S"), strict=True)
        if price < price_of(held, "8xL40S")[0]
    ]
    assert cheaper  # and each of them misses
    assert all(one.tpot_s * 1e3 > target for one in cheaper)


def test_a_rate_is_carried_by_the_fewest():
    ranking = planned("8xL40S", Traffic(512, 128, rate=40.0))
    rate, used = 40.0 * 128, ranking.chosen.devices_used
    assert ranking.chosen.output_tokens_per_s == pytest.approx(rate, rel=1e-2)
    fewer = [one for one in ranking.ranked if one.devices_used < used]
    assert fewer
    assert all(one.output_tokens_per_s < 0.999 * rate for one in fewer)


def test_which_fabric():
    names = ["4xL40S", "2xH100-SXM"]
    both = planned(names)
    alone = {name: planned(name) for name in names}
    costs = {name: price_of(one, name)[0] for name, one in alone.items()}
    best, other = sorted(names, key=lambda name: costs[name])
    assert both.chosen == alone[best].chosen
    (elsewhere,) = both.elsewhere
    assert elsewhere.fabric == other
    assert elsewhere.chosen == alone[other].chosen
    assert elsewhere.runner_up == alone[other].ranked[1]
    assert elsewhere.price_per_million == pytest.approx(costs[other])
    # the order in which they are given does not matter
    assert planned(names[::-1]).chosen == both.chosen


def test_prices_decide_which_fabric():
    names = ["4xL40S", "4xH100-SXM"]
    for prices, device in (
        ({"L40S": 0.1, "H100-SXM": 9.0}, "L40S"),
        ({"L40S": 9.0, "H100-SXM": 0.1}, "H100-SXM"),
    ):
        ranking = planned(names, prices=prices)
        (other,) = ranking.elsewhere
        assert device not in other.fabric


def test_a_fabric_that_holds_nothing_is_told():
    ranking = planned(["1x8GB,300GB/s,60TFLOP/s", "1xL40S"], prices=1.0)
    (other,) = ranking.elsewhere
    assert other.chosen is None
    assert other.reason is not None
    assert "what would hold it" in other.reason
    with pytest.raises(NothingFits, match="no layout"):
        planned(["1x8GB,300GB/s,60TFLOP/s", "2x6GB,300GB/s,60TFLOP/s"], prices=1.0)


def test_several_fabrics_serve_other_goals_too():
    ranking = planned(["1xL40S", "1xH100-SXM"], goal="latency", prices=None)
    (other,) = ranking.elsewhere
    assert other.fabric == "1xL40S"
    assert other.price_per_hour == 0.0


def test_misses_by_hand():
    traffic = Traffic(10, 10, rate=5.0, ttft_ms=100.0, tpot_ms=10.0)
    found = misses(0.15, 0.005, 40.0, traffic, goal="cost")
    assert [(one.what, one.value, one.target) for one in found] == [
        ("ttft_ms", 150.0, 100.0),
        ("rate", 4.0, 5.0),
    ]
    assert [one.by for one in found] == [pytest.approx(0.5), pytest.approx(0.2)]
    assert misses(0.1, 0.01, 40.0, traffic, goal="latency") == ()


def test_a_plan_file_keeps_prices_and_other_fabrics(tmp_path):
    plan_file = wirecut.api.plan_file_of(
        MODEL, ["1xL40S", "1xH100-SXM"], goal="cost", traffic=LOAD, prices=PRICES, engine="vllm"
    )
    save_plan(plan_file, tmp_path / "plan.json")
    read = ranking_of(load_plan(tmp_path / "plan.json"))
    assert read == planned(["1xL40S", "1xH100-SXM"])
    assert read.prices == PRICES
    assert read.elsewhere


def test_the_command_line_takes_fabrics_and_prices():
    words = ["plan", MODEL, "--goal", "cost", "--engine", "vllm", "--concurrency", "32"]
    words += ["--fabric", "1xL40S", "--fabric", "1xH100-SXM"]
    done = CliRunner().invoke(app, [*words, "--price", "L40S=0.9", "--price", "2.5", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["prices"] == {"L40S": 0.9, "*": 2.5}
    names = {found["fabric"]["devices"][0]["name"], found["elsewhere"][0]["fabric"][2:]}
    assert names == {"L40S", "H100-SXM"}
    bare = CliRunner().invoke(app, words)
    assert bare.exit_code == 2
    assert "--price" in bare.output
