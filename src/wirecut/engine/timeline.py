"""The ranks' spans on one clock: what each waited for, and what a run's time went into.

    timeline = read_timeline({rank: log.packed() for ...}, layout, devices)
    timeline.bubble_fraction      # 0.07
    timeline.comm_seconds()       # {"tp": Waits(waited_s=0.1, moved_s=0.3, share=0.2)}
    timeline.pieces(rank)         # what the rank did, piece by piece, none over another

*Waited* is from a rank's coming to a call until the last rank that it needs has come: every member
of a collective, the sender of a hand-off. *Moved* is from then to the call's end. A *bubble* is
time that a stage waits for another while a step is under way: begun on the first stage and not
ended on the last. Imports no torch.
"""

import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from wirecut.engine.trace import COLUMNS, WHATS, What
from wirecut.layout.layout import Layout

AXES: dict[str, tuple[What, ...]] = {
    "tp": ("all-reduce", "logits gather"),
    "pp": ("send to the next stage", "receive from the stage before"),
    "ep": ("rows to experts",),
}
KIND: dict[What, str] = {  # as the cost model's terms are called
    "all-reduce": "all-reduce",
    "logits gather": "all-reduce",
    "rows to experts": "all-to-all",
    "send to the next stage": "hand-off",
    "receive from the stage before": "hand-off",
    "wait for a step": "wait",
    "wait for tokens": "wait",
    "wait for other replicas": "wait",
    "wait for requests": "wait",
    "sampling": "compute",
}
STAGE_WAITS: tuple[What, ...] = (
    "wait for a step",
    "wait for tokens",
    "receive from the stage before",
)

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """A call, a wait or a whole step of one rank, in ns. Of a step `number` is its id, else the
    bytes; `last` came last of the ranks that a call needs.
    """

    what: What
    begin: int
    end: int
    number: int = 0
    tokens: int = 0
    decodes: int = 0
    waited: int = 0
    last: int | None = None

    @property
    def moving(self) -> int:
        """When the waiting ended."""
        return self.begin + self.waited


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a rank's time. `kind` is as in the cost model's terms; `name` says more."""

    kind: str
    name: str
    begin: int
    end: int
    of: Span | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that a rank spent in an axis's calls, the mean over ranks, and their share of the
    time from its first step to its last.
    """

    waited_s: float
    moved_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans of every rank, those of a step after the step's own; empty where none were kept.
    `devices` names each rank's.
    """

    layout: Layout
    devices: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]

    def name(self, rank: int) -> str:
        """As in "rank 3 · stage 1 · tp 1 · cuda:3"."""
        at = self.layout.coord(rank)
        return f"rank {rank} · stage {at['pp']} · tp {at['tp']} · {self.devices[rank]}"

    @property
    def bubble_fraction(self) -> float | None:
        """Share of the time in which steps were under way that a stage waited for another: the
        mean over stages, of their first ranks. None when nothing was kept.
        """
        waited = there = 0
        for replica in range(self.layout.dp):
            busy = self.under_way(replica)
            for stage in range(self.layout.pp):
                rank = self.layout.rank(dp=replica, pp=stage)
                waits = [(s.begin, s.moving) for s in self.spans[rank] if s.what in STAGE_WAITS]
                waited += sum(end - begin for begin, end in common(waits, busy))
                there += sum(end - begin for begin, end in busy)
        return waited / there if there else None

    def under_way(self, replica: int) -> list[Interval]:
        """When at least one step of the replica was between its stages' first and last."""
        first, last = (
            {s.number: s for s in self.spans[rank] if s.what == "step"}
            for rank in (
                self.layout.rank(dp=replica, pp=stage) for stage in (0, self.layout.pp - 1)
            )
        )
        both = first.keys() & last.keys()
        return union([(first[step].begin, last[step].end) for step in both])

    def comm_seconds(self) -> dict[str, Waits]:
        """By axis, those that made calls."""
        found: dict[str, Waits] = {}
        for axis, whats in AXES.items():
            calls = [[s for s in spans if s.what in whats] for spans in self.spans]
            if not any(calls):
                continue
            ranks = len(calls)
            waited = sum(s.waited for s in itertools.chain(*calls)) / ranks
            total = sum(s.end - s.begin for s in itertools.chain(*calls)) / ranks
            lasted = sum(self._lasted(rank) for rank in range(ranks)) / ranks
            found[axis] = Waits(waited / 1e9, (total - waited) / 1e9, total / lasted)
        return found

    def shares(self, rank: int) -> dict[str, float]:
        """Shares of a rank's time from its first step to its last, by kind."""
        totals: dict[str, float] = {}
        lasted = self._lasted(rank)
        for piece in self.pieces(rank):
            totals[piece.kind] = totals.get(piece.kind, 0.0) + (piece.end - piece.begin) / lasted
        return totals

    def pieces(self, rank: int) -> Iterator[Piece]:
        """From the rank's first step to its last, in order, without gaps: its calls, what it
        computed between them, its waits, and overhead where there is nothing else.
        """
        steps = [s for s in self.spans[rank] if s.what == "step"]
        if not steps:
            return
        under_way = self.under_way(self.layout.coord(rank)["dp"]) if self.layout.pp > 1 else []
        at, inside, last = steps[0].begin, steps[0].begin, steps[-1].end
        for span in self.spans[rank]:
            if not steps[0].begin <= span.begin < last:
                continue
            yield from _between(at, span.begin, inside)
            if span.what == "step":
                at, inside = span.begin, span.end
                continue
            yield from _cut(span, under_way)
            at = span.end
        yield from _between(at, last, inside)

    def _lasted(self, rank: int) -> int:
        steps = [s for s in self.spans[rank] if s.what == "step"]
        return steps[-1].end - steps[0].begin if steps else 1


