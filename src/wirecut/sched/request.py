"""A request as the scheduler sees it: how many of its tokens are known, and how many of those are
computed.
"""

from array import array
from dataclasses import dataclass, field
from typing import Literal

from wirecut.errors import UsageError
from wirecut.sched.blocks import Lease
from wirecut.sched.prefix import LONG_ROOT, ROOT, next_key
from wirecut.sched.sampling import GREEDY, Sampling
from wirecut.sched.step import Entry, RequestId

Reason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(slots=True, eq=False)
class Request:
    """Prompt and output so far. `output` ends with the stop token when one was met.

    The scheduler alone writes the fields below `sampling`: `num_computed` positions are computed
    and committed, the next `num_in_flight` are in steps not committed yet. `num_lost` were computed
    and given up to a preemption. `long`: it has outgrown what models that know two kinds of
    sequences call short. `keys` name full blocks of what is known, as far as was asked. `arrival`
    counts requests: a greater one is younger.
    """

    id: RequestId
    prompt: tuple[int, ...]
    max_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False
    sampling: Sampling = GREEDY

    output: list[int] = field(default_factory=list[int])
    num_computed: int = 0
    num_in_flight: int = 0
    num_lost: int = 0
    long: bool = False
    keys: list[bytes] = field(default_factory=list[bytes])
    lease: Lease = field(default_factory=Lease)
    arrival: int = 0
    cancelled: bool = False

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block table: which KV block holds each `block_tokens` positions."""
        return self.lease.blocks

    @property
    def num_total(self) -> int:
        """Tokens known: prompt and output."""
        return len(self.prompt) + len(self.output)

    @property
    def most_tokens(self) -> int:
        """Tokens that it can come to have."""
        return len(self.prompt) + self.max_tokens

    @property
    def num_behind(self) -> int:
        """Tokens known that no step has computed or is computing. The token being sampled is not
        known yet.
        """
        return self.num_total - self.num_computed - self.num_in_flight

    @property
    def next_position(self) -> int:
        """The first position that no step has computed or is computing."""
        return self.num_computed + self.num_in_flight

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """The known tokens at positions `start` to `stop`."""
        num_prompt = len(self.prompt)
        if stop <= num_prompt:
            return self.prompt[start:stop]
        if start >= num_prompt:
            return tuple(self.output[start - num_prompt : stop - num_prompt])
        return (*self.prompt[start:], *self.output[: stop - num_prompt])

    def keys_of(self, num_blocks: int, block_tokens: int) -> list[bytes]:
        """The keys of the first `num_blocks` blocks, all of them full."""
        while len(self.keys) < num_blocks:
            start = len(self.keys) * block_tokens
            parent = self.keys[-1] if self.keys else LONG_ROOT if self.long else ROOT
            self.keys.append(next_key(parent, self.tokens(start, start + block_tokens)))
        return self.keys[:num_blocks]

    def outgrows(self, longest: int | None) -> bool:
        """Whether it has just become longer than `longest` (None: there is no bound): what was
        computed of it is void.
        """
        if self.long or longest is None or self.num_total <= longest:
            return False
        self.long = True
        self.keys.clear()
        return True

    def take(self, count: int) -> Entry:
        """The entry for the next `count` tokens, which are in flight from now on."""
        start = self.next_position
        stop = start + count
        self.num_in_flight += count
        tokens, blocks, index = self.tokens(start, stop), self.lease.blocks, len(self.output)
        if stop < len(self.prompt) + index:
            return Entry(self.id, start, tokens, blocks, False, long=self.long)
        seen = array("i", self.tokens(0, stop)).tobytes() if self.sampling.penalises else b""
        return Entry(
            self.id, start, tokens, blocks, True, self.sampling, index, seen, long=self.long
        )

    def check(self, room: int, positions: int) -> None:
        """Raise UsageError when it could never be served with `room` tokens of KV room, by a
        model of `positions`.
        """
        if not self.prompt or self.max_tokens < 1:
            raise UsageError(
                f"request {self.id!r} has {len(self.prompt)} prompt tokens and max_tokens "
                f"{self.max_tokens}, expected at least 1 of each"
            )
        limits = (room, "tokens of KV room"), (positions, "positions of the model")
        limit, what = min(limits, key=lambda each: each[0])
        if self.most_tokens > limit:
            raise UsageError(
                f"request {self.id!r} needs {self.most_tokens} tokens ({len(self.prompt)} of prompt"
                f" + {self.max_tokens} to write), more than the {limit} {what}"
            )

    def hear(self, token: int | None) -> Reason | None:
        """Take the next token of the output, None if there is none to be had; why the request ends
        with it, or None when it goes on.
        """
        if token is None:
            return "failed"
        self.output.append(token)
        if not self.ignore_eos and token in self.stop_tokens:
            return "stop"
        return "length" if len(self.output) >= self.max_tokens else None
