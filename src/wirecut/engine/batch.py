"""One step as tensors, complete when built: what every layer needs to know about the tokens of this
forward.

Shapes: T tokens of the step, L positions that a sequence may look at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from wirecut.machine.paged import Paged
from wirecut.machine.paged_gpu import Together, together
from wirecut.sched.step import Entry

Windows = tuple[int | None, ...]
EVERYTHING: Windows = (None,)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a sequence's rows may see under a window: positions `first` and on.

    `mask_TL` hides the others from a chunk's rows; None when one row sees all, or all begin at 0
    and none is behind the window.
    """

    first: int
    mask_TL: torch.Tensor | None


@dataclass(frozen=True)
class Span:
    """One sequence's rows in the batch, and where its keys and values lie.

    Rows `first` up to `last` hold positions `start` and on; after them it has `length` positions,
    in `blocks`. `sights` by window, None being no window.
    """

    first: int
    last: int
    start: int
    length: int
    blocks: tuple[int, ...]
    block_tokens: int
    device: torch.device
    sights: dict[int | None, Sight]

    @cached_property
    def slots(self) -> int | torch.Tensor:
        """The place of the first position when they lie in a row, else every position's. For
        attention that reads no blocks: told by the first layer that asks.
        """
        begin, size = self.blocks[0], self.block_tokens
        if all(block == begin + i for i, block in enumerate(self.blocks)):
            return begin * size
        return torch.tensor(self.places(0), device=self.device)

    def places(self, start: int) -> list[int]:
        """Where positions `start` and on lie in the cache."""
        blocks, size = self.blocks, self.block_tokens
        return [blocks[i // size] * size + i % size for i in range(start, self.length)]

    @property
    def rows(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward. `decodes` are those of `spans` that have one row, `prompts` the
    others, `longer_spans`; `together` are all of them, on a GPU, where the two are None. `long_T`:
    whether a token's sequence is a long one; None when none is.
    """

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    spans: tuple[Span, ...]
    longer_spans: tuple[Span, ...]
    block_tokens: int
    decodes: Paged | None
    prompts: Paged | None
    together: Together | None
    sampled_rows: torch.Tensor
    long_T: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        return self.tokens_T.numel()


def build_batch(
    entries: tuple[Entry, ...],
    *,
    block_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    windows: Windows = EVERYTHING,
) -> Batch:
    """The batch of a step's entries, for layers with these windows; every rank of a stage builds
    the same.
    """
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    sampled: list[int] = []
    for entry in entries:
        first, count = len(tokens), len(entry.tokens)
        length, where = entry.start + count, (entry.blocks, block_tokens, device)
        sights = {window: _sight(entry.start, count, window, dtype, device) for window in windows}
        span = Span(first, first + count, entry.start, length, *where, sights)
        spans.append(span)
        tokens += entry.tokens
        positions += range(entry.start, length)
        slots += span.places(entry.start)
        if entry.samples:
            sampled.append(first + count - 1)
    # One tensor where three would do: making one takes longer than a small operation on it.
    tokens_T, positions_T, slots_T = torch.tensor([tokens, positions, slots], device=device)
    longer = tuple(span for span in spans if span.rows > 1)
    on_cpu = device.type == "cpu"
    return Batch(
        tokens_T=tokens_T,
        positions_T=positions_T,
        slots_T=slots_T,
        spans=tuple(spans),
        longer_spans=longer,
        block_tokens=block_tokens,
        decodes=_paged([span for span in spans if span.rows == 1], block_tokens)
        if on_cpu
        else None,
        prompts=_paged(longer, block_tokens) if on_cpu else None,
        together=None if on_cpu else all_together(spans, block_tokens, device),
        sampled_rows=torch.tensor(sampled, device=device, dtype=torch.int64),
        long_T=_long(entries, device),
    )


def _long(entries: tuple[Entry, ...], device: torch.device) -> torch.Tensor | None:
    if not any(entry.long for entry in entries):
        return None
    return torch.tensor([entry.long for entry in entries for _ in entry.tokens], device=device)


def all_together(spans: Sequence[Span], block_tokens: int, device: torch.device) -> Together:
    """All sequences of a step for a GPU's kernel."""
    counts, lengths = [span.rows for span in spans], [span.length for span in spans]
    blocks = [span.blocks for span in spans]
    return together(counts, lengths, blocks, block_tokens=block_tokens, device=device)


def _paged(spans: Sequence[Span], block_tokens: int) -> Paged | None:
    """Sequences for our own kernels, which serve them in one call; None when there are none."""
    if not spans:
        return None
    width = max(len(span.blocks) for span in spans)
    blocks = [[*span.blocks, *[0] * (width - len(span.blocks))] for span in spans]
    counts = [(span.first, span.rows, span.length) for span in spans]
    int32 = torch.int32
    rows_N, counts_N, lengths_N = torch.tensor(list(zip(*counts, strict=True)), dtype=int32)
    return Paged(rows_N, counts_N, lengths_N, torch.tensor(blocks, dtype=int32), block_tokens)


def _sight(
    start: int, count: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Sight:
    """What `count` rows from position `start` on see."""
    length = start + count
    first = 0 if window is None else max(0, start - window + 1)
    if count == 1 or (start == 0 and (window is None or count <= window)):
        return Sight(first, None)
    seen_TL = torch.ones(count, length - first, dtype=torch.bool, device=device).tril(start - first)
    if window is not None:
        seen_TL = seen_TL.triu(start - first - window + 1)
    mask_TL = torch.zeros(count, length - first, dtype=dtype, device=device)
    return Sight(first, mask_TL.masked_fill_(~seen_TL, float("-inf")))
