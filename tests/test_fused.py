"""Halves of layers in one native call: that they run there, the same bits as one after another, and
who is late.
"""

from pathlib import Path

import pytest
import torch

from stages import (
    HIDDEN,
    LAYERS,
    apart,
    batch_of,
    fused_halves,
    groups,
    logits_of,
    stage_of,
    stages_of,
    watched,
    write_plain,
)
from wirecut.cost.work import layer_work
from wirecut.engine.batch import Batch
from wirecut.engine.comm import Comm
from wirecut.engine.models.blocks import Forward
from wirecut.engine.models.stage import Stage
from wirecut.engine.trace import Log
from wirecut.errors import RankFailed
from wirecut.layout.layout import Layout
from wirecut.machine import native
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config
from zoo import ZOO

pytestmark = pytest.mark.skipif(
    not hasattr(native.load(), "run_halves"), reason="no bf16 products in vectors here"
)
STEPS = {
    "prompts": (Entry(0, 0, tuple(range(10, 47)), (0, 1), True), Entry(1, 0, (7, 8), (2,), True)),
    "both": (Entry(0, 37, (9,), (0, 1), True), Entry(1, 2, tuple(range(3, 40)), (2, 5), True)),
    "decodes": (Entry(0, 38, (11,), (0, 1), True), Entry(1, 39, (12,), (2, 5), True)),
}
HALVES = 2 * LAYERS


def logits_and_halves(stage: Stage) -> tuple[list[torch.Tensor], int]:
    """Of all steps, and how many halves native code ran meanwhile."""
    before = stage.tp.native_halves
    return logits_of([stage], STEPS.values()), stage.tp.native_halves - before


@pytest.mark.parametrize(
    ("architecture", "calls", "halves"),
    [
        *((name, 1, HALVES) for name in ("llama", "mistral", "qwen2", "qwen3", "phi3")),
        ("mixtral", HALVES, LAYERS),
    ],
)
def test_halves_together_are_halves_apart(
    tmp_path: Path, architecture: str, calls: int, halves: int
) -> None:
    """To the bit: a mixture of experts keeps its halves, and attention stands between them."""
    (stage,) = stages_of(write_plain(tmp_path, architecture))
    assert len(stage.steps) == calls
    together, ran = logits_and_halves(stage)
    one_by_one, ran_apart = logits_and_halves(apart(stage))
    assert (ran, ran_apart) == (len(STEPS) * halves, 0)
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert not torch.equal(*together[-1])


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_oss"])
def test_what_native_code_does_not_know_is_left_as_it_is(tmp_path: Path, architecture: str) -> None:
    (stage,) = stages_of(write_plain(tmp_path, architecture))
    assert (fused_halves(stage), logits_and_halves(stage)[1]) == (0, 0)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("architecture", ZOO)
def test_plans_price_the_halves_that_the_engine_puts_together(
    tmp_path: Path, architecture: str, tp: int
) -> None:
    folder = write_plain(tmp_path, architecture)
    spec, layout = read_config(folder / "config.json"), Layout(tp=tp)
    for rank, stage in enumerate(stages_of(folder, tp=tp)):
        priced = sum(layer_work(spec, one, layout, rank).native_halves for one in spec.layers)
        assert fused_halves(stage) == priced


def test_a_turn_of_half_vectors_goes_operation_by_operation(tmp_path: Path) -> None:
    """Three quarters of 32 dims turn."""
    (stage,) = stages_of(write_plain(tmp_path, "phi3", head_dim=32))
    assert fused_halves(stage) == HALVES
    assert logits_and_halves(stage)[1] == 0


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("crowded", [True, False])
def test_ranks_sum_inside_as_they_do_outside(tmp_path: Path, tp: int, crowded: bool) -> None:
    """The same logits, the same count of calls and bytes, and a span for each sum. With a core for
    each rank, native code looks for the others a while before it gives way.
    """
    folder = write_plain(tmp_path, "qwen3", use_sliding_window=False)
    logs = [Log(1000) for _ in range(tp)]
    comms = [watched(*each) for each in zip(groups(tp, crowded=crowded), logs, strict=True)]
    stages = stages_of(folder, tp=tp, comms=comms)
    found = []
    for these, halves in ((stages, HALVES), ([apart(stage) for stage in stages], 0)):
        for comm, log in zip(comms, logs, strict=True):
            comm.reset()
            log.clear()
        logits = logits_of(these, STEPS.values())
        assert [comm.native_halves for comm in comms] == [len(STEPS) * halves] * tp
        spans = [len(log.packed()) for log in logs]
        found.append((logits, [(c.count.calls, c.count.bytes) for c in comms], spans))
    (together, *counts), (one_by_one, *counts_apart) = found
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert counts == counts_apart


@pytest.mark.parametrize(("rows", "steps"), [(39, 3), (38, 2), (37, 1)])
def test_sums_in_several_pieces_are_made_outside(tmp_path: Path, rows: int, steps: int) -> None:
    """The steps have 39, 38 and 2 rows; a slot has room for so many, and a group of sockets is
    none that native code sums over.
    """
    folder = write_plain(tmp_path, "llama")
    comms = [Comm(each, each) for each in groups(2, slot_bytes=2 * HIDDEN * rows)]
    logits = logits_of(stages_of(folder, tp=2, comms=comms), STEPS.values())
    assert [comm.native_halves for comm in comms] == [steps * HALVES] * 2
    outside = [Comm(each) for each in groups(2)]
    theirs = logits_of(stages_of(folder, tp=2, comms=outside), STEPS.values())
    assert [comm.native_halves for comm in outside] == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(logits, theirs, strict=True))


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    mine = groups(2, deadline_s=0.2)[0]
    stage = stage_of(write_plain(tmp_path, "llama"), Comm(mine, mine), tp=2)
    batch = batch_of(stage, STEPS["prompts"])
    at_first_half = r"rank 1 \(tp of stage 0: all-reduce number 1\) did not come within 0 s"
    x_TE, at = torch.zeros(batch.num_tokens, HIDDEN, dtype=torch.bfloat16), _at(stage, batch)
    with torch.inference_mode(), pytest.raises(RankFailed, match=at_first_half):
        stage.steps[0](x_TE, at)
    assert stage.tp.native_halves == HALVES


def _at(stage: Stage, batch: Batch) -> Forward:
    turns = tuple((cos[batch.positions_T], sin[batch.positions_T]) for cos, sin in stage.tables)
    return Forward(batch, stage.tp, turns)
