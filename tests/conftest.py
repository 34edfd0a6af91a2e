"""Fixtures that several files of tests share."""

from pathlib import Path

import pytest

from models import write_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers with 4 query and 2 key-value heads. Tests that change it copy it
    first.
    """
    return write_model(tmp_path_factory.mktemp("models") / "random")
