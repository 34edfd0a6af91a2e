"""Bad input to every command: exit code 2, a message that says what was expected, no rank started.

Each case runs in this process; a command that would start ranks fails the test.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fabrics import fabric
from wirecut.cli.app import app
from wirecut.fabric.fabric import save_fabric

RUNNER = CliRunner()
PROMPT = ("--prompt", "hello")


class Started(Exception):
    """A command got as far as starting ranks."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `model`, `fabric.json` of 4 devices and `plan.json`; no network, no rank."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(checkpoint, tmp_path / "model")
    save_fabric(fabric(4), tmp_path / "fabric.json")
    assert run("plan", "model", "--fabric", "fabric.json", "--out", "plan.json").exit_code == 0

    def start_ranks(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr("wirecut.engine.engine.start_ranks", start_ranks)
    monkeypatch.setattr("wirecut.fabric.probe.start_ranks", start_ranks)
    return tmp_path


def run(*words: str):
    return RUNNER.invoke(app, list(words))


def refused(*words: str, says: str = "") -> str:
    """Run a command that must be refused; its one message."""
    done = run(*words)
    assert not isinstance(done.exception, Started), f"{words} started ranks"
    assert done.exit_code == 2, (words, done.exception)
    assert done.stdout == ""
    *usage, message = done.stderr.splitlines()
    assert message.startswith("Error: " if usage else "error: ")  # typer shows the usage before
    assert says in message
    return message


def from_model(model: str = "model") -> list[tuple[str, ...]]:
    """The commands that take a model, as a user types them."""
    wires = ("--fabric", "fabric.json")
    return [
        ("plan", model, *wires),
        ("estimate", model, "--layout", "tp2", *wires),
        ("generate", model, *PROMPT, *wires),
    ]


def all_refuse(commands: list[tuple[str, ...]], says: str) -> None:
    for command in commands:
        refused(*command, says=says)


GENERATE_PLAN = ("generate", "plan.json", *PROMPT)


def test_what_is_refused_here_works_when_unharmed() -> None:
    for command in [*from_model(), ("explain", "plan.json")]:
        assert run(*command).exit_code == 0 or command[0] == "generate"
    for command in (from_model()[2], GENERATE_PLAN, ("probe", "--ranks", "2")):
        assert isinstance(run(*command).exception, Started)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "no such folder"),
        ("owner/nowhere", "Hugging Face"),
        ("model/config.json/x", "no model"),
        (".", "no config.json"),
        ("", "the model's name is empty"),
        ("a" * 300, "no model '" + "a" * 80 + "...'"),
        ("a/" + "b" * 300, "no model 'a/bbb"),
        ("a" * 300 + " (fp8)", "no model 'aaa"),
        ("\udcff", "no model"),
    ],
)
def test_no_such_model(name: str, says: str) -> None:
    all_refuse(from_model(name), says)


CONFIG_DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"model_type": "mamba"}, "'mamba'; wirecut knows"),
    "layers": ({"num_hidden_layers": 5}, "model.layers.4."),
    "hidden": ({"hidden_size": 32}, "config.json makes it [320, 32]"),
    "heads": ({"num_attention_heads": 3}, "no multiple of num_key_value_heads"),
    "vocab": ({"vocab_size": 321}, "config.json makes it [321, 64]"),
    "negative": ({"vocab_size": -1}, "expected a whole number"),
    "absurd": ({"hidden_size": 10**30}, "expected a whole number"),
    "text": ({"num_hidden_layers": "four"}, "expected a whole number"),
    "scaled": ({"rope_scaling": "yarn"}, "rope_scaling"),
}


@pytest.mark.parametrize("damage", CONFIG_DAMAGES)
def test_a_config_that_is_unknown_or_contradicts_its_tensors(home: Path, damage: str) -> None:
    changes, says = CONFIG_DAMAGES[damage]
    path = home / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    all_refuse([*from_model(), GENERATE_PLAN], says)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_config_cut_short(home: Path, keep: int) -> None:
    path = home / "model" / "config.json"
    path.write_text(path.read_text()[:keep])
    all_refuse([*from_model(), GENERATE_PLAN], "config.json is not valid JSON")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_weights_cut_short(home: Path, keep: int) -> None:
    path = home / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    all_refuse([*from_model(), GENERATE_PLAN], "model.safetensors is cut short")


