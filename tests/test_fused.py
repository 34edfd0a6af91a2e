"""Halves of layers in one native call: the same bits as one after another, and who is late."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wirecut.engine.batch import Batch, build_batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.blocks import Forward
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.fused import FusedHalves
from wirecut.engine.models.known import read_style
from wirecut.engine.models.stage import Stage
from wirecut.engine.trace import Log, watch, watch_inside
from wirecut.engine.weights import SliceReader
from wirecut.engine.wiring import WATCHED, WATCHED_INSIDE
from wirecut.errors import RankFailed
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine import native
from wirecut.machine.shm import Arena, ShmGroup
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config
from zoo import write_random

pytestmark = pytest.mark.skipif(
    not hasattr(native.load(), "run_halves"), reason="no bf16 products in vectors here"
)
BLOCK, BLOCKS, LAYERS = 32, 16, 3
SIZES = {
    **{"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32},
    **{"intermediate_size": 128, "num_hidden_layers": LAYERS},
}
STEPS = {
    "prompts": (Entry(0, 0, tuple(range(10, 47)), (0, 1), True), Entry(1, 0, (7, 8), (2,), True)),
    "both": (Entry(0, 37, (9,), (0, 1), True), Entry(1, 2, tuple(range(3, 40)), (2, 5), True)),
    "decodes": (Entry(0, 38, (11,), (0, 1), True), Entry(1, 39, (12,), (2, 5), True)),
}


def stage_of(folder: Path, *, tp: int = 1, rank: int = 0, comm: Comm | None = None) -> Stage:
    spec = read_config(folder / "config.json")
    cut = Cut(Layout(tp=tp), tuple(range(tp)), ((0, LAYERS),))
    bf16, cpu = torch.bfloat16, torch.device("cpu")
    return build_stage(
        SliceReader(folder, spec, cut, rank=rank, dtype=bf16, device=cpu),
        read_style(folder, spec.architecture),
        cut,
        num_places=BLOCK * BLOCKS,
        tp=comm or Comm(None),
        progress=lambda: None,
    )


def apart(stage: Stage) -> Stage:
    """The same stage, its halves one by one."""
    steps = [s.halves if isinstance(s, FusedHalves) else (s,) for s in stage.steps]
    return replace(stage, steps=tuple(half for each in steps for half in each))


def batch_of(stage: Stage, entries: tuple[Entry, ...]) -> Batch:
    here = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    return build_batch(entries, block_tokens=BLOCK, windows=stage.windows, **here)


def logits_of(stage: Stage) -> list[torch.Tensor]:
    """Of each step in turn, from an empty cache."""
    found = []
    with torch.inference_mode():
        for entries in STEPS.values():
            batch = batch_of(stage, entries)
            found.append(stage.logits(batch, stage.forward(batch, None)))
    return found


def changes(architecture: str) -> dict[str, bool]:
    """A bias behind a sum is not for native code."""
    return {"attention_bias": False, "mlp_bias": False} if architecture == "llama" else {}


@pytest.mark.parametrize(
    ("architecture", "calls"),
    [("llama", 1), ("mistral", 1), ("qwen2", 1), ("qwen3", 1), ("phi3", 1), ("mixtral", 6)],
)
def test_halves_together_are_halves_apart(tmp_path: Path, architecture: str, calls: int) -> None:
    """To the bit: a mixture of experts keeps its halves, and attention stands between them."""
    stage = stage_of(write_random(tmp_path, architecture, **SIZES, **changes(architecture)))
    assert len(stage.steps) == calls
    assert any(isinstance(step, FusedHalves) for step in stage.steps)
    together, one_by_one = logits_of(stage), logits_of(apart(stage))
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert not torch.equal(*together[-1])


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_oss"])
def test_what_native_code_does_not_know_is_left_as_it_is(tmp_path: Path, architecture: str) -> None:
    stage = stage_of(write_random(tmp_path, architecture, **SIZES))
    assert not any(isinstance(step, FusedHalves) for step in stage.steps)


def groups(count: int, *, deadline_s: float = 30.0) -> list[ShmGroup]:
    def of(arena: Arena, rank: int) -> ShmGroup:
        return ShmGroup(
            arena,
            size=count,
            rank=rank,
            slot_bytes=1 << 16,
            crowded=True,
            name="tp of stage 0",
            deadline_s=deadline_s,
        )

    size = Arena(None)
    of(size, 0)
    shared = mmap.mmap(-1, size.used)
    return [of(Arena(shared), rank) for rank in range(count)]


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_sum_inside_as_they_do_outside(tmp_path: Path, tp: int) -> None:
    """The same logits, the same count of calls and bytes, and a span for each sum."""
    folder = write_random(tmp_path, "qwen3", **SIZES, use_sliding_window=False)
    logs = [Log(1000) for _ in range(tp)]
    comms = [_watched(group, log) for group, log in zip(groups(tp), logs, strict=True)]
    stages = [stage_of(folder, tp=tp, rank=i, comm=comm) for i, comm in enumerate(comms)]
    assert all(len(stage.steps) == 1 for stage in stages)
    found = []
    with ThreadPoolExecutor(tp) as pool:
        for these in (stages, [apart(stage) for stage in stages]):
            for comm, log in zip(comms, logs, strict=True):
                comm.count.reset()
                log.clear()
            logits, *_ = list(pool.map(logits_of, these))
            spans = [len(log.packed()) for log in logs]
            found.append((logits, [(c.count.calls, c.count.bytes) for c in comms], spans))
    (together, counts, spans), (one_by_one, counts_apart, spans_apart) = found
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert (counts, spans) == (counts_apart, spans_apart)


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    folder = write_random(tmp_path, "llama", **SIZES, **changes("llama"))
    mine = groups(2, deadline_s=0.2)[0]
    stage = stage_of(folder, tp=2, comm=Comm(mine, mine))
    batch = batch_of(stage, STEPS["prompts"])
    at_first_half = r"rank 1 \(tp of stage 0: all-reduce number 1\) did not come within 0 s"
    with torch.inference_mode(), pytest.raises(RankFailed, match=at_first_half):
        stage.steps[0](torch.zeros(batch.num_tokens, 64, dtype=torch.bfloat16), _at(stage, batch))


def _at(stage: Stage, batch: Batch) -> Forward:
    turns = tuple((cos[batch.positions_T], sin[batch.positions_T]) for cos, sin in stage.tables)
    return Forward(batch, stage.tp, turns)


def _watched(group: ShmGroup, log: Log) -> Comm:
    """As `engine.wiring` makes it."""
    outside = watch(group, log, WATCHED["tp"])
    return Comm(outside, watch_inside(group, log, WATCHED_INSIDE))
