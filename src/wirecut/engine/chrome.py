"""A timeline as Chrome's trace format, which Perfetto (https://ui.perfetto.dev) opens.

    trace_json(timeline)      # bytes of {"traceEvents": [...]}

A process is a replica, a thread a rank. On a rank's track each step holds its pieces: compute,
calls on the wires, bubbles. Format: "Trace Event Format", of Chromium's catapult project.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from wirecut.engine.timeline import Piece, Span, Timeline

Event = dict[str, Any]


def trace_json(timeline: Timeline) -> bytes:
    """The trace. Times begin with the first span."""
    start = min((span.begin for spans in timeline.spans for span in spans), default=0)
    ranks = range(timeline.layout.world_size)
    events = [event for rank in ranks for event in _names(timeline, rank)]
    for rank in ranks:
        replica = timeline.layout.coord(rank)["dp"]
        for event in _events(timeline, rank, start):
            events.append({"pid": replica, "tid": rank, "ph": "X", **event})
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms"})


def _names(timeline: Timeline, rank: int) -> Iterator[Event]:
    replica = timeline.layout.coord(rank)["dp"]
    for what, args in (
        ("process_name", {"name": f"replica {replica}"}),
        ("thread_name", {"name": timeline.name(rank)}),
        ("thread_sort_index", {"sort_index": rank}),
    ):
        yield {"ph": "M", "name": what, "pid": replica, "tid": rank, "args": args}


def _events(timeline: Timeline, rank: int, start: int) -> Iterator[Event]:
    for span in timeline.spans[rank]:
        if span.what == "step":
            args = {"step": span.number, "tokens": span.tokens, "decodes": span.decodes}
            yield _event(f"step {span.number}", "step", span.begin, span.end, start, args)
    for piece in timeline.pieces(rank):
        if piece.kind != "overhead":
            yield _event(piece.name, piece.kind, piece.begin, piece.end, start, _args(piece))


def _event(name: str, kind: str, begin: int, end: int, start: int, args: Event) -> Event:
    """Times in microseconds."""
    ts, dur = (begin - start) / 1000, (end - begin) / 1000
    return {"name": name, "cat": kind, "ts": ts, "dur": dur, "args": args}


def _args(piece: Piece) -> Event:
    span: Span | None = piece.of
    if span is None:
        return {}
    args: Event = {"bytes": span.number} if span.number else {}
    if span.last is not None:
        args |= {"waited_us": span.waited / 1000, "last to come": f"rank {span.last}"}
    return args
