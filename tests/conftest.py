"""Fixtures that several files of tests share."""

import shutil
from pathlib import Path

import pytest

from models import write_model

pytest.register_assert_rewrite("bad_input", "fabrics", "parity", "sched_fake")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers with 4 query and 2 key-value heads. Tests that change it copy it
    first.
    """
    return write_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
def home(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `model`, `fabric.json` of 4 devices and `plan.json`; no network, no rank."""
    from bad_input import Started, run
    from fabrics import fabric
    from wirecut.fabric.fabric import save_fabric

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(checkpoint, tmp_path / "model")
    save_fabric(fabric(4), tmp_path / "fabric.json")
    assert run("plan", "model", "--fabric", "fabric.json", "--out", "plan.json").exit_code == 0

    def start_ranks(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr("wirecut.engine.start.start_ranks", start_ranks)
    monkeypatch.setattr("wirecut.fabric.probe.start_ranks", start_ranks)
    return tmp_path
