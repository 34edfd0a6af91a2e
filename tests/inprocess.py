"""A cut model in this process: its ranks are threads, fed like the engine's, no process started.

with Cluster(folder, Layout(tp=3, pp=2)) as cluster:
    tokens, logits = cluster.generate(prompts, 16, chunk=20)
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from wirecut.engine.batch import build_batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.known import read_style
from wirecut.engine.models.stage import Stage
from wirecut.engine.weights import SliceReader
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.stages import cut_stages
from wirecut.sched.step import Entry
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config

BLOCK, BLOCKS = 16, 64
FP32, CPU = torch.float32, torch.device("cpu")


class Meeting:
    """Where the threads of a TP group exchange tensors."""

    def __init__(self, size: int) -> None:
        self.slots: list[torch.Tensor | None] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)


class ThreadGroup:
    """A TP group as one of its threads sees it."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.size, self.rank = len(meeting.slots), rank
        self._meeting = meeting

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        parts = self._exchange(x)
        return x.copy_(sum(parts[1:], start=parts[0]))

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        parts = self._exchange(x)
        return torch.cat(parts, 1) if self.rank == 0 else None

    def _exchange(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._meeting.slots[self.rank] = x.clone()
        self._meeting.barrier.wait()
        parts = [part for part in self._meeting.slots if part is not None]
        self._meeting.barrier.wait()
        return parts


class Cluster:
    """One replica of the model in `folder`, every rank loaded as its own process would."""

    def __init__(self, folder: Path, layout: Layout, *, shares: tuple[int, ...] = ()) -> None:
        spec = read_config(folder / "config.json")
        check_checkpoint(folder, spec)
        stages = cut_stages([1.0] * spec.num_layers, layout.pp)
        cut = Cut(layout, tuple(range(layout.world_size)), stages, shares)
        meetings = [Meeting(layout.tp) for _ in range(layout.pp)]
        self._ranks: list[list[Stage]] = [
            [
                build_stage(
                    SliceReader(folder, spec, cut, rank=rank, dtype=FP32, device=CPU),
                    read_style(folder, spec.architecture),
                    cut,
                    num_places=BLOCK * BLOCKS,
                    tp=Comm(ThreadGroup(meeting, tp) if layout.tp > 1 else None),
                    progress=lambda: None,
                )
                for tp in range(layout.tp)
                for rank in [layout.rank(pp=pp, tp=tp)]
            ]
            for pp, meeting in enumerate(meetings)
        ]
        self._pool = ThreadPoolExecutor(layout.tp)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, *, chunk: int
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        """Greedy tokens, and the logits (tokens, V) before each. Prompts go in chunks, decodes of
        all in one batch; blocks of all sequences but the first do not lie in a row.
        """
        blocks = _deal_blocks(len(prompts))
        logits: list[list[torch.Tensor]] = []
        for i, prompt in enumerate(prompts):
            last = None
            for start in range(0, len(prompt), chunk):
                part = tuple(prompt[start : start + chunk])
                last = self._step([Entry(i, start, part, blocks[i], start + chunk >= len(prompt))])
            assert last is not None
            logits.append([last[0]])
        for number in range(1, new_tokens):
            entries = [
                Entry(i, len(prompt) + number - 1, (_likeliest(logits[i])[-1],), blocks[i], True)
                for i, prompt in enumerate(prompts)
            ]
            rows = self._step(entries)
            assert rows is not None
            for i, row in enumerate(rows):
                logits[i].append(row)
        return [_likeliest(rows) for rows in logits], [torch.stack(rows) for rows in logits]

    def _step(self, entries: list[Entry]) -> torch.Tensor | None:
        x_TE = None
        for ranks in self._ranks:
            done = list(self._pool.map(_run, ranks, [entries] * len(ranks), [x_TE] * len(ranks)))
            x_TE = done[0][0]
        return done[0][1]


def _run(
    stage: Stage, entries: list[Entry], x_TE: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    with torch.inference_mode():
        batch = build_batch(
            tuple(entries), block_tokens=BLOCK, dtype=FP32, device=CPU, windows=stage.windows
        )
        x_TE = stage.forward(batch, x_TE)
        wants_logits = stage.head is not None and batch.sampled_rows.numel() > 0
        return x_TE, stage.logits(batch, x_TE) if wants_logits else None


def _deal_blocks(sequences: int) -> list[tuple[int, ...]]:
    """The first gets some in a row, the others every other one of the rest."""
    each, others = BLOCKS // sequences, sequences - 1
    return [
        tuple(range(each)),
        *(tuple(range(each + i, BLOCKS, others)) for i in range(others)),
    ]


def _likeliest(rows: list[torch.Tensor]) -> list[int]:
    return [int(row.argmax()) for row in rows]
