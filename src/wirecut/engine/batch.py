"""One step as tensors, complete when built: what every layer needs to know about the tokens of this
forward.

Shapes: T tokens of the step, L positions that a sequence may look at.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from wirecut.machine.paged import Paged
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


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's rows in the batch, and where its keys and values lie.

    Rows `first` up to `last` hold positions `start` and on; after them it has `length` positions.
    `slots` is the place of the first when they lie in a row, else every position's place. `sights`
    by window, None being no window.
    """

    first: int
    last: int
    start: int
    length: int
    slots: int | torch.Tensor
    sights: dict[int | None, Sight]

    @property
    def rows(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward. `decodes` are those of `spans` that have one row, `prompts` the
    others, `longer_spans`. `long_T`: whether a token's sequence is a long one; None when none is.
    """

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    spans: tuple[Span, ...]
    longer_spans: tuple[Span, ...]
    block_tokens: int
    decodes: Paged | None
    prompts: Paged | None
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
        length = entry.start + count
        tokens += entry.tokens
        positions += range(entry.start, length)
        places = _places(entry.blocks, length, block_tokens)
        if isinstance(places, int):
            slots += range(places + entry.start, places + length)
        else:
            slots += places[entry.start :]
        where = places if isinstance(places, int) else torch.tensor(places, device=device)
        sights = {window: _sight(entry.start, count, window, dtype, device) for window in windows}
        spans.append(Span(first, first + count, entry.start, length, where, sights))
        if entry.samples:
            sampled.append(first + count - 1)
    both = list(zip(entries, spans, strict=True))
    return Batch(
        tokens_T=torch.tensor(tokens, device=device),
        positions_T=torch.tensor(positions, device=device),
        slots_T=torch.tensor(slots, device=device),
        spans=tuple(spans),
        longer_spans=tuple(span for span in spans if span.rows > 1),
        block_tokens=block_tokens,
        decodes=_paged((e for e in both if e[1].rows == 1), block_tokens, device),
        prompts=_paged((e for e in both if e[1].rows > 1), block_tokens, device),
        sampled_rows=torch.tensor(sampled, device=device, dtype=torch.int64),
        long_T=_long(entries, device),
    )


def _long(entries: tuple[Entry, ...], device: torch.device) -> torch.Tensor | None:
    if not any(entry.long for entry in entries):
        return None
    return torch.tensor([entry.long for entry in entries for _ in entry.tokens], device=device)


def _paged(
    entries: Iterable[tuple[Entry, Span]], block_tokens: int, device: torch.device
) -> Paged | None:
    """Sequences for a kernel that serves them together; None when there are none."""
    entries = list(entries)
    if not entries:
        return None
    width = max(len(entry.blocks) for entry, _ in entries)
    blocks = [[*entry.blocks, *[0] * (width - len(entry.blocks))] for entry, _ in entries]
    rows, counts = [s.first for _, s in entries], [s.last - s.first for _, s in entries]
    lengths = [span.length for _, span in entries]
    numbers = (
        torch.tensor(each, dtype=torch.int32, device=device)
        for each in (rows, counts, lengths, blocks)
    )
    return Paged(*numbers, block_tokens)


def _places(blocks: tuple[int, ...], length: int, block_tokens: int) -> int | list[int]:
    """Where positions 0 to `length` lie in the cache: the first place when they lie in a row, else
    each one's.
    """
    first = blocks[0]
    if all(block == first + i for i, block in enumerate(blocks)):
        return first * block_tokens
    return [block * block_tokens + i for block in blocks for i in range(block_tokens)][:length]


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
