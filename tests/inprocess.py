"""A whole model in this process, as a stage of all layers in a group of one, fed like the engine's.

stage = whole_stage(folder)
tokens, logits = generate(stage, prompts, 16, chunk=20)
"""

from collections.abc import Sequence
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
from wirecut.sched.step import Entry
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config

BLOCK, BLOCKS = 16, 64
FP32, CPU = torch.float32, torch.device("cpu")


def whole_stage(folder: Path) -> Stage:
    spec = read_config(folder / "config.json")
    check_checkpoint(folder, spec)
    cut = Cut(Layout(), (0,), ((0, spec.num_layers),))
    reader = SliceReader(folder, spec, cut, rank=0, dtype=FP32, device=CPU)
    return build_stage(
        reader,
        read_style(folder, spec.architecture),
        cut,
        num_places=BLOCK * BLOCKS,
        tp=Comm(None),
        progress=lambda: None,
    )


@torch.inference_mode()
def generate(
    stage: Stage, prompts: Sequence[Sequence[int]], new_tokens: int, *, chunk: int
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Greedy tokens, and the logits (tokens, V) before each. Prompts go in chunks, decodes of all
    in one batch; blocks of a sequence do not lie in a row.
    """
    each = BLOCKS // len(prompts)
    blocks = [tuple(range(i, each * len(prompts), len(prompts))) for i in range(len(prompts))]
    blocks[0] = tuple(sorted(blocks[0]))
    tokens: list[list[int]] = []
    logits: list[list[torch.Tensor]] = []
    for i, prompt in enumerate(prompts):
        last = None
        for start in range(0, len(prompt), chunk):
            part = tuple(prompt[start : start + chunk])
            entry = Entry(i, start, part, blocks[i], start + chunk >= len(prompt))
            last = _step(stage, [entry])
        assert last is not None
        tokens.append([int(last[0].argmax())])
        logits.append([last[0]])
    for number in range(1, new_tokens):
        entries = [
            Entry(i, len(prompt) + number - 1, (tokens[i][-1],), blocks[i], True)
            for i, prompt in enumerate(prompts)
        ]
        rows = _step(stage, entries)
        assert rows is not None
        for i, row in enumerate(rows):
            tokens[i].append(int(row.argmax()))
            logits[i].append(row)
    return tokens, [torch.stack(rows) for rows in logits]


def _step(stage: Stage, entries: list[Entry]) -> torch.Tensor | None:
    batch = build_batch(
        tuple(entries), block_tokens=BLOCK, dtype=FP32, device=CPU, windows=stage.windows
    )
    x_TE = stage.forward(batch, None)
    return stage.logits(batch, x_TE) if batch.sampled_rows.numel() else None