def test_a_tensor_missing(home: Path) -> None:
    path = home / "model" / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    renamed = whole[8 : 8 + length].replace(b"layers.2.mlp.up_proj", b"layers.2.mlp.up_xxxx")
    path.write_bytes(whole[:8] + renamed + whole[8 + length :])
    missing = "lacks 1 of the 39 tensors that its config.json asks for: model.layers.2.mlp.up_proj"
    all_refuse([*from_model(), GENERATE_PLAN], missing)


def test_no_weights_at_all(home: Path) -> None:
    (home / "model" / "model.safetensors").unlink()
    refused(*GENERATE_PLAN, says="has no model.safetensors")


@pytest.mark.parametrize("text", [None, "", "{", '{"version": "1.0"}', "[]"])
def test_a_tokenizer_missing_or_damaged(home: Path, text: str | None) -> None:
    path = home / "model" / "tokenizer.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    refused(*GENERATE_PLAN, says="tokenizer.json")


def test_a_tokenizer_of_another_model(home: Path) -> None:
    path = home / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["h"] = 400
    path.write_text(json.dumps(tokenizer))
    refused(*GENERATE_PLAN, says="token ids outside 0 to 319")


LAYOUTS = [
    ("tp8", "needs 8 devices, the fabric has 4"),
    ("tp999999", "needs 999999 devices"),
    ("tp1000000pp1000000", "ranks, more than 1000000"),
    ("tp3", "sizes that work: 1, 2, 4"),
    ("ep2dp2", "dense model"),
    ("tp0", "tp is 0, expected"),
    ("tp-1", "write tp4"),
    ("tp", "write tp4"),
    ("", "write tp4"),
    ("tp2tp2", "twice"),
    ("9" * 30, "write tp4"),
    ("tp" + "9" * 30, "write tp4"),
]


@pytest.mark.parametrize(("layout", "says"), LAYOUTS)
def test_layouts(layout: str, says: str) -> None:
    wires = ("--fabric", "fabric.json")
    refused("estimate", "model", *wires, "--layout", layout, says=says)
    refused("generate", "model", *wires, *PROMPT, "--layout", layout, says=says)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("goal", "x"),
        ("engine", "x"),
        ("goal", "cost"),
        ("prices", {"*": 1e308}),
        ("memory_share", 2),
    ],
)
def test_a_plan_of_another_question(home: Path, field: str, value: object) -> None:
    plan = json.loads((home / "plan.json").read_text())
    (home / "plan.json").write_text(json.dumps({**plan, field: value}))
    refused("explain", "plan.json", says="the plan's question is damaged")


@pytest.mark.parametrize("rate", [1e-300, 0.5])
def test_rates_of_a_fabric_that_nothing_has(home: Path, rate: float) -> None:
    whole = json.loads((home / "fabric.json").read_text())
    for part in (whole["links"][0], whole["devices"][0]):
        kept, part["bytes_per_s"] = part["bytes_per_s"], rate
        (home / "fabric.json").write_text(json.dumps(whole))
        for command in from_model()[:2]:
            refused(*command, says=f"bytes_per_s is {rate}, expected at least 1")
        part["bytes_per_s"] = kept


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--price", "1e308"), "expected 1e-09 to 1e+09 per hour"),
        (("--price", "1e-320"), "expected 1e-09 to 1e+09 per hour"),
        (("--price", "=3"), "names no device before the ="),
    ],
)
def test_prices(words: tuple[str, ...], says: str) -> None:
    refused("plan", "model", "--fabric", "fabric.json", "--goal", "cost", *words, says=says)


