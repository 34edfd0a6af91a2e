"""The command line: contract of the JSON, exit codes, errors, start-up time, and no torch."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import wirecut
from fabrics import CONFIG, MADE, fabric
from wirecut.cli.app import app
from wirecut.fabric.discover import assumed_fabric
from wirecut.fabric.fabric import save_fabric
from wirecut.layout.plan import load_plan

RUNNER = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a model and a fabric, no network and no cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    save_fabric(fabric(4, latency_s=50e-6, launch_s=1e-6), tmp_path / "fabric.json")
    return tmp_path


def run(*words: str):
    return RUNNER.invoke(app, list(words))


def test_plan_json_is_the_contract(home: Path):
    done = run("plan", "tiny", "--fabric", "fabric.json", "--concurrency", "8", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"fabric", "model", "goal", "chosen", "ranking", "rejected", "flips"} <= set(found)
    assert found["model"] == str(home / "tiny")
    chosen = found["chosen"]
    keys = ["layout", "fits", "reason", "memory", "ttft_s", "tpot_s", "requests_per_s"]
    assert {
        *keys,
        "output_tokens_per_s",
        "bubble_fraction",
        "interval",
        "terms",
        "placement",
        "stages",
    } <= set(chosen)
    memory = ["weights_bytes", "kv_bytes", "activation_bytes", "capacity_bytes", "kv_tokens"]
    assert {*memory, "buffer_bytes", "rank", "wasted_bytes"} == set(chosen["memory"])
    term = {"name", "phase", "seconds", "because", "source", "wire_bytes"}
    assert all(term <= set(one) for one in chosen["terms"])
    assert chosen == found["ranking"][0]
    assert all({"layout", "reason"} <= set(one) for one in found["rejected"])
    assert all({"what", "threshold", "unit", "to"} <= set(one) for one in found["flips"])


def test_plan_out_and_explain_say_the_same(home: Path):
    options = ["--fabric", "fabric.json", "--goal", "latency"]
    done = run("plan", "tiny", *options, "--out", "plan.json")
    assert done.exit_code == 0, done.output
    again = run("explain", "plan.json")
    assert again.exit_code == 0
    assert done.stdout.startswith(again.stdout.rstrip("\n"))
    assert load_plan(home / "plan.json").goal == "latency"
    assert "does not divide" in run("explain", "plan.json", "--why-not", "tp3").stdout


def test_the_page_is_the_same_from_plan_and_from_explain(home: Path):
    options = ["--fabric", "fabric.json", "--concurrency", "8", "--out", "plan.json"]
    done = run("plan", "tiny", *options, "--html", "report.html")
    assert done.exit_code == 0, done.output
    assert "Written to report.html" in done.stdout
    page = (home / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "you are here" in page
    again = run("explain", "plan.json", "--html", "again.html")
    assert (again.exit_code, (home / "again.html").read_text()) == (0, page)


def test_a_page_without_its_model_says_why_it_has_no_map(home: Path):
    run("plan", "tiny", "--fabric", "fabric.json", "--out", "plan.json")
    (home / "tiny" / "config.json").unlink()
    done = run("explain", "plan.json", "--html", "report.html")
    assert done.exit_code == 0, done.output
    page = (home / "report.html").read_text()
    assert "Not drawn: " in page
    assert "you are here" not in page


def test_a_page_of_a_model_that_changed_says_so(home: Path):
    run("plan", "tiny", "--fabric", "fabric.json", "--out", "plan.json")
    (home / "tiny" / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    assert run("explain", "plan.json", "--html", "report.html").exit_code == 0
    assert "has 3 layers, the plan cuts 4" in (home / "report.html").read_text()


@pytest.mark.parametrize(
    ("part", "value"),
    [("placement", [99]), ("rank", 7), ("capacity_bytes", 0), ("stages", [[1, 4]])],
)
def test_a_damaged_estimate_is_refused(home: Path, part: str, value: object):
    run("plan", "tiny", "--fabric", "fabric.json", "--out", "plan.json")
    held = json.loads((home / "plan.json").read_text())
    one = next(one for one in held["ranking"] if one["layout"] == "tp1")
    (one if part in one else one["memory"])[part] = value
    (home / "plan.json").write_text(json.dumps(held))
    done = run("explain", "plan.json")
    assert done.exit_code == 2, done.output
    assert "damaged" in done.stderr


def test_why_not_prices_a_layout_that_the_plan_lost(home: Path):
    run("plan", "tiny", "--fabric", "fabric.json", "--out", "plan.json")
    held = json.loads((home / "plan.json").read_text())
    lost = held["ranking"].pop()["layout"]
    (home / "plan.json").write_text(json.dumps(held))
    done = run("explain", "plan.json", "--why-not", lost)
    assert done.exit_code == 0, done.output
    assert "It works: " in done.stdout
    assert "Where the time of one request goes" in done.stdout


def test_cost_over_fabrics(home: Path):
    options = ["--fabric", "fabric.json", "--fabric", "2xL40S", "--goal", "cost", "--price", "2.5"]
    done = run("plan", "tiny", *options)
    assert done.exit_code == 0, done.output
    assert "per 1M tokens" in done.stdout
    assert "On the other fabrics, at best" in done.stdout


def test_estimate_json(home: Path):
    done = run("estimate", "tiny", "--layout", "tp2", "--fabric", "fabric.json", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["layout"], found["fits"]) == ("tp2", True)
    for phase, name in (("prefill", "ttft_s"), ("decode", "tpot_s")):
        seconds = sum(one["seconds"] for one in found["terms"] if one["phase"] == phase)
        assert seconds == pytest.approx(found[name])


def test_estimate_of_a_layout_that_does_not_work(home: Path):
    done = run("estimate", "tiny", "--layout", "tp3", "--fabric", "fabric.json", "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["fits"] is False
    assert "sizes that work: 1, 2, 4" in found["reason"]
    plain = run("estimate", "tiny", "--layout", "tp8", "--fabric", "fabric.json")
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert "needs 8 devices, the fabric has 4" in plain.stderr


def test_what_fits_nowhere_exits_1(home: Path):
    save_fabric(fabric(2, memory_bytes=1000), home / "small.json")
    done = run("plan", "tiny", "--fabric", "small.json")
    assert done.exit_code == 1
    assert "no layout of tiny works on 2 devices" in done.stderr
    done = run("estimate", "tiny", "--layout", "tp1", "--fabric", "small.json")
    assert done.exit_code == 1
    assert "usable" in done.stderr


BAD_NUMBERS = [
    ("--concurrency", "0"),
    ("--concurrency", "-3"),
    ("--concurrency", "1000000000000"),
    ("--concurrency", "many"),
    ("--input-tokens", "0"),
    ("--input-tokens", "-1"),
    ("--input-tokens", "1.5"),
    ("--input-tokens", "99999999"),
    ("--output-tokens", "0"),
    ("--output-tokens", "-1"),
    ("--rate", "0"),
    ("--rate", "-1"),
    ("--rate", "nan"),
    ("--rate", "inf"),
    ("--ttft-ms", "0"),
    ("--ttft-ms", "nan"),
    ("--tpot-ms", "-5"),
]
BAD_WORDS = [
    ("--goal", "cost"),
    ("--goal", "beauty"),
    ("--html", "no/such/folder/report.html"),
    ("--html", "."),
    ("--engine", "none"),
    ("--dtype", "int3"),
    ("--fabric", "8xL40X"),
    ("--fabric", "nowhere.json"),
    ("--fabric", "."),
    ("--out", "no/such/folder/plan.json"),
    ("--out", "."),
    ("--nonsense", "1"),
]


@pytest.mark.parametrize(("option", "value"), BAD_NUMBERS + BAD_WORDS)
def test_bad_options_exit_2_and_say_what_was_expected(home: Path, option: str, value: str):
    before = sorted(home.iterdir())
    done = run("plan", "tiny", "--fabric", "fabric.json", option, value)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert "rror" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(home.iterdir()) == before


def test_concurrency_and_rate_together(home: Path):
    done = run("plan", "tiny", "--concurrency", "3", "--rate", "2")
    assert done.exit_code == 2
    assert "both concurrency and rate" in done.stderr


@pytest.mark.parametrize("name", ["nowhere", "owner/nowhere", "tiny/config.json", ".", "a/b/c", ""])
def test_models_that_are_not_there(home: Path, name: str):
    done = run("plan", name, "--fabric", "fabric.json")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": "mamba"}', "mamba"),
        ('{"model_type": "llama", "hidden', "cut short"),
        ("[]", "list"),
        ('{"model_type": "llama"}', "hidden_size"),
        ("\x00\x01", "JSON"),
    ],
)
def test_damaged_configs(home: Path, text: str, said: str):
    (home / "tiny" / "config.json").write_text(text)
    done = run("plan", "tiny", "--fabric", "fabric.json")
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "wirecut-fabric-9"}', "\xff"])
def test_foreign_files(home: Path, text: str):
    (home / "bad.json").write_text(text)
    done = run("plan", "tiny", "--fabric", "bad.json")
    assert (done.exit_code, "bad.json" in done.stderr) == (2, True)
    done = run("explain", "bad.json")
    assert (done.exit_code, "bad.json" in done.stderr) == (2, True)
    assert run("explain", "nowhere.json").exit_code == 2


def test_a_fabric_is_no_plan(home: Path):
    assert run("explain", "fabric.json").exit_code == 2


def test_without_a_fabric_the_last_probe_is_used_else_numbers_are_assumed(home: Path):
    assert run("plan", "tiny").stdout.startswith("Numbers are assumed")
    (home / "cache" / "wirecut").mkdir(parents=True)
    kept = home / "cache" / "wirecut" / "fabric.json"
    save_fabric(replace(assumed_fabric(), made=MADE), kept)
    found = json.loads(run("plan", "tiny", "--json").stdout)
    assert found["fabric"]["made"]["how"] == MADE.how
    save_fabric(fabric(3), kept)  # of another host
    found = json.loads(run("plan", "tiny", "--json").stdout)
    assert found["fabric"]["made"]["how"].startswith("assumed")


def test_ctrl_c_exits_130(home: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wirecut.api.plan_over", interrupted)
    assert run("plan", "tiny", "--fabric", "fabric.json").exit_code == 130


def test_python_interface(home: Path):
    traffic = wirecut.Traffic(input_tokens=100, output_tokens=10, concurrency=8)
    ranking = wirecut.plan("tiny", fabric=fabric(2), traffic=traffic, goal="latency")
    one = wirecut.estimate("tiny", fabric=fabric(2), layout=ranking.chosen.layout, traffic=traffic)
    assert one == ranking.chosen
    assert not wirecut.estimate("tiny", fabric="fabric.json", layout="tp8").fits
    with pytest.raises(wirecut.WirecutError):
        wirecut.plan("nowhere")
    with pytest.raises(wirecut.WirecutError, match="int3"):
        wirecut.plan("tiny", dtype="int3")
    with pytest.raises(AttributeError):
        _ = wirecut.nonsense


NO_HEAVY = """
import sys
for name in ("torch", "numpy", "transformers", "huggingface_hub"):
    sys.modules[name] = None
sys.argv = ["wirecut", "plan", "tiny", "--fabric", "fabric.json", "--json"]
from wirecut.cli.main import run
run()
"""


def test_plan_needs_nothing_heavy(home: Path):
    done = subprocess.run([sys.executable, "-c", NO_HEAVY], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chosen"]["fits"]


def test_plan_starts_in_under_half_a_second(home: Path):
    """Of processor time, which other work on this machine does not lengthen much."""
    command = [sys.executable, "-c", "from wirecut.cli.main import run; run()"]
    command += ["plan", "tiny", "--fabric", "fabric.json", "--concurrency", "8"]
    took: list[float] = []
    for _ in range(3):
        begin = _children_seconds()
        subprocess.run(command, capture_output=True, check=True)
        took.append(_children_seconds() - begin)
    assert min(took) < 0.5


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
