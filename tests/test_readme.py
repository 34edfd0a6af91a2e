"""The README's own commands and its Python, run in order as a newcomer would paste them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "console"
    for line in block.splitlines()
    if line.startswith(".venv/bin/wirecut ")
]
SNIPPETS = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone, with a cache of its own."""
    for folder in ("examples", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    """A command as typed; `< FILE` at its end is its standard input."""
    pasted = None
    if words[-2] == "<":
        *words, _, name = words
        pasted = Path(name).read_text()
    done = subprocess.run(
        words, input=pasted, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def test_commands(newcomer: Path) -> None:
    assert {"plan", "explain", "estimate", "probe", "generate"} <= {one[1] for one in COMMANDS}
    for command in COMMANDS:
        assert run(os.path.join(os.path.dirname(sys.executable), "wirecut"), *command[1:])
    assert (newcomer / "fabric.json").is_file()
    assert (newcomer / "plan.json").is_file()
    assert (newcomer / "report.html").is_file()


def test_python(newcomer: Path) -> None:
    assert len(SNIPPETS) == 1
    assert run(sys.executable, "-c", SNIPPETS[0]).strip()
    assert newcomer.is_dir()
