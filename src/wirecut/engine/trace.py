"""What a rank did and when: a span for each step, for each call on its wires, for each wait.

    log = Log(most_spans=20_000)               # Off() keeps nothing and costs nothing
    tp = watch(transport, log, {"all_reduce": "all-reduce", "gather": "logits gather"})
    with log.step(step.id, tokens=17, decodes=16):
        tp.all_reduce(x)                       # a span of its own inside the step's
    log.packed()                               # to the front, where `timeline` reads it

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a host share; `timeline` puts those
of several hosts on one clock. Knows no tensors.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeVar, cast, get_args

What = Literal[
    "step",
    "all-reduce",
    "logits gather",
    "rows to experts",
    "send to the next stage",
    "receive from the stage before",
    "wait for a step",
    "wait for tokens",
    "wait for other replicas",
    "wait for requests",
    "sampling",
]
WHATS: tuple[What, ...] = get_args(What)
COLUMNS = 6  # of a span: what, begin, end, then step id, tokens and decodes, or bytes and zeros
ROUTINE_SPANS = 20_000  # kept by every rank of every run: 1 MB, hundreds of steps
TRACED_SPANS = 2_000_000  # kept for a trace: 100 MB

Wire = TypeVar("Wire")


class TimesItself(Protocol):
    """Something that takes times itself: begin and end of each call, of `num_bytes` each."""

    times: Iterable[int]
    num_bytes: int


class Log:
    """The last spans of one rank, at least half of `most_spans` of them. `clock` gives ns; a GPU's
    waits until what was started has ended.
    """

    def __init__(self, most_spans: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._most = most_spans * COLUMNS
        self._clock = clock
        self._rows = array("q")

    def step(self, number: int, *, tokens: int, decodes: int) -> AbstractContextManager[None]:
        """A span over what runs inside: this rank's part of step `number`."""
        return _Open(self, "step", (number, tokens, decodes))

    def span(self, what: What) -> AbstractContextManager[None]:
        """A span over what runs inside."""
        return _Open(self, what, (0, 0, 0))

    def timed(self, what: What, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with a span each time. The bytes are those of its first argument, if it has
        one.
        """
        clock, number, note = self._clock, WHATS.index(what), self.note

        def timed(*given: Any) -> Any:
            begin = clock()
            result = call(*given)
            note(number, begin, clock(), given[0].nbytes if given else 0, 0, 0)
            return result

        return timed

    def timed_inside(self, what: What, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` of something that runs and takes the times itself, with a span for each."""
        number, note = WHATS.index(what), self.note

        def timed(running: TimesItself) -> None:
            call(running)
            rows, times = [], iter(running.times)
            for begin, end in zip(times, times, strict=True):
                rows += (number, begin, end, running.num_bytes, 0, 0)
            note(*rows)

        return timed

    def note(self, *row: int) -> None:
        """Keep a span, or several. When there are too many, the older half goes, up to the end of a
        step.
        """
        rows = self._rows
        rows.extend(row)
        if len(rows) > self._most:
            cut = len(rows) // COLUMNS // 2 * COLUMNS
            while cut < len(rows) and WHATS[rows[cut]] != "step":
                cut += COLUMNS
            del rows[: cut + COLUMNS]

    def now(self) -> int:
        return self._clock()

    def packed(self) -> bytes:
        """All spans, in the order in which they ended."""
        return self._rows.tobytes()

    def clear(self) -> None:
        """Forget what was noted so far."""
        del self._rows[:]


class _Open:
    """A span that is noted when it ends."""

    def __init__(self, log: Log, what: What, details: tuple[int, int, int]) -> None:
        self._log, self._number, self._details = log, WHATS.index(what), details
        self._begin = 0

    def __enter__(self) -> None:
        self._begin = self._log.now()

    def __exit__(self, *_: object) -> None:
        self._log.note(self._number, self._begin, self._log.now(), *self._details)


class Off:
    """A log that keeps nothing."""

    def step(self, number: int, *, tokens: int, decodes: int) -> AbstractContextManager[None]:
        return nullcontext()

    def span(self, what: What) -> AbstractContextManager[None]:
        return nullcontext()

    def timed(self, what: What, call: Callable[..., Any]) -> Callable[..., Any]:
        return call

    def timed_inside(self, what: What, call: Callable[..., Any]) -> Callable[..., Any]:
        return call

    def packed(self) -> bytes:
        return b""

    def clear(self) -> None: ...


class _Watched:
    def __init__(self, wire: object, methods: dict[str, Callable[..., Any]]) -> None:
        self._wire = wire
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


def watch(wire: Wire, log: Log | Off, calls: Mapping[str, What]) -> Wire:
    """`wire` with a span for each of the methods in `calls`; None stays None."""
    return _watched(wire, log.timed, calls)


def watch_inside(wire: Wire, log: Log | Off, calls: Mapping[str, What]) -> Wire:
    """The same of methods that run what makes many calls of the wire and times them itself."""
    return _watched(wire, log.timed_inside, calls)


def _watched(wire: Wire, timed: Callable[..., Callable[..., Any]], calls: Mapping[str, What]):
    if wire is None:
        return wire
    methods = {name: timed(what, getattr(wire, name)) for name, what in calls.items()}
    return cast(Wire, _Watched(wire, methods))
