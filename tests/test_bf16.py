"""What is run in earnest, bf16 by our own kernels: panels, attention of prompts, halves in native
code; against transformers in float32 with the same weights.
"""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from parity import load
from stages import LAYERS, fused_halves, logits_of, stages_of, write_plain
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Prompt
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.machine import native
from wirecut.sched.step import Entry
from zoo import SIZES, ZOO

pytestmark = pytest.mark.skipif(
    not hasattr(native.load(), "run_halves"), reason="no bf16 products in vectors here"
)
# Root mean square of the difference over that of the logits, of all rows and of the worst one; each
# bf16 is rounded by up to 2^-9 = 0.002. Measured: 0.010 to 0.041, and 0.013 to 0.077; transformers
# in bf16 0.010 to 0.071, and 0.013 to 0.148.
MOST, MOST_OF_A_ROW = 0.05, 0.1
# Of these weights no choice of experts that matters is so near a tie that bf16 decides it itself:
# elsewhere such a row is off by up to its whole, here and in transformers in bf16 alike.
SEEDS = dict.fromkeys(ZOO, 2) | {"qwen2_moe": 1, "deepseek_v2": 0}
TEXTS = tuple(
    tuple(random.Random(i).choices(range(5, SIZES["vocab_size"]), k=length))
    for i, length in enumerate((80, 60))
)
BLOCKS = ((0, 1, 2), (5, 3, 4))
# Where each text stands after each step: prompts, the rest of one beside a decode, a decode beside
# a chunk, decodes.
STOPS = ((40, 20), (70, 21), (71, 50), (72, 51), (73, 52))


def steps() -> list[tuple[Entry, ...]]:
    starts = ((0, 0), *STOPS)
    return [
        tuple(
            Entry(i, start, TEXTS[i][start:stop], BLOCKS[i], True)
            for i, (start, stop) in enumerate(zip(*span, strict=True))
        )
        for span in zip(starts, STOPS, strict=False)
    ]


def check(ours_TV: torch.Tensor, theirs_TV: torch.Tensor) -> None:
    """All rows and each are within their bounds."""
    scale = theirs_TV.square().mean().sqrt()
    off_T = (ours_TV.float() - theirs_TV).square().mean(1).sqrt() / scale
    assert off_T.square().mean().sqrt() < MOST, off_T
    assert off_T.max() < MOST_OF_A_ROW, off_T


def reference(folder: Path, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits behind every token, in float32."""
    model = load(folder)
    with torch.inference_mode():
        return [model(torch.tensor([text])).logits[0] for text in texts]


@cache
def model_of(architecture: str, folder: Path) -> tuple[Path, torch.Tensor]:
    """A model, and the logits that the steps ask for."""
    made = write_plain(folder / architecture, architecture, seed=SEEDS[architecture])
    theirs = reference(made, TEXTS)
    rows = [theirs[i][stop - 1] for stops in STOPS for i, stop in enumerate(stops)]
    return made, torch.stack(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bf16")


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("architecture", ZOO)
def test_chunks_and_decodes_are_transformers(architecture: str, tp: int, folder: Path) -> None:
    made, theirs_TV = model_of(architecture, folder)
    stages = stages_of(made, tp=tp)
    check(torch.cat(logits_of(stages, steps())), theirs_TV)
    if "kv_lora_rank" not in ZOO[architecture]:  # whose rope turns but 8 dims here
        ran = [stage.tp.native_halves for stage in stages]
        assert ran == [len(STOPS) * fused_halves(stage) for stage in stages]


@pytest.mark.parametrize(("wire", "halves"), [("shm", 2 * LAYERS), ("tcp", 0)])
def test_processes_run_halves_natively_where_they_share_memory(
    wire: str, halves: int, folder: Path
) -> None:
    """Prompts in chunks beside decodes; each answer is judged by transformers over its tokens."""
    made, _ = model_of("qwen3", folder)
    prompts = [Prompt(text[:length], 12) for text in TEXTS for length in (50, 17, 5)]
    cut, limits = Cut(Layout(tp=2), (0, 1), ((0, LAYERS),)), Limits(48, kv_tokens=1024)
    wires = assumed_fabric(2).only(wire)
    with Engine(made, cut, wires, limits=limits, dtype="bf16", keep_logits=True) as engine:
        answers = engine.generate(prompts)
        (ran,) = engine.finish().replicas
    assert ran.native_halves == halves * ran.forwards
    texts = [[*p.tokens, *a.tokens[:-1]] for p, a in zip(prompts, answers, strict=True)]
    for answer, theirs_TV in zip(answers, reference(made, texts), strict=True):
        kept = torch.frombuffer(bytearray(b"".join(answer.logits)), dtype=torch.float32)
        check(kept.view(12, -1), theirs_TV[-12:])
