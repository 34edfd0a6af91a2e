"""The cost model counts the operations that the engine dispatches: held against a real forward."""

from pathlib import Path

import pytest
import torch

from wirecut.cost.engines import WIRECUT
from wirecut.engine.batch import build_batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.known import read_style
from wirecut.engine.prompt import BLOCK_TOKENS, block_tokens
from wirecut.engine.weights import SliceReader
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine.kernels import Operations
from wirecut.sched.scheduler import Scheduler
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config


def operations(folder: Path, layers: int) -> float:
    """Operations of one decode step of a sequence through the first `layers` layers."""
    cut, device = Cut(Layout(), (0,), ((0, layers),)), torch.device("cpu")
    spec = read_config(folder / "config.json")
    reader = SliceReader(folder, spec, cut, rank=0, dtype=torch.bfloat16, device=device)
    style = read_style(folder, spec.architecture)
    stage = build_stage(reader, style, cut, num_places=256, tp=Comm(None), progress=lambda: None)
    entries = (Entry(0, 20, (5,), (0,), True),)
    batch = build_batch(entries, block_tokens=32, dtype=torch.bfloat16, device=device)
    with torch.inference_mode(), Operations() as counted:
        stage.forward(batch, None)
    return counted.count


def test_operations_per_layer(checkpoint: Path) -> None:
    """More sequences make no more of them: our own kernels, which stand back while operations are
    counted, serve all decodes in one call.
    """
    per_layer = (operations(checkpoint, 3) - operations(checkpoint, 1)) / 2
    assert per_layer == pytest.approx(WIRECUT.steps.ops_per_layer, abs=0.5)


def test_stages_share_prompts_as_the_price_says() -> None:
    scheduler = Scheduler(num_blocks=1, max_batched_tokens=1, max_seqs=1)
    assert scheduler.min_chunk_tokens == WIRECUT.batching.min_chunk_tokens
    assert scheduler.chunks_per_stage == WIRECUT.batching.chunks_per_stage
    assert scheduler.block_tokens == BLOCK_TOKENS == WIRECUT.batching.block_tokens
    assert block_tokens(on_gpus=True) == WIRECUT.batching.gpu_block_tokens
