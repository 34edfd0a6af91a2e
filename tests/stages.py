"""Stages in bf16 in this process, of sizes that native code takes: ranks are threads that share
memory.

    folder = write_plain(tmp_path, "qwen3")
    stages = stages_of(folder, tp=2)
    logits_of(stages, STEPS), stages[0].tp.native_halves
"""

import mmap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wirecut.engine.batch import Batch, build_batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.fused import FusedHalves
from wirecut.engine.models.known import read_style
from wirecut.engine.models.stage import Stage
from wirecut.engine.trace import Log, watch, watch_inside
from wirecut.engine.weights import SliceReader
from wirecut.engine.wiring import WATCHED, WATCHED_INSIDE
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine.shm import Arena, ShmGroup
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config
from zoo import ZOO, write_random

BLOCK, BLOCKS, LAYERS, HIDDEN = 32, 16, 3, 64
SLOT_BYTES = 1 << 16
SIZES = {"hidden_size": HIDDEN, "num_attention_heads": 8, "num_hidden_layers": LAYERS}
GROUPED = {"num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 128}
LATENT = {"num_key_value_heads": 8, "intermediate_size": 128}
# What native code takes: no bias behind a sum, and of heads of which a share turns whole vectors.
PLAIN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "phi3": {"head_dim": 128},
}


def write_plain(folder: Path, architecture: str, **changes: Any) -> Path:
    """A random model in bf16."""
    own = LATENT if "kv_lora_rank" in ZOO[architecture] else GROUPED
    sizes = {**SIZES, **own, **PLAIN.get(architecture, {}), **changes}
    return write_random(folder, architecture, dtype=torch.bfloat16, **sizes)


def groups(
    count: int, *, slot_bytes: int = SLOT_BYTES, crowded: bool = True, deadline_s: float = 30.0
) -> list[ShmGroup]:
    """A TP group as each of its ranks sees it."""

    def of(arena: Arena, rank: int) -> ShmGroup:
        return ShmGroup(
            arena,
            size=count,
            rank=rank,
            slot_bytes=slot_bytes,
            crowded=crowded,
            name="tp of stage 0",
            deadline_s=deadline_s,
        )

    size = Arena(None)
    of(size, 0)
    shared = mmap.mmap(-1, size.used)
    return [of(Arena(shared), rank) for rank in range(count)]


def watched(group: ShmGroup, log: Log) -> Comm:
    """As `engine.wiring` makes it."""
    return Comm(watch(group, log, WATCHED["tp"]), watch_inside(group, log, WATCHED_INSIDE))


def stages_of(folder: Path, *, tp: int = 1, comms: Sequence[Comm] | None = None) -> list[Stage]:
    """The stage of each rank."""
    if comms is None:
        comms = [Comm(each, each) for each in groups(tp)] if tp > 1 else [Comm(None)]
    return [stage_of(folder, comm, tp=tp, rank=rank) for rank, comm in enumerate(comms)]


def stage_of(folder: Path, comm: Comm, *, tp: int = 1, rank: int = 0) -> Stage:
    spec = read_config(folder / "config.json")
    cut = Cut(Layout(tp=tp), tuple(range(tp)), ((0, LAYERS),))
    bf16, cpu = torch.bfloat16, torch.device("cpu")
    return build_stage(
        SliceReader(folder, spec, cut, rank=rank, dtype=bf16, device=cpu),
        read_style(folder, spec.architecture),
        cut,
        num_places=BLOCK * BLOCKS,
        tp=comm,
        progress=lambda: None,
    )


def apart(stage: Stage) -> Stage:
    """The same stage, its halves one by one."""
    steps = [s.halves if isinstance(s, FusedHalves) else (s,) for s in stage.steps]
    return replace(stage, steps=tuple(half for each in steps for half in each))


def fused_halves(stage: Stage) -> int:
    """Halves that were put together."""
    return sum(len(step.halves) for step in stage.steps if isinstance(step, FusedHalves))


def batch_of(stage: Stage, entries: tuple[Entry, ...]) -> Batch:
    here = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    return build_batch(entries, block_tokens=BLOCK, windows=stage.windows, **here)


def logits_of(stages: Sequence[Stage], steps: Iterable[tuple[Entry, ...]]) -> list[torch.Tensor]:
    """Of the rows that sample in each step, one step behind the other, from an empty cache."""
    with ThreadPoolExecutor(len(stages)) as pool:
        first, *_ = list(pool.map(_logits, stages, [tuple(steps)] * len(stages)))
    return first


def _logits(stage: Stage, steps: Sequence[tuple[Entry, ...]]) -> list[torch.Tensor]:
    found = []
    with torch.inference_mode():
        for entries in steps:
            batch = batch_of(stage, entries)
            found.append(stage.logits(batch, stage.forward(batch, None)))
    return found
