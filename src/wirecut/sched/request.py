"""A request as the scheduler sees it: how many of its tokens are known, and how many of those are
computed.
"""

from dataclasses import dataclass, field
from typing import Literal

from wirecut.sched.blocks import Lease
from wirecut.sched.step import Entry, RequestId

Reason = Literal["stop", "length", "cancelled"]


@dataclass(slots=True, eq=False)
class Request:
    """Prompt and output so far. `output` ends with the stop token when one was met.

    The scheduler alone writes the fields below `seed`: `num_computed` positions are computed and
    committed, the next `num_in_flight` are in steps not committed yet. `arrival` counts requests: a
    greater one is younger.
    """

    id: RequestId
    prompt: tuple[int, ...]
    max_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False
    temperature: float = 0.0
    seed: int = 0

    output: list[int] = field(default_factory=list[int])
    num_computed: int = 0
    num_in_flight: int = 0
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
    def num_behind(self) -> int:
        """Tokens known that no step has computed or is computing. The token being sampled is not
        known yet.
        """
        return self.num_total - self.num_computed - self.num_in_flight

    def take(self, count: int) -> Entry:
        """The entry for the next `count` tokens, which are in flight from now on."""
        start = self.num_computed + self.num_in_flight
        stop = start + count
        self.num_in_flight += count
        num_prompt, index = len(self.prompt), len(self.output)
        if start >= num_prompt:
            tokens = tuple(self.output[start - num_prompt : stop - num_prompt])
        elif stop <= num_prompt:
            tokens = self.prompt[start:stop]
        else:
            tokens = (*self.prompt[start:], *self.output[: stop - num_prompt])
        if stop < num_prompt + index:
            return Entry(self.id, start, tokens, self.lease.blocks, False)
        return Entry(
            self.id, start, tokens, self.lease.blocks, True, self.temperature, self.seed, index
        )

    def finished_by(self, token: int) -> Reason | None:
        """Why `token`, the newest of `output`, ends the request, or None when it goes on."""
        if not self.ignore_eos and token in self.stop_tokens:
            return "stop"
        return "length" if len(self.output) >= self.max_tokens else None
