"""The cost model counts the operations that the engine dispatches: held against a real forward."""

from pathlib import Path

import pytest
import torch

from wirecut.cost.engines import WIRECUT
from wirecut.engine.batch import build_batch
from wirecut.engine.comm import Comm
from wirecut.engine.engine import BLOCK_TOKENS
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.known import read_style
from wirecut.engine.weights import SliceReader
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine.kernels import Operations
from wirecut.sched.scheduler import Scheduler
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config


def operations(folder: Path, layers: int, sequences: int) -> float:
    """Operations of one decode step of `sequences` through the first `layers` layers."""
    cut, device = Cut(Layout(), (0,), ((0, layers),)), torch.device("cpu")
    spec = read_config(folder / "config.json")
    reader = SliceReader(folder, spec, cut, rank=0, dtype=torch.bfloat16, device=device)
    style = read_style(folder, spec.architecture)
    stage = build_stage(reader, style, cut, num_places=256, tp=Comm(None), progress=lambda: None)
    entries = tuple(Entry(i, 20, (5,), (i,), True) for i in range(sequences))
    batch = build_batch(entries, block_tokens=32, dtype=torch.bfloat16, device=device)
    with torch.inference_mode(), Operations() as counted:
        stage.forward(batch, None)
    return counted.count


@pytest.fixture(scope="module")
def counts(checkpoint: Path) -> dict[tuple[int, int], float]:
    return {(n, s): operations(checkpoint, n, s) for n in (1, 3) for s in (1, 4)}


def test_operations_per_layer_and_sequence(counts: dict[tuple[int, int], float]) -> None:
    per_layer_of_one = (counts[3, 1] - counts[1, 1]) / 2
    per_layer_of_four = (counts[3, 4] - counts[1, 4]) / 2
    per_sequence = (per_layer_of_four - per_layer_of_one) / 3
    assert per_sequence == pytest.approx(WIRECUT.steps.ops_per_sequence_layer, abs=0.5)
    told = WIRECUT.steps.ops_per_layer + WIRECUT.steps.ops_per_sequence_layer
    assert per_layer_of_one == pytest.approx(told, abs=0.5)


def test_stages_share_prompts_as_the_price_says() -> None:
    scheduler = Scheduler(num_blocks=1, max_batched_tokens=1, max_seqs=1)
    assert scheduler.min_chunk_tokens == WIRECUT.batching.min_chunk_tokens
    assert scheduler.block_tokens == BLOCK_TOKENS == WIRECUT.batching.block_tokens