@pytest.mark.parametrize("share", ["0", "-1", "1.01", "nan", "inf", "1e-320"])
def test_shares_of_memory(share: str) -> None:
    for command in from_model()[:2]:
        refused(*command, "--memory-share", share, says="expected a number from 0.01 to 1")


def test_more_stages_than_layers(home: Path) -> None:
    save_fabric(fabric(8), home / "eight.json")
    for command in from_model()[1:]:
        words = [*command, "--layout", "pp5", "--fabric", "eight.json"]
        refused(*words, says="pp 5 is more stages than the model's 4 layers")


@pytest.mark.parametrize("layout", ["tp8", "tp3", "tp0", "x", ""])
def test_layouts_that_a_plan_does_not_hold(layout: str) -> None:
    refused(*GENERATE_PLAN, "--layout", layout)
    if layout in ("tp0", "x", ""):
        refused("explain", "plan.json", "--why-not", layout)


def test_a_layout_that_the_plan_rejected_says_why() -> None:
    refused(*GENERATE_PLAN, "--layout", "tp3", says="sizes that work: 1, 2, 4")


FOREIGN = ["", "{}", "[1]", "null", '"x"', '{"format": "wirecut-fabric-9"}', "\x00\xff", "[" * 9999]


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_files(home: Path, text: str) -> None:
    (home / "bad.json").write_bytes(text.encode("latin-1"))
    for command in from_model():
        refused(*command, "--fabric", "bad.json", says="bad.json is not a fabric.json of wirecut")
    for command in (("explain", "bad.json"), ("generate", "bad.json", *PROMPT)):
        refused(*command, says="bad.json is not a plan.json of wirecut")


def test_one_kind_of_file_is_not_the_other() -> None:
    refused("plan", "model", "--fabric", "plan.json", says="not a fabric.json")
    refused("explain", "fabric.json", says="not a plan.json")
    refused("generate", "fabric.json", *PROMPT, says="not a plan.json")
    refused("explain", "model", says="directory")
    refused(*GENERATE_PLAN, "--fabric", "fabric.json", says="leave out --fabric")


@pytest.mark.parametrize("path", ["nowhere.json", ".", "a" * 300])
def test_paths_that_lead_nowhere(path: str) -> None:
    for command in from_model():
        refused(*command, "--fabric", path)
    refused("explain", path)


def test_outputs_that_would_overwrite_another_file(home: Path) -> None:
    both = ("--out", "x.json", "--html", "./x.json")
    refused("plan", "model", "--fabric", "fabric.json", *both, says="it is another output too")
    refused("explain", "plan.json", "--html", "plan.json", says="it is what is read too")
    assert not (home / "x.json").exists()
    assert run("explain", "plan.json").exit_code == 0


def test_output_that_cannot_be_written(home: Path) -> None:
    for path in (".", "no/x.json", "fabric.json/x", "a" * 300, "/proc/x.json"):
        refused("plan", "model", "--fabric", "fabric.json", "--out", path)
    for path in (".", "no/x.json", "fabric.json/x", "a" * 300):
        refused("probe", "--out", path)
    assert not list(home.glob(".*"))


HARM: tuple[object, ...] = (None, "x", -1, 0, 1e300, 10**30, float("nan"), [], {}, [1], {"a": 1})
DELETED = object()


def harmed(whole: Any) -> Iterator[Any]:
    """`whole` with one part of it deleted or replaced, for parts and harms drawn at random."""
    cases = [(path, harm) for path in _paths(whole) for harm in (DELETED, *HARM)]
    for path, harm in random.Random(0).sample(cases, min(len(cases), 150)):
        copy = json.loads(json.dumps(whole))
        at = copy
        for key in path[:-1]:
            at = at[key]
        if harm is DELETED:
            del at[path[-1]]
        else:
            at[path[-1]] = harm
        yield copy


