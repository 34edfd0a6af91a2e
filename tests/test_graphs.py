"""Recorded decode steps without a GPU: a recording that runs the same work again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inprocess import Meeting, ThreadGroup
from test_paged_gpu import stand_in, takes_all
from wirecut.engine.batch import Batch, all_together, build_batch
from wirecut.engine.comm import Comm, Count
from wirecut.engine.graphs import Graphs, Work
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.known import read_style
from wirecut.engine.models.stage import Stage
from wirecut.engine.weights import SliceReader
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine import paged_gpu
from wirecut.sched.step import Entry
from wirecut.spec.hf import read_config
from zoo import write_random

CPU, FP32 = torch.device("cpu"), torch.float32
BLOCK, BLOCKS, LAYERS, WARM_UPS = 256, 6, 2, 2
WINDOW = 11  # of gemma2's in the zoo
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 1024,
}


class Tape:
    """A recorder that plays work by running it again, into the tensor that it first returned, and
    unseen by `count`.
    """

    def __init__(self, count: Count) -> None:
        self.recorded = self.replayed = 0
        self._count = count

    def __call__(self, work: Work) -> tuple[Callable[[], None], torch.Tensor | None]:
        for _ in range(WARM_UPS):
            work()
        kept = work()
        assert kept is not None
        self.recorded += 1
        kept = torch.full_like(kept, float("nan"))  # recording computes nothing

        def replay() -> None:
            before = self._count.calls, self._count.bytes
            again = work()
            self._count.calls, self._count.bytes = before
            assert again is not None
            kept.copy_(again)
            self.replayed += 1

        return replay, kept


def stage_of(folder: Path, tp: Comm) -> Stage:
    spec = read_config(folder / "config.json")
    cut = Cut(Layout(), (0,), ((0, LAYERS),))
    return build_stage(
        SliceReader(folder, spec, cut, rank=0, dtype=FP32, device=CPU),
        read_style(folder, spec.architecture),
        cut,
        num_places=BLOCK * (BLOCKS + 1),
        tp=tp,
        progress=lambda: None,
    )


def build(entries: tuple[Entry, ...]) -> Batch:
    """As on a GPU."""
    windows = (None, WINDOW)
    batch = build_batch(entries, block_tokens=BLOCK, windows=windows, dtype=FP32, device=CPU)
    return replace(batch, together=all_together(batch.spans, BLOCK, CPU))


def decodes(*lengths: int) -> tuple[Entry, ...]:
    """Of sequences in blocks of their own, the first of which may have two."""
    blocks = [(0, 5), (1,), (2,), (3,), (4,)]
    return tuple(
        Entry(i, length, (7 + length + i,), blocks[i], True) for i, length in enumerate(lengths)
    )


def begin(stage: Stage) -> None:
    """Prompts of the sequences that `decodes` goes on with."""
    prompts = (
        Entry(i, 0, tuple(range(length)), decode.blocks, True)
        for i, (length, decode) in enumerate(
            zip((254, 9, 6, 30, 4), decodes(*[1] * 5), strict=True)
        )
    )
    stage.forward(build(tuple(prompts)), None)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(paged_gpu, "takes", takes_all)
    monkeypatch.setattr(paged_gpu, "varlen", lambda: stand_in)
    return stage_of(write_random(tmp_path, "llama", **SIZES), Comm(ThreadGroup(Meeting(1), 0)))


def graphs_of(stage: Stage, tape: Tape | None = None) -> Graphs:
    tape = tape or Tape(stage.tp.count)
    return Graphs(stage, build, tape, blocks_each=4, spare_block=BLOCKS)


def test_replayed_steps_are_steps(stage: Stage) -> None:
    """Sequences come, grow over a block's end and go; the cache is as the steps left it."""
    tape = Tape(stage.tp.count)
    graphs = graphs_of(stage, tape)
    rounds = [(254, 9, 6), (255, 10, 7, 30, 4), (256, 11), (257, 12, 8), (258, 13, 9, 31, 5), (9,)]
    with torch.inference_mode():
        begin(stage)
        for lengths in rounds:
            entries = decodes(*lengths)
            assert graphs.take(entries)
            found = graphs.logits(entries)
            batch = build(entries)
            expected = stage.logits(batch, stage.forward(batch, None))
            assert found is not None
            torch.testing.assert_close(found, expected)
    assert tape.recorded == 4  # for 4, 8, 2 and 1 rows
    assert tape.replayed == len(rounds)


def test_rows_that_fill_up_touch_the_spare_block_alone(stage: Stage) -> None:
    graphs = graphs_of(stage)
    entries = decodes(9, 8, 7)
    assert [entry.blocks for entry in graphs.filled_up(entries)[3:]] == [(BLOCKS,)]
    assert len(graphs.filled_up(decodes(1, 1, 1, 1))) == 4
    assert len(graphs.filled_up(decodes(1, 1, 1, 1, 1))) == 8
    assert len(graphs.filled_up(decodes(1))) == 1


def test_what_crosses_the_group_is_counted_once_a_replay(stage: Stage) -> None:
    graphs, count = graphs_of(stage), stage.tp.count
    with torch.inference_mode():
        for rows, crossing in ((1, 1), (1, 1), (3, 4), (4, 4), (3, 4)):
            count.reset()
            graphs.logits(decodes(*[3] * rows))
            told = count.calls, count.bytes
            count.reset()
            batch = build(decodes(*[3] * crossing))
            stage.logits(batch, stage.forward(batch, None))
            assert told == (count.calls, count.bytes)
            assert count.calls == 2 * LAYERS + 2


def test_only_decodes_that_all_sample_are_taken(stage: Stage) -> None:
    graphs, decode = graphs_of(stage), decodes(5)[0]
    assert graphs.take((decode,))
    assert not graphs.take((decode, Entry(1, 0, (1, 2), (1,), True)))
    assert not graphs.take((decode, Entry(1, 5, (1,), (1,), False)))
    assert not graphs.take((decode, Entry(1, 5, (1,), (1,), True, long=True)))


def test_a_failure_is_said_once_and_steps_go_on(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(work: Work) -> tuple[Callable[[], None], torch.Tensor | None]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nat some line")

    graphs = Graphs(stage, build, refuse, blocks_each=4, spare_block=BLOCKS)
    entries = decodes(9, 8, 6)
    with torch.inference_mode():
        begin(stage)
        batch = build(entries)
        expected = stage.logits(batch, stage.forward(batch, None))
        found = graphs.logits(entries)
    assert found is not None
    torch.testing.assert_close(found, expected)
    assert not graphs.take(entries)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "not recorded as graphs (operation not permitted" in told


def test_attention_that_asks_for_each_sequence_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paged_gpu, "takes", takes_all)
    monkeypatch.setattr(paged_gpu, "varlen", lambda: stand_in)
    capped = stage_of(write_random(tmp_path, "gemma2", **SIZES), Comm(None))
    graphs, entries = graphs_of(capped), decodes(9, 8)
    with torch.inference_mode():
        begin(capped)
        found = graphs.logits(entries)
    assert found is not None
    assert found.isfinite().all()
    assert not graphs.take(entries)
    assert "sequence by sequence" in capsys.readouterr().err
