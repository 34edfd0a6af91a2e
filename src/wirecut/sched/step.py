"""What one step computes, as plain data that a rank without memory of its own can follow.

    msgspec.msgpack.encode(step)      # short: a decode entry is some 20 bytes

Knows no tensors.
"""

import msgspec

from wirecut.sched.sampling import GREEDY, Sampling

RequestId = int | str


class Entry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """One request's share of a step: compute positions `start` to `start + len(tokens)`.

    `tokens` are the inputs at those positions and `blocks` is the request's whole block table, so
    position p lies in block `blocks[p // block_tokens]`. With `samples` the last row reaches the
    end of what is known and yields output token number `index`, drawn as `sampling` says. Penalties
    ask what is there already: `seen` is all tokens so far, prompt and output, 4 bytes each. `long`:
    the sequence has outgrown the length up to which its keys are as a short one's.
    """

    request_id: RequestId
    start: int
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    samples: bool
    sampling: Sampling = GREEDY
    index: int = 0
    seen: bytes = b""
    long: bool = False

    @property
    def stop(self) -> int:
        """One past the last position computed: the length of the sequence after this step."""
        return self.start + len(self.tokens)


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One batch: decodes first, then prefill chunks. Ids count up from 0; steps are committed in
    that order.
    """

    id: int
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return f"step {self.id}" if self.entries else "a step of other replicas"

    @property
    def num_tokens(self) -> int:
        """Rows of the batch."""
        return sum(len(entry.tokens) for entry in self.entries)

    @property
    def num_decodes(self) -> int:
        """Entries of one token."""
        return sum(len(entry.tokens) == 1 for entry in self.entries)


# Steps that no scheduler makes: ranks only join other replicas' exchange, do nothing, or end.
JOIN, REST, END = (Step(-number, ()) for number in (1, 2, 3))
