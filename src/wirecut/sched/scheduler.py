"""Which request gets tokens next: one token budget per step, decodes first, prompts cut into chunks
to fill the rest.

    scheduler = Scheduler(num_blocks=64, block_tokens=32, max_batched_tokens=512, max_seqs=16)
    scheduler.add(Request("a", prompt=(1, 2, 3), max_tokens=8))
    while (step := scheduler.schedule()) is not None:
        finished = scheduler.commit(step, run(step))

Up to `max_in_flight` steps (the pipeline's stages) may be out before the first is committed. A
request is behind by the tokens it knows and has not computed: a prompt, a chunk of one, what a
preempted request computes again and the token just sampled are one case. Tokens are weighed, so
that steps take equal time however long a prompt has become. Full blocks are found again by what
they hold; those that a step writes may be read in the same step and after. Where a model has other
keys for long sequences, one that becomes long is computed again. Knows no time and no tensors; the
engine and the simulator run this same class.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf

from wirecut.errors import UsageError
from wirecut.sched.blocks import BlockPool, Lease
from wirecut.sched.request import Reason, Request
from wirecut.sched.step import Entry, RequestId, Step
from wirecut.sched.weight import Room, Weights


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that left the scheduler, and why."""

    request_id: RequestId
    reason: Reason


class Scheduler:
    """Deals tokens and KV blocks to requests, oldest first."""

    def __init__(
        self,
        *,
        num_blocks: int,
        max_batched_tokens: int,
        max_seqs: int,
        block_tokens: int = 32,
        max_in_flight: int = 1,
        min_chunk_tokens: int = 64,
        chunks_per_stage: int = 2,
        max_positions: int | None = None,
        attention_tokens: float = inf,
        prefix_cache: bool = True,
        longest_short: int | None = None,
    ) -> None:
        """`longest_short`: sequences of more tokens than this have other keys; None: none have."""
        self.block_tokens = block_tokens
        self.max_batched_tokens = max_batched_tokens
        self.max_seqs = max_seqs
        self.max_in_flight = max_in_flight
        self.min_chunk_tokens = min_chunk_tokens
        self.chunks_per_stage = chunks_per_stage
        self.max_positions = num_blocks * block_tokens if max_positions is None else max_positions
        for name in (
            "block_tokens",
            "max_batched_tokens",
            "max_seqs",
            "max_in_flight",
            "min_chunk_tokens",
            "chunks_per_stage",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        if num_blocks < 1:
            raise UsageError(f"num_blocks is {num_blocks}: no room for the keys and values of one")
        self.pool = BlockPool(num_blocks)
        self.weights = Weights(attention_tokens)
        self.prefix_cache = prefix_cache
        self.longest_short = longest_short
        self.num_preemptions = 0  # for want of KV room
        self.num_outgrown = 0  # requests that became long
        self.num_recomputed_tokens = 0
        self.num_prompt_tokens = 0  # of requests that were started
        self.num_cached_tokens = 0  # of those, found computed
        self._requests: dict[RequestId, Request] = {}
        self._waiting: deque[Request] = deque()  # oldest first
        self._running: dict[RequestId, Request] = {}  # holds blocks
        self._prefilling: list[Request] = []  # running, and parts of what it knows are in no step
        self._ready: deque[Request] = deque()  # running, its sampled token is back: may decode
        self._in_flight: deque[int] = deque()  # ids of steps not committed
        self._num_steps = 0
        self._num_arrived = 0

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        """Requests that hold KV blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that hold none yet, or gave theirs up."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request. Raises UsageError when it could never be served."""
        if request.id in self._requests:
            raise UsageError(f"request id {request.id!r} is in use")
        request.check(self.pool.num_blocks * self.block_tokens, self.max_positions)
        request.outgrows(self.longest_short)
        request.arrival = self._num_arrived
        self._num_arrived += 1
        self._requests[request.id] = request
        self._waiting.append(request)

    def cancel(self, request_id: RequestId) -> Finished | None:
        """Drop a request. In flight, it is reported by the last commit that it is in, and None is
        returned here; so it is for a request that has finished already.
        """
        request = self._requests.get(request_id)
        if request is None or request.cancelled:
            return None
        request.cancelled = True
        if request.num_in_flight:
            if request in self._prefilling:
                self._prefilling.remove(request)
            return None
        if request.id in self._running:
            self._stop_running(request)
        else:
            self._waiting.remove(request)
        del self._requests[request_id]
        return Finished(request_id, "cancelled")

    def schedule(self) -> Step | None:
        """The next step, or None when there is nothing to do before a commit or a new request."""
        if len(self._in_flight) >= self.max_in_flight:
            return None
        entries = self._decodes()
        room = self._room(entries)
        self._prefills(entries, room)
        self._admit(entries, room)
        if not entries:
            return None
        step = Step(self._num_steps, tuple(entries))
        self._num_steps += 1
        self._in_flight.append(step.id)
        return step

    def commit(self, step: Step, tokens: Mapping[RequestId, int | None]) -> list[Finished]:
        """Take back the oldest step in flight with one token per entry that samples, None where
        nothing could be drawn: that request fails. What finished by it.
        """
        oldest = self._in_flight.popleft()
        assert step.id == oldest, f"step {step.id} came back, {oldest} is the oldest in flight"
        finished: list[Finished] = []
        for entry in step.entries:
            request = self._requests[entry.request_id]
            count = len(entry.tokens)
            request.num_computed += count
            request.num_in_flight -= count
            reason: Reason | None = None
            if request.cancelled:
                reason = None if request.num_in_flight else "cancelled"
            elif entry.samples:
                reason = request.hear(tokens[request.id])
                if reason is None:
                    self._go_on(request)
                elif reason == "failed":  # its keys and values may be to blame
                    self.pool.forget(request.lease)
            if reason is not None:
                self._stop_running(request)
                del self._requests[request.id]
                finished.append(Finished(request.id, reason))
        return finished

    def _go_on(self, request: Request) -> None:
        """A request has heard a token and needs the next."""
        if request.outgrows(self.longest_short):
            self.num_outgrown += 1
            self._start_again(request)
        else:
            self._ready.append(request)

    def _decodes(self) -> list[Entry]:
        """One token for each request whose last token is back, an even share of them when more
        steps may be out.
        """
        num_going_on = sum(not request.cancelled for request in self._running.values())
        num_decoding = num_going_on - len(self._prefilling)
        share = min(self.max_batched_tokens, -(-num_decoding // self.max_in_flight))
        entries: list[Entry] = []
        stuck: list[Request] = []
        while self._ready and len(entries) < share:
            request = self._ready.popleft()
            if self._grow(request):
                entries.append(self._take(request, 1))
            else:
                stuck.append(request)
        # stuck ones stay first in line, but for those whose blocks an older one has just taken
        self._ready.extendleft(r for r in reversed(stuck) if r.id in self._running)
        return entries

    def _room(self, decodes: list[Entry]) -> Room:
        """What is left for prompts beside `decodes` of the budget, which is the weight of a full
        first chunk. With more steps out at once it is a share of all prompts, `chunks_per_stage` of
        them for each step that may be out, so that stages work on prompts side by side and later
        ones begin soon, but never less than `min_chunk_tokens`.
        """
        budget = self.max_batched_tokens
        room = Room(self.weights, budget, self.weights.of(0, budget))
        for entry in decodes:
            room.take(entry.start, 1)
        if self.max_in_flight > 1:
            prompts = (*self._prefilling, *self._waiting)
            behind = sum(self.weights.of(r.next_position, r.num_behind) for r in prompts)
            chunks = self.chunks_per_stage * self.max_in_flight
            share = max(self.min_chunk_tokens, ceil(behind / chunks))
            room.weight = min(room.weight, share)
        return room

    def _prefills(self, entries: list[Entry], room: Room) -> None:
        """The next chunk of each running request that is behind."""
        for request in self._prefilling[:]:
            if not room.fits(request.next_position):
                return
            self._take_chunk(request, entries, room)

    def _admit(self, entries: list[Entry], room: Room) -> None:
        """Start waiting requests in order. One starts when all it knows has room, and a block to
        spare for each running request that may still grow: else it would soon be preempted and all
        its work done again. Of what it knows, the blocks in front that are found are computed; the
        last token never is.
        """
        growing = sum(len(r.lease.blocks) < r.lease.most for r in self._running.values())
        while self._waiting and len(self._running) < self.max_seqs and room.fits(0):
            request = self._waiting[0]
            needed = self._num_blocks(request.num_total)
            keys = self._keys(request, request.num_total - 1)
            if needed - self.pool.num_held(keys) + growing > self.pool.num_free:
                return
            self._waiting.popleft()
            most = self._num_blocks(request.most_tokens)
            request.lease = self.pool.lend(most, keys)
            self._count_start(request, len(request.lease.blocks) * self.block_tokens)
            self.pool.grow(request.lease, needed - len(request.lease.blocks))
            growing += needed < most
            self._running[request.id] = request
            self._prefilling.append(request)
            self._take_chunk(request, entries, room)

    def _count_start(self, request: Request, num_found: int) -> None:
        """A request starts, or starts again, with `num_found` of its tokens computed."""
        request.num_computed = num_found
        if request.num_lost:
            self.num_recomputed_tokens += max(0, request.num_lost - num_found)
            request.num_lost = 0
        else:
            self.num_prompt_tokens += len(request.prompt)
            self.num_cached_tokens += num_found

    def _take_chunk(self, request: Request, entries: list[Entry], room: Room) -> None:
        """The next tokens of a request that is behind, as many as fit."""
        entries.append(self._take(request, room.take(request.next_position, request.num_behind)))
        if not request.num_behind:
            self._prefilling.remove(request)

    def _take(self, request: Request, count: int) -> Entry:
        """The entry for the next `count` tokens; blocks that it fills can be found from now on."""
        first = request.next_position // self.block_tokens
        entry = request.take(count)
        if entry.stop // self.block_tokens > first:
            keys = self._keys(request, entry.stop)
            for block, key in zip(entry.blocks[first:], keys[first:], strict=False):
                self.pool.name(block, key)
        return entry

    def _keys(self, request: Request, num_tokens: int) -> list[bytes]:
        """Keys of the full blocks of a request's first `num_tokens`; none with no cache."""
        num_full = num_tokens // self.block_tokens if self.prefix_cache else 0
        return request.keys_of(num_full, self.block_tokens)

    def _grow(self, request: Request) -> bool:
        """Room for one more token of a decoding request, if need be by preempting younger ones,
        youngest first.
        """
        if request.num_total <= len(request.lease.blocks) * self.block_tokens:
            return True
        while not self.pool.grow(request.lease, 1):
            younger = [
                other
                for other in self._running.values()
                if other.arrival > request.arrival and not other.num_in_flight
            ]
            if not younger:
                return False
            self.num_preemptions += 1
            self._start_again(max(younger, key=lambda other: other.arrival))
        return True

    def _start_again(self, request: Request) -> None:
        """Take a request's blocks; it waits, in order of arrival, and then computes prompt and
        output again.
        """
        request.num_lost, request.num_computed = request.num_computed, 0
        self._stop_running(request)
        at = next(
            (i for i, r in enumerate(self._waiting) if r.arrival > request.arrival),
            len(self._waiting),
        )
        self._waiting.insert(at, request)

    def _stop_running(self, request: Request) -> None:
        del self._running[request.id]
        for line in (self._prefilling, self._ready):
            if request in line:
                line.remove(request)
        self.pool.give_back(request.lease)
        request.lease = Lease()

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)
