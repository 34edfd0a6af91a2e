"""Fabrics and plans that are damaged or foreign, and files that cannot be read or written."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bad_input import GENERATE_PLAN, PROMPT, Started, from_model, refused, run

pytestmark = pytest.mark.usefixtures("home")


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
