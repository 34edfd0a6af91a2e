"""Decode steps of a stage that is the whole model, recorded once each size and replayed.

    graphs = Graphs(stage, build, Recorder(), blocks_each=32, spare_block=512)
    if graphs.take(entries):
        logits_TV = graphs.logits(entries)

Sizes are powers of two: a step is filled up with rows that read and write a spare block, which no
request has. What crosses the TP group is counted as it crosses, these rows with it.

Shapes: T rows of the step, V vocabulary, N sequences, B blocks of the longest.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from wirecut.engine.batch import Batch
from wirecut.engine.models.stage import Stage
from wirecut.machine.paged_gpu import Together
from wirecut.sched.step import Entry

Entries = tuple[Entry, ...]
Work = Callable[[], torch.Tensor | None]
Record = Callable[[Work], tuple[Callable[[], None], torch.Tensor | None]]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Steps of one size: `batch` is refilled before each replay. `calls` and `bytes`: what one
    hands to the TP group.
    """

    batch: Batch
    replay: Callable[[], None]
    logits_TV: torch.Tensor | None
    calls: int
    bytes: int


class Graphs:
    """Recorded steps by their rows. The first failure is said, and is the end of recording."""

    def __init__(
        self,
        stage: Stage,
        build: Callable[[Entries], Batch],
        record: Record,
        *,
        blocks_each: int,
        spare_block: int,
    ) -> None:
        """`blocks_each`: of a sequence at most. `build` makes a step's batch."""
        self._stage, self._build, self._record = stage, build, record
        self._blocks_each, self._spare = blocks_each, spare_block
        self._recorded: dict[int, _Recorded] = {}
        self._failed = False

    def take(self, entries: Entries) -> bool:
        """Whether this step is decodes alone, and of those that are recorded."""
        return not self._failed and all(
            len(entry.tokens) == 1 and entry.samples and not entry.long for entry in entries
        )

    def logits(self, entries: Entries) -> torch.Tensor | None:
        """Logits of each entry (T, V) on the first rank of the group; None elsewhere. They are good
        until the next call.
        """
        batch = self._build(self.filled_up(entries))
        try:
            recorded = self._recorded.get(batch.num_tokens) or self._recorded_of(batch)
        except RuntimeError as error:
            self._failed = True
            said = str(error).partition("\n")[0]
            print(f"wirecut: decode steps are not recorded as graphs ({said})", file=sys.stderr)
            logits_TV = self._run(batch)
        else:
            _refill(recorded.batch, batch)
            recorded.replay()
            self._stage.tp.count.calls += recorded.calls
            self._stage.tp.count.bytes += recorded.bytes
            logits_TV = recorded.logits_TV
        return None if logits_TV is None else logits_TV[: len(entries)]

    def filled_up(self, entries: Entries) -> Entries:
        """As many entries as the next power of two."""
        size = 1 << (len(entries) - 1).bit_length()
        filler = Entry(0, 0, (0,), (self._spare,), True)
        return (*entries, *[filler] * (size - len(entries)))

    def _run(self, batch: Batch) -> torch.Tensor | None:
        return self._stage.logits(batch, self._stage.forward(batch, None))

    def _recorded_of(self, batch: Batch) -> _Recorded:
        """Record steps as large as this one. Its own rows pass several times, to the same end."""
        assert batch.together is not None
        wide = _widened(batch.together, self._blocks_each)
        still = replace(batch, together=wide, spans=(), longer_spans=())
        count = self._stage.tp.count
        calls, num_bytes = count.calls, count.bytes
        last: list[tuple[int, int]] = []

        def work() -> torch.Tensor | None:
            last[:] = [(count.calls, count.bytes)]
            return self._run(still)

        replay, logits_TV = self._record(work)
        of_one = count.calls - last[0][0], count.bytes - last[0][1]
        count.calls, count.bytes = calls, num_bytes
        made = _Recorded(still, replay, logits_TV, *of_one)
        self._recorded[batch.num_tokens] = made
        return made


def _widened(step: Together, blocks_each: int) -> Together:
    """The same with room for the longest sequence there can be."""
    number, width = step.blocks_NB.shape
    rooms_X = torch.arange(number + 1, dtype=torch.int32, device=step.blocks_NB.device)
    return replace(
        step,
        room_firsts_X=rooms_X * (blocks_each * step.block_tokens),
        lengths_N=step.lengths_N.clone(),
        blocks_NB=torch.nn.functional.pad(step.blocks_NB, (0, blocks_each - width)),
    )


def _refill(still: Batch, batch: Batch) -> None:
    """Put a step of the same size into the tensors that a recording reads."""
    still.tokens_T.copy_(batch.tokens_T)
    still.positions_T.copy_(batch.positions_T)
    still.slots_T.copy_(batch.slots_T)
    assert still.together is not None
    assert batch.together is not None
    blocks_NB = batch.together.blocks_NB
    still.together.lengths_N.copy_(batch.together.lengths_N)
    still.together.blocks_NB[:, : blocks_NB.shape[1]].copy_(blocks_NB)