def _paths(whole: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = whole.items() if isinstance(whole, dict) else enumerate(whole[:2])
    for key, part in parts:
        yield (*above, key)
        if isinstance(part, dict | list):
            yield from _paths(part, (*above, key))


def no_crash(*words: str) -> None:
    """Whatever it answers, it answers."""
    done = run(*words)
    assert done.exception is None or isinstance(done.exception, SystemExit | Started), words
    assert done.exit_code == 0 or done.exception
    if done.exit_code == 2:
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("fabric.json", lambda: from_model()[:2]),
        ("plan.json", lambda: [("explain", "plan.json"), GENERATE_PLAN]),
        ("model/config.json", lambda: from_model()[:2]),
    ],
)
def test_no_single_harm_to_a_file_is_a_crash(
    home: Path, name: str, commands: Callable[[], list[tuple[str, ...]]]
) -> None:
    whole = json.loads((home / name).read_text())
    for other in harmed(whole):
        (home / name).write_text(json.dumps(other))
        for command in commands():
            no_crash(*command)


LOAD = ("--input-tokens", "--output-tokens", "--concurrency")
COUNTS = {
    ("probe",): ("--ranks",),
    ("plan", "model"): LOAD,
    ("estimate", "model", "--layout", "tp2"): LOAD,
    ("generate", "model", *PROMPT): ("--max-tokens", "--max-batched-tokens", "--seed", "-n"),
    GENERATE_PLAN: ("--max-tokens", "--max-batched-tokens", "--seed", "--logprobs", "--top-k"),
}
NUMBERS = {
    ("plan", "model"): ("--rate", "--ttft-ms", "--tpot-ms"),
    ("estimate", "model", "--layout", "tp2"): ("--rate",),
    ("generate", "model", *PROMPT): ("--temperature",),
    GENERATE_PLAN: ("--temperature", "--top-p", "--min-p", "--repetition-penalty"),
}
ABSURD = ("-1", str(10**30), "-" + str(10**30), "nan", "-inf", "", "many")
NOT_ABSURD = {  # options of which 0 or no end is a value
    ("--seed", "0"),
    ("--temperature", "0"),
    ("--logprobs", "0"),
    ("--top-k", "0"),
    ("--min-p", "0"),
    ("estimate --rate", "inf"),
}


def _cases() -> Iterator[tuple[tuple[str, ...], str, str]]:
    for table, more in ((COUNTS, ("0", "1.5", "1e3")), (NUMBERS, ("0", "inf"))):
        for command, options in table.items():
            for option in options:
                for value in (*ABSURD, *more):
                    names = (option, value), (f"{command[0]} {option}", value)
                    if not NOT_ABSURD.intersection(names):
                        yield command, option, value


@pytest.mark.parametrize(
    ("command", "option"), list(dict.fromkeys((command, option) for command, option, _ in _cases()))
)
def test_absurd_numbers(command: tuple[str, ...], option: str) -> None:
    for value in (v for c, o, v in _cases() if (c, o) == (command, option)):
        message = refused(*command, option, value)
        assert "expect" in message or "Invalid value" in message or "finite" in message


@pytest.mark.parametrize("option", ["--goal", "--engine", "--dtype"])
def test_unknown_words(option: str) -> None:
    refused("plan", "model", option, "none")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompt", ""), "a prompt of 0 tokens"),
        (("--prompt", "\udcff"), "not valid Unicode"),
        (("--prompt", "x" * 5000), "window is 4096"),
        (("--prompt", "x", "--max-tokens", "5000"), "window is 4096"),
        ((*PROMPT, "-n", "2"), "equal answers"),
        ((*PROMPT, "--stop", ""), "stop string is empty"),
        ((), "Missing option '--prompt'"),
    ],
)
def test_prompts(words: tuple[str, ...], says: str) -> None:
    refused("generate", "model", *words, says=says)


def test_prompts_that_a_plan_has_no_room_for(home: Path) -> None:
    plan = json.loads((home / "plan.json").read_text())
    plan["limits"]["kv_tokens"] = 64
    (home / "plan.json").write_text(json.dumps(plan))
    refused(*GENERATE_PLAN, says="there is KV room for 64")