def _between(begin: int, end: int, step_end: int) -> Iterator[Piece]:
    """What has no span of its own: compute up to the end of a step, overhead from there."""
    edge = min(max(begin, step_end), end)
    if begin < edge:
        yield Piece("compute", "compute", begin, edge)
    if edge < end:
        yield Piece("overhead", "between steps", edge, end)


def _cut(span: Span, under_way: Sequence[Interval]) -> Iterator[Piece]:
    """A call as one piece, but for waits on another stage: those are bubbles."""
    if span.what not in STAGE_WAITS:
        yield Piece(KIND[span.what], span.what, span.begin, span.end, span)
        return
    at = span.begin
    for begin, end in common([(span.begin, span.moving)], under_way):
        if at < begin:
            yield Piece("wait", span.what, at, begin, span)
        yield Piece("bubble", "bubble", begin, end, span)
        at = end
    if at < span.end:
        yield Piece(KIND[span.what], span.what, at, span.end, span)


def union(intervals: Sequence[Interval]) -> list[Interval]:
    """The same times without overlaps, in order."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def common(some: Sequence[Interval], others: Sequence[Interval]) -> Iterator[Interval]:
    """The times that are in both; each is in order and without overlaps."""
    i = j = 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            yield begin, end
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1


def read_timeline(
    packed: Mapping[int, bytes],
    layout: Layout,
    devices: Sequence[str],
    ahead_ns: Mapping[int, int] | None = None,
) -> Timeline:
    """The timeline of what `Log.packed` gave, by rank, on rank 0's clock; `ahead_ns`: by how much
    the ranks' own are ahead of it, where they are on other hosts.
    """
    ahead = ahead_ns or {}
    spans = [
        _unpack(packed.get(rank, b""), ahead.get(rank, 0)) for rank in range(layout.world_size)
    ]
    for group in layout.groups("tp"):
        _meet(spans, group, AXES["tp"])
    for stage in range(layout.pp):
        sharing = [r for r in range(layout.world_size) if layout.coord(r)["pp"] == stage]
        _meet(spans, sharing, AXES["ep"])
    for rank in range(layout.world_size):
        at = layout.coord(rank)
        if at["pp"]:
            before = [
                layout.rank(dp=at["dp"], pp=at["pp"] - 1, tp=column) for column in range(layout.tp)
            ]
            _hear(spans, before, rank)
    for mine in spans:
        mine.sort(key=lambda span: (span.begin, -span.end))
    return Timeline(layout, tuple(devices), tuple(map(tuple, spans)))


def _unpack(packed: bytes, ahead_ns: int) -> list[Span]:
    row = array("q", packed)
    spans: list[Span] = []
    for i in range(0, len(row), COLUMNS):
        what, begin, end, number, tokens, decodes = row[i : i + COLUMNS]
        waited = end - begin if WHATS[what].startswith("wait") else 0
        at = begin - ahead_ns, end - ahead_ns
        spans.append(Span(WHATS[what], *at, number, tokens, decodes, waited))
    return spans


def _meet(spans: list[list[Span]], group: Sequence[int], whats: Sequence[What]) -> None:
    """Say how long each member waited in the group's calls, which all made in one order. They are
    matched from the last: of the first, some ranks may have kept more.
    """
    places = [[i for i, s in enumerate(spans[rank]) if s.what in whats][::-1] for rank in group]
    for call in zip(*places, strict=False):
        begins = [spans[rank][i].begin for rank, i in zip(group, call, strict=True)]
        came = max(begins)
        last = group[begins.index(came)]
        for rank, i in zip(group, call, strict=True):
            spans[rank][i] = _waited(spans[rank][i], came, last)


def _hear(spans: list[list[Span]], senders: Sequence[int], receiver: int) -> None:
    """Say how long `receiver` waited in each hand-off for the last of `senders` to begin it."""
    sent = [
        [s.begin for s in spans[rank] if s.what == "send to the next stage"][::-1]
        for rank in senders
    ]
    received = [
        i for i, s in enumerate(spans[receiver]) if s.what == "receive from the stage before"
    ][::-1]
    for i, *begins in zip(received, *sent, strict=False):
        came = max(begins)
        spans[receiver][i] = _waited(spans[receiver][i], came, senders[begins.index(came)])


def _waited(span: Span, came: int, last: int) -> Span:
    return replace(span, waited=min(max(came - span.begin, 0), span.end - span.begin), last=last)
