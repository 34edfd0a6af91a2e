"""What the matrix leaves out: sockets between the ranks, and five groups of heads on three."""

from pathlib import Path

import pytest
import torch

import parity
from models import write_model
from wirecut.layout.layout import Layout


@pytest.fixture(scope="session", params=["demo", "random"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> parity.Reference:
    folder: Path = (
        parity.DEMO
        if request.param == "demo"
        else parity.random_model(tmp_path_factory.mktemp("random"))
    )
    return parity.reference(folder)


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(pp=3), Layout(tp=2, pp=2)], ids=str)
def test_tokens_and_bytes_through_sockets(reference: parity.Reference, layout: Layout) -> None:
    parity.check(parity.run_cell(reference, layout, wire="tcp"))


def test_five_groups_of_heads_dealt_to_three_ranks(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "five",
        hidden=160,
        heads=10,
        kv_heads=5,
        intermediate=151,
        vocab=1003,
        dtype=torch.float32,
        seed=2,
    )
    parity.check(parity.run_cell(parity.reference(folder), Layout(tp=3)))
