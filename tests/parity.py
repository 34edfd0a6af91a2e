"""Greedy tokens and logits of the engine against transformers' `generate`, in float32.

    theirs = reference(folder)
    run_cell(theirs, Layout(tp=2, pp=2), limits=limits)

`tests/matrix.py` runs what this compares, architecture by architecture and cut by cut.
"""

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from models import write_model
from wirecut.bench.run import formula_of
from wirecut.cost.replica import Pricing
from wirecut.engine.engine import Engine
from wirecut.engine.messages import Dealt
from wirecut.engine.prompt import Answer, Prompt
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.stages import cut_stages
from wirecut.spec.hf import read_config

DEMO = Path(__file__).parents[1] / "examples" / "demo-model"
LENGTHS = (3, 17, 40, 64, 100, 7, 130, 33)
NEW_TOKENS = 64
BUDGET = 48  # tokens a step: prompts of 64, 100 and 130 go in chunks, beside the decodes of others
TOLERANCE = 2e-3  # of logits; sums in another order, in float32
LIMITS = Limits(max_batched_tokens=BUDGET, kv_tokens=2048)


@dataclass(frozen=True)
class Reference:
    """A checkpoint, prompts for it, and what transformers answers: tokens and the logits before
    each.
    """

    folder: Path
    prompts: tuple[tuple[int, ...], ...]
    tokens: tuple[list[int], ...]
    logits: tuple[torch.Tensor, ...]

    @property
    def margin(self) -> float:
        """The smallest gap between the likeliest token and the next, over all that were chosen."""
        return min(margin(part) for part in self.logits)

    def first(self, count: int) -> "Reference":
        """The same with answers of `count` tokens."""
        tokens = tuple(answer[:count] for answer in self.tokens)
        return replace(self, tokens=tokens, logits=tuple(part[:count] for part in self.logits))


@dataclass(frozen=True)
class Cell:
    """What one layout did against the reference."""

    layout: Layout
    wire: str
    prompts: int
    equal_prompts: int
    largest_difference: float
    counted: dict[str, dict[str, int]]
    formula: dict[str, dict[str, int]]
    dealt: Dealt
    seconds: float


def random_model(folder: Path) -> Path:
    """A random Llama whose 2 key-value heads are fewer than TP 4, whose vocabulary and MLP 4 does
    not divide, whose head is its embedding, in two files.
    """
    return write_model(
        folder,
        heads=8,
        kv_heads=2,
        vocab=1003,
        intermediate=150,
        positions=512,
        tied=True,
        dtype=torch.float32,
        shards=2,
        seed=1,
    )


def margin(logits_TV: torch.Tensor) -> float:
    """The smallest gap between the largest logit of a row and the next."""
    top_T2 = logits_TV.topk(2).values
    return top_T2[:, 0].sub(top_T2[:, 1]).min().item()


def load(folder: Path):
    """transformers' model in float32, in its plainest implementation."""
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plain).eval()


def reference(
    folder: Path, *, lengths: tuple[int, ...] = LENGTHS, new_tokens: int = NEW_TOKENS
) -> Reference:
    """Ask transformers."""
    torch.set_num_threads(1)
    draw = random.Random(0)
    vocab = read_config(folder / "config.json").vocab
    prompts = tuple(tuple(draw.randrange(5, vocab) for _ in range(n)) for n in lengths)
    model = load(folder)
    model.generation_config.eos_token_id = None
    tokens, logits = [], []
    for prompt in prompts:
        with torch.inference_mode():
            answer = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens.append(answer.sequences[0, len(prompt) :].tolist())
        logits.append(torch.cat(answer.logits))
    return Reference(folder, prompts, tuple(tokens), tuple(logits))


def run_cell(
    ref: Reference,
    layout: Layout,
    *,
    limits: Limits = LIMITS,
    rounds: int = 1,
    wire: str = "shm",
    shares: tuple[int, ...] = (),
) -> Cell:
    """Serve the prompts on the engine, `rounds` times over, and compare."""
    spec = read_config(ref.folder / "config.json")
    fabric = assumed_fabric(max(2, layout.world_size)).only(wire)
    stages = cut_stages([1.0] * spec.num_layers, layout.pp)
    cut = Cut(layout, tuple(range(layout.world_size)), stages, shares)
    prompts = [Prompt(*each) for each in zip(ref.prompts, map(len, ref.tokens), strict=True)]
    begin = time.monotonic()
    with Engine(ref.folder, cut, fabric, limits=limits, dtype="fp32", keep_logits=True) as engine:
        answers = [answer for _ in range(rounds) for answer in engine.generate(prompts)]
        totals = engine.finish()
    tokens, logits = rounds * ref.tokens, rounds * ref.logits
    return Cell(
        layout,
        wire,
        len(answers),
        sum(ours.tokens == theirs for ours, theirs in zip(answers, tokens, strict=True)),
        max(_difference(*each) for each in zip(answers, logits, strict=True)),
        totals.comm,
        formula_of(Pricing(spec, fabric, dtype="fp32"), cut, totals),
        totals.dealt,
        time.monotonic() - begin,
    )


def check(cell: Cell) -> None:
    """Tokens are equal, logits as good as, bytes as the formula has them."""
    assert cell.equal_prompts == cell.prompts
    assert cell.largest_difference < TOLERANCE
    assert cell.counted == cell.formula
    assert bool(cell.counted) == (cell.layout.replica_size > 1)


def _difference(ours: Answer, theirs_TV: torch.Tensor) -> float:
    """The largest difference of a logit."""
    kept = torch.frombuffer(bytearray(b"".join(ours.logits)), dtype=torch.float32)
    return (kept.view(theirs_TV.shape) - theirs_TV).abs().max().item()
