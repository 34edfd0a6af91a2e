"""Bad input to every command: exit code 2, a message that says what was expected, no rank started.

Each case runs in this process; a command that would start ranks fails the test.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_input import GENERATE_PLAN, PROMPT, Started, from_model, refused, run
from fabrics import fabric
from wirecut.fabric.fabric import save_fabric

pytestmark = pytest.mark.usefixtures("home")


def test_what_is_refused_here_works_when_unharmed() -> None:
    for command in [*from_model(), ("explain", "plan.json")]:
        assert run(*command).exit_code == 0 or command[0] == "generate"
    for command in (from_model()[2], GENERATE_PLAN, ("probe", "--ranks", "2")):
        assert isinstance(run(*command).exception, Started)


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
        (("--prompt", ""), "a prompt is empty"),
        (("--prompt", "\udcff"), "not valid Unicode"),
        (("--prompt", "x" * 5000), "window is 4096"),
        (("--prompt", "x", "--max-tokens", "5000"), "window is 4096"),
        ((*PROMPT, "-n", "2"), "equal answers"),
        ((*PROMPT, "--stop", ""), "stop string is empty"),
        ((), "Missing option '--prompt'"),
        ((*PROMPT, "--fabric", "2xL40S:pcie4", "--layout", "tp2"), "this machine has 0 GPUs"),
        ((*PROMPT, "--layout", "tp2pp2"), "`wirecut probe --ranks 4 --out shared.json`"),
        ((*PROMPT, "--dtype", "int4"), "is stored in bf16: wirecut runs int4 where a checkpoint"),
    ],
)
def test_prompts(words: tuple[str, ...], says: str) -> None:
    refused("generate", "model", *words, says=says)


def test_prompts_that_a_plan_has_no_room_for(home: Path) -> None:
    plan = json.loads((home / "plan.json").read_text())
    plan["limits"]["kv_tokens"] = 64
    (home / "plan.json").write_text(json.dumps(plan))
    refused(*GENERATE_PLAN, says="there is KV room for 64")
