"""An engine without tensors for scheduler tests: it remembers what lies in each KV slot.

Every entry is checked against that: a block given away too early, a token out of order or a block
shared by requests with other tokens is seen at once.
"""

import zlib
from collections import deque
from dataclasses import dataclass, field

from wirecut.sched.request import Request
from wirecut.sched.scheduler import Finished, Scheduler
from wirecut.sched.step import Step

VOCAB = 97


def create_scheduler(**changes) -> Scheduler:
    options = {"num_blocks": 64, "block_tokens": 4, "max_batched_tokens": 64, "max_seqs": 8}
    return Scheduler(**{**options, **changes})


def create_requests(lengths, *, max_tokens=4, **fields) -> list[Request]:
    """One request per prompt length, named a, b, c, ..., each with tokens of its own."""
    return [
        Request(chr(97 + i), tuple(1000 * (i + 1) + p for p in range(n)), max_tokens, **fields)
        for i, n in enumerate(lengths)
    ]


def token_at(request_id, position: int) -> int:
    """The token that the fake model puts at a position of a request."""
    return zlib.crc32(f"{request_id}:{position}".encode()) % VOCAB


@dataclass
class FakeEngine:
    """Runs steps in order, and holds each to what the scheduler promises."""

    scheduler: Scheduler
    requests: dict = field(default_factory=dict)
    in_flight: deque = field(default_factory=deque)
    # (block, offset) -> whether the sequence is long, all tokens up to there
    slots: dict = field(default_factory=dict)
    finished: dict = field(default_factory=dict)
    # request id -> end of its last entry, or None when that did not sample
    sampled_last: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.scheduler.add(request)
            self.requests[request.id] = request

    def cancel(self, request_id) -> None:
        self._note([done] if (done := self.scheduler.cancel(request_id)) else [])

    def schedule(self) -> Step | None:
        """Schedule and 'run' one step."""
        decoding = self._decoding()
        num_preemptions = self.scheduler.num_preemptions
        step = self.scheduler.schedule()
        if step is None:
            return None
        assert len(self.in_flight) < self.scheduler.max_in_flight
        assert 0 < step.num_tokens <= self.scheduler.max_batched_tokens
        assert len({entry.request_id for entry in step.entries}) == len(step.entries)
        assert self.scheduler.num_running <= self.scheduler.max_seqs
        if self.scheduler.num_preemptions == num_preemptions:  # else some may have started again
            decodes = [e for e in step.entries if decoding.get(e.request_id) == e.start]
            assert len(decodes) <= -(-len(decoding) // self.scheduler.max_in_flight)
            self._check_weight(decodes, [e for e in step.entries if e not in decodes])
        for entry in step.entries:
            self._compute(entry)
        self.in_flight.append(step)
        self.steps.append(step)
        self._check_blocks()
        return step

    def commit(self) -> list[Finished]:
        """Take back the oldest step in flight."""
        step = self.in_flight.popleft()
        tokens = {e.request_id: token_at(e.request_id, e.stop) for e in step.entries if e.samples}
        before = {name: list(self.requests[name].output) for name in tokens}
        finished = self.scheduler.commit(step, tokens)
        for name, token in tokens.items():
            if not self.requests[name].cancelled:
                assert self.requests[name].output == [*before[name], token]
        self._note(finished)
        return finished

    def run(self, *, most_steps: int = 10_000) -> None:
        """Keep the pipeline full until every request is finished."""
        for _ in range(most_steps):
            while self.schedule() is not None:
                pass
            if not self.in_flight:
                break
            self.commit()
        assert not self.scheduler.has_work, "stalled: work is left, and nothing is in flight"
        assert self.scheduler.pool.num_free == self.scheduler.pool.num_blocks

    def check_empty(self) -> None:
        """Nothing leaked: every block is free, and as one run again. What was cached is gone."""
        pool = self.scheduler.pool
        assert pool.num_free == pool.num_blocks
        lease = pool.lend(pool.num_blocks)
        assert pool.grow(lease, pool.num_blocks)
        assert lease.blocks == tuple(range(pool.num_blocks))
        pool.give_back(lease)

    def expected_output(self, name) -> list[int]:
        """What the fake model writes for a request that is left alone."""
        request, output = self.requests[name], []
        while len(output) < request.max_tokens:
            output.append(token_at(name, len(request.prompt) + len(output)))
            if not request.ignore_eos and output[-1] in request.stop_tokens:
                break
        return output

    def _compute(self, entry) -> None:
        """Write the entry's slots, then read the whole sequence back as attention would."""
        request = self.requests[entry.request_id]
        known = [*request.prompt, *request.output]
        size = self.scheduler.block_tokens
        longest_short = self.scheduler.longest_short
        assert entry.long == (longest_short is not None and len(known) > longest_short)
        assert entry.tokens
        assert entry.stop <= len(known)
        assert entry.samples == (entry.stop == len(known))
        assert entry.tokens == tuple(known[entry.start : entry.stop])
        for position in range(entry.start, entry.stop):
            slot = (entry.blocks[position // size], position % size)
            self.slots[slot] = entry.long, tuple(known[: position + 1])
        for position in range(entry.stop):
            slot = (entry.blocks[position // size], position % size)
            assert self.slots[slot] == (entry.long, tuple(known[: position + 1]))
        if entry.samples:
            assert (entry.index, entry.sampling) == (len(request.output), request.sampling)
        self.sampled_last[entry.request_id] = entry.stop if entry.samples else None

    def _decoding(self) -> dict:
        """Where requests go on whose last entry sampled: past their prefill, in flight or not."""
        return {
            name: end
            for name, end in self.sampled_last.items()
            if name not in self.finished and end is not None and self.requests[name].blocks
        }

    def _check_blocks(self) -> None:
        """A block is held by several requests only where it is full and their tokens are the same
        up to its end; none is lost.
        """
        size, holds = self.scheduler.block_tokens, {}
        for request in self.requests.values():
            known = (*request.prompt, *request.output)
            assert len(set(request.blocks)) == len(request.blocks)
            for i, block in enumerate(request.blocks):
                assert 0 <= block < self.scheduler.pool.num_blocks
                tokens = known[: size * (i + 1)]
                whole = len(tokens) == size * (i + 1)
                assert holds.setdefault(block, tokens if whole else request.id) == (
                    tokens if whole else request.id
                )
        for step in self.in_flight:
            for entry in step.entries:
                assert entry.blocks == self.requests[entry.request_id].blocks[: len(entry.blocks)]
        assert len(holds) == self.scheduler.pool.num_blocks - self.scheduler.pool.num_free

    def _check_weight(self, decodes: list, chunks: list) -> None:
        """A step weighs no more than the budget, but for what it must take: decodes, and one token
        of the chunk that goes over.
        """
        weigh = self.scheduler.weights.of
        budget = weigh(0, self.scheduler.max_batched_tokens)
        fixed = sum(weigh(e.start, 1) for e in decodes)
        over = fixed + sum(weigh(e.start, len(e.tokens)) for e in chunks) - budget
        assert over <= max((weigh(e.stop - 1, 1) for e in chunks), default=fixed) + 1e-6

    def _note(self, finished: list[Finished]) -> None:
        for done in finished:
            assert done.request_id not in self.finished
            assert not any(
                e.request_id == done.request_id for step in self.in_flight for e in step.entries
            )
            self.finished[done.request_id] = done.reason


def shares(step: Step | None) -> list[tuple]:
    """(request, start, number of tokens, samples) per entry."""
    return [(e.request_id, e.start, len(e.tokens), e.samples) for e in step.entries]


def started(lengths, *, max_tokens=4, fields=None, **changes) -> FakeEngine:
    engine = FakeEngine(create_scheduler(**changes))
    engine.add(*create_requests(lengths, max_tokens=max_tokens, **(fields or {})))
    return engine
