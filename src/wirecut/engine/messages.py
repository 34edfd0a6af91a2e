"""What the front and the ranks say to each other, as plain data."""

from collections.abc import Iterable

import msgspec

from wirecut.engine.wired import Wired
from wirecut.layout.plan import Cut, Limits
from wirecut.sched.request import Reason
from wirecut.sched.sampling import GREEDY, Sampling


class Task(msgspec.Struct, frozen=True):
    """What a rank is started with. `devices` is each rank's, as torch names it. A rank keeps its
    last `most_spans` spans; 0: none. `weights`: what quantised linears are held in, "" as stored.
    """

    folder: str
    dtype: str
    cut: Cut
    devices: list[str]
    wired: Wired
    limits: Limits
    block_tokens: int
    keep_logits: bool
    most_spans: int
    weights: str


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """A rank read another layer."""

    done: int
    of: int


class Held(msgspec.Struct, frozen=True, tag="held"):
    """A rank holds its slices, and waits for the others to hold theirs."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """A rank is ready and waits for work. `bytes_held`: its weights, as it keeps them."""

    bytes_read: int
    bytes_held: int
    seconds: float


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Every rank of the job holds its slices: from now on they may wait for one another."""


class Submit(msgspec.Struct, frozen=True, tag="submit", omit_defaults=True):
    """A request for the leader of a replica."""

    id: int
    prompt: tuple[int, ...]
    max_tokens: int
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    sampling: Sampling = GREEDY


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Drop a request: nobody waits for it any more."""

    id: int


class Elsewhere(msgspec.Struct, frozen=True, tag="elsewhere"):
    """Another replica, which shares experts with this one, was told something."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """No more requests: report and end."""


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """The log-probability of a token drawn, and the likeliest (token, log-probability) there."""

    chosen: float
    top: list[tuple[int, float]]


class Draws(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What was drawn in a step, by row that samples; None where logits were not finite.

    `logprobs` is empty when no row asked, `logits` when the task did not.
    """

    tokens: list[int | None]
    logprobs: list[Logprobs | None] = []
    logits: list[bytes] = []


class News(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a step brought one request: a token, why it ended, an error."""

    id: int
    token: int | None = None
    reason: Reason | None = None
    error: str = ""
    logprobs: Logprobs | None = None
    logits: bytes | None = None


class Sampled(msgspec.Struct, frozen=True, tag="sampled"):
    """What a step brought."""

    news: list[News]


class Dealt(msgspec.Struct, frozen=True, tag="dealt"):
    """What a replica's scheduler dealt: prompt tokens, how many of them were found computed, how
    often a request was preempted for want of KV room or outgrew its keys, and the tokens computed
    again for either.
    """

    prompt_tokens: int
    cached_tokens: int
    preemptions: int
    outgrown: int
    recomputed_tokens: int


def add_up(dealt: Iterable[Dealt]) -> Dealt:
    """What the replicas dealt together."""
    return Dealt(*map(sum, zip(*map(msgspec.structs.astuple, dealt), strict=True)))


class CountedExperts(msgspec.Struct, frozen=True):
    """Rows that a rank sent to experts, once for each rank that they went to, the bytes of both
    ways, and by layer of its stage how many of its part of the rows picked each expert.
    """

    copies: int
    dispatch_bytes: int
    combine_bytes: int
    picks: list[list[int]]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """A rank's last words: calls and payload bytes by axis, counted where its group counts, its
    forwards, and its spans as `trace.Log` packs them, on a clock that is ahead of rank 0's by
    `clock_ahead_ns`. `joined` are forwards of other replicas that it only exchanged tokens in,
    `native_halves` the halves of layers that native code ran in one call, over all forwards.
    """

    calls: dict[str, int]
    bytes: dict[str, int]
    forwards: int
    tokens: int
    sampling_forwards: int
    sampled_rows: int
    spans: bytes
    clock_ahead_ns: int
    joined: int
    native_halves: int
    experts: CountedExperts


FromRank = Loading | Held | Loaded | Sampled | Dealt | Counted
ToRank = Begin | Submit | Cancel | Elsewhere | Stop
