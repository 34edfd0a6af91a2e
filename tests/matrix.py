"""The matrix: every architecture, cut every way, served in every mode, against transformers.

    python tests/matrix.py > docs/matrix.md              # `make matrix`: all triples
    python tests/matrix.py --strength 6 --only qwen3     # every cell of one architecture

A cell is a model, a layout and a mode. Of all that are possible a covering set is run: any two
(in CI) or three (`make matrix`) of model, tp, pp, dp, ep and mode meet in a cell. In each, greedy
tokens are transformers', logits are near its, and counted bytes are the cost model's.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

import parity
from covering import covering
from wirecut.errors import LayoutError
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Limits
from wirecut.layout.rules import OWN_ENGINE, why_not
from wirecut.spec.hf import read_config
from zoo import ZOO, write_random

LENGTHS = (40, 28, 20, 30)
FEW, MANY = 6, 30  # tokens written; many where requests are to outgrow the KV room
MOST_RANKS = 8
TOLERANCE = 2e-4  # of logits; sums in another order, in float32
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}  # tp 3 deals 2 + 1 + 1 groups
LATENT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8}  # these are alike


@dataclass(frozen=True)
class Mode:
    """How prompts are served: within these limits, `rounds` times over."""

    limits: Limits
    new_tokens: int = FEW
    rounds: int = 1


ROOM = 2048
MODES = {
    "plain": Mode(Limits(max_batched_tokens=512, kv_tokens=ROOM)),
    "chunked": Mode(Limits(max_batched_tokens=24, kv_tokens=ROOM)),
    "preempted": Mode(Limits(max_batched_tokens=512, kv_tokens=128), new_tokens=MANY),
    "prefix hits": Mode(Limits(max_batched_tokens=512, kv_tokens=ROOM), rounds=2),
}


@dataclass(frozen=True)
class Cell:
    """What to run: a model of `MODELS`, a layout, a mode of `MODES`."""

    model: str
    tp: int
    pp: int
    dp: int
    ep: int
    mode: str

    @property
    def layout(self) -> Layout:
        return Layout(tp=self.tp, pp=self.pp, dp=self.dp, ep=self.ep)

    def __str__(self) -> str:
        return f"{self.model} {self.layout} {self.mode}"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "demo": lambda _: parity.DEMO,
    "random": parity.random_model,
    **{
        name: partial(
            write_random, architecture=name, **LATENT_HEADS if "kv_lora_rank" in sizes else HEADS
        )
        for name, sizes in ZOO.items()
    },
}


class Models:
    """The checkpoints, written into `scratch`, and what transformers answers, when first asked."""

    def __init__(self, scratch: Path) -> None:
        self._folders = {name: write(scratch / name) for name, write in WRITERS.items()}
        self.specs = {
            name: read_config(folder / "config.json") for name, folder in self._folders.items()
        }
        self._references: dict[str, parity.Reference] = {}

    def reference(self, name: str) -> parity.Reference:
        """Answers as long as any mode needs."""
        if name not in self._references:
            self._references[name] = parity.reference(
                self._folders[name], lengths=LENGTHS, new_tokens=MANY
            )
        return self._references[name]


def possible(models: Models) -> tuple[list[Cell], Counter[str]]:
    """The cells that can be built, small ones first, and why others cannot, counted."""
    cells: list[Cell] = []
    reasons: Counter[str] = Counter()
    for name, tp, pp, dp, ep in product(WRITERS, (1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2, 4)):
        try:
            layout = Layout(tp=tp, pp=pp, dp=dp, ep=ep)
        except LayoutError:
            reasons["ep does not divide dp x tp"] += len(MODES)
            continue
        if layout.world_size > MOST_RANKS:
            reasons[f"more than {MOST_RANKS} ranks"] += len(MODES)
        elif reason := why_not(models.specs[name], layout, MOST_RANKS, OWN_ENGINE):
            reasons[f"{name}: {reason}"] += len(MODES)
        else:
            cells += [Cell(name, tp, pp, dp, ep, mode) for mode in MODES]
    return sorted(cells, key=lambda cell: cell.layout.world_size), reasons


def covering_cells(cells: list[Cell], *, strength: int) -> list[Cell]:
    """Those in which any `strength` of model, degrees and mode meet that can, model by model."""
    rows = [(c.model, c.tp, c.pp, c.dp, c.ep, c.mode) for c in cells]
    order = list(WRITERS)
    chosen = [Cell(*row) for row in covering(rows, strength=strength)]
    return sorted(chosen, key=lambda c: (order.index(c.model), c.layout, c.mode))


def run_cell(models: Models, cell: Cell) -> parity.Cell:
    """Serve the prompts as the cell says and compare."""
    mode = MODES[cell.mode]
    reference = models.reference(cell.model).first(mode.new_tokens)
    return parity.run_cell(reference, cell.layout, limits=mode.limits, rounds=mode.rounds)


def faults(cell: Cell, done: parity.Cell) -> list[str]:
    """What is not as it should be."""
    wrong = {
        f"{done.equal_prompts} of {done.prompts} equal": done.equal_prompts < done.prompts,
        f"a logit is {done.largest_difference:.2g} off": done.largest_difference > TOLERANCE,
        f"bytes {done.counted}, formula {done.formula}": done.counted != done.formula,
        "nothing counted": not done.counted and cell.layout.replica_size > 1,
        "none preempted": cell.mode == "preempted" and not done.dealt.preemptions,
        "no prefix found": cell.mode == "prefix hits" and not done.dealt.cached_tokens,
    }
    return [words for words, is_so in wrong.items() if is_so]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--strength", type=int, default=3)
    asked.add_argument("--only", choices=list(WRITERS))
    options = asked.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        models = Models(Path(scratch))
        cells, reasons = possible(models)
        chosen = covering_cells(cells, strength=options.strength)
        print(_opening(len(cells), options.strength))
        wrong: list[str] = []
        for cell in chosen:
            if options.only in (None, cell.model):
                done = run_cell(models, cell)
                print(_row(cell, done, models.reference(cell.model)), flush=True)
                print(f"{cell}: {done.seconds:.1f} s", file=sys.stderr)
                wrong += [f"- {cell}: {fault}" for fault in faults(cell, done)]
    print("\n## Not as it should be\n", *(wrong or ["Nothing."]), sep="\n")
    print("\n## Combinations that cannot be, and how many cells they would have\n")
    for reason, count in sorted(reasons.items()):
        print(f"- {count}: {reason}")
    sys.exit(bool(wrong))


def _opening(num_cells: int, strength: int) -> str:
    served = ", ".join(
        f"*{name}* ({mode.limits.max_batched_tokens} tokens a step, room for "
        f"{mode.limits.kv_tokens}, {mode.new_tokens} written, {mode.rounds} x)"
        for name, mode in MODES.items()
    )
    columns = "model|layout|mode|equal|largest logit difference|smallest margin|bytes|preempted|"
    columns += "found|s"
    return (
        "# The matrix: tokens, logits and bytes of every architecture and cut\n\n"
        f"Greedy, float32, against transformers: {len(LENGTHS)} prompts of {min(LENGTHS)} to "
        f"{max(LENGTHS)} tokens served together. Of {num_cells} possible cells these hold all "
        f"combinations of {strength} among model, tp, pp, dp, ep and mode. Modes: {served}.\n\n"
        "*Margin*: the smallest gap between a chosen token's logit and the next. *Bytes*: counted "
        "by the ranks and as many as the cost model's formula says, by axis. *Preempted*: how "
        "often; *found*: prompt tokens computed before. `make matrix`\n\n"
        f"|{columns}|\n|{'---|' * (columns.count('|') + 1)}"
    )


def _row(cell: Cell, done: parity.Cell, reference: parity.Reference) -> str:
    margin = reference.first(MODES[cell.mode].new_tokens).margin
    words = (
        cell.model,
        cell.layout,
        cell.mode,
        f"{done.equal_prompts} of {done.prompts}",
        f"{done.largest_difference:.2g}",
        f"{margin:.2g}",
        _bytes(done),
        done.dealt.preemptions,
        done.dealt.cached_tokens,
        f"{done.seconds:.1f}",
    )
    return f"|{'|'.join(map(str, words))}|"


def _bytes(done: parity.Cell) -> str:
    if done.counted != done.formula:
        return f"NOT EQUAL: {done.counted}, {done.formula}"
    equal = [f"{axis} {count['bytes']:,}" for axis, count in sorted(done.counted.items())]
    return ", ".join(equal) or "none"


if __name__ == "__main__":
    main()
