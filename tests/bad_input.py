"""Commands run in this process, which must refuse what they are given; `home` in conftest.py is
where they run.
"""

from typer.testing import CliRunner

from wirecut.cli.app import app

RUNNER = CliRunner()
PROMPT = ("--prompt", "hello")
GENERATE_PLAN = ("generate", "plan.json", *PROMPT)


class Started(Exception):
    """A command got as far as starting ranks."""


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
