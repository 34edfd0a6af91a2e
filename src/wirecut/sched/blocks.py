"""The KV blocks of one replica: a fixed number, lent to requests and given back. Knows no tokens
and no tensors.

Full blocks can be named by a key. Several requests may hold a named block, and given back by the
last it stays, counted as free, until a request asks for its key or its room is needed.

The engine reads a sequence without copying where its blocks follow one another. So a request gets a
stretch of free blocks as long as it may become, holds the part it needs now, and the rest (`ahead`)
stays free but is offered to others last: preferring neighbours costs no block, since any free block
can still be had by whoever needs one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wirecut.sched.prefix import PrefixCache


@dataclass(slots=True, eq=False)
class Lease:
    """What one request holds: `blocks` in order of position, then free blocks `ahead` up to `end`
    meant for it.

    `most` is how many blocks it can come to hold.
    """

    blocks: tuple[int, ...] = ()
    ahead: int = 0
    end: int = 0
    most: int = 0


class BlockPool:
    """`num_blocks` blocks; `num_free` of them are held by nobody, whoever they are meant for."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._open: list[tuple[int, int]] = [(0, num_blocks)]  # runs meant for nobody, sorted
        self._leases: dict[Lease, None] = {}  # in order of lending
        self._num_holders = [0] * num_blocks
        self._named = PrefixCache()

    def lend(self, most: int, keys: Iterable[bytes] = ()) -> Lease:
        """A lease that may grow to `most` blocks. It begins with the blocks that `keys` name, up to
        the first key that no block has.
        """
        lease = Lease(most=most)
        self._leases[lease] = None
        for block in self._known(keys):
            if not self._num_holders[block]:
                self._named.take(block)
                self.num_free -= 1
            self._num_holders[block] += 1
            lease.blocks += (block,)
        return lease

    def num_held(self, keys: Iterable[bytes]) -> int:
        """How many blocks a lease of `keys` would begin with that somebody holds already, and which
        so take nothing from `num_free`.
        """
        return sum(self._num_holders[block] > 0 for block in self._known(keys))

    def grow(self, lease: Lease, count: int) -> bool:
        """Add `count` blocks to the lease, or none and False when fewer are free."""
        if count > self.num_free:
            return False
        self.num_free -= count
        while count:
            if lease.ahead == lease.end:
                lease.ahead, lease.end = self._claim(lease, count)
            taken = min(count, lease.end - lease.ahead)
            new = range(lease.ahead, lease.ahead + taken)
            for block in new:
                self._num_holders[block] = 1
            lease.blocks += tuple(new)
            lease.ahead += taken
            count -= taken
        return True

    def name(self, block: int, key: bytes) -> None:
        """Say what a held block holds, from the next step on: others may share it."""
        self._named.name(block, key)

    def forget(self, lease: Lease) -> None:
        """Let nobody share what the lease holds from now on."""
        for block in lease.blocks:
            self._named.forget(block)

    def give_back(self, lease: Lease) -> None:
        """Free what nobody else holds. The lease is empty and ended afterwards.

        The last of its blocks are the first to go when room is needed: without an earlier block, a
        later one is never found.
        """
        del self._leases[lease]
        nameless: list[int] = []
        for block in reversed(lease.blocks):
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self.num_free += 1
                if not self._named.shelve(block):
                    nameless.append(block)
        for run in (*_runs(reversed(nameless)), (lease.ahead, lease.end)):
            self._open_run(*run)
        lease.blocks, lease.ahead, lease.end = (), 0, 0

    def _known(self, keys: Iterable[bytes]) -> Iterator[int]:
        for key in keys:
            if (block := self._named.find(key)) is None:
                return
            yield block

    def _claim(self, lease: Lease, count: int) -> tuple[int, int]:
        """A run of free blocks for the rest of a lease, which needs `count` now: after its last
        block, else the tightest that holds all of it, else the longest. What is cached is given up
        only for room to become twice as long as now.
        """
        wanted = max(1, lease.most - len(lease.blocks))
        goal = min(wanted, 2 * (len(lease.blocks) + count))
        if max((end - start for start, end in self._open), default=0) < goal:
            self._make_room(goal)
        following = lease.blocks[-1] + 1 if lease.blocks else None

        def badness(run: tuple[int, int]) -> tuple[bool, bool, int]:
            length = run[1] - run[0]
            return run[0] != following, length < wanted, abs(length - wanted)

        best = min(self._open, key=badness)
        start, end = best[0], min(best[1], best[0] + wanted)
        at = self._open.index(best)
        self._open[at : at + 1] = [(end, best[1])] if end < best[1] else []
        return start, end

    def _make_room(self, goal: int) -> None:
        """Open more blocks: the far half of what is meant for another where that holds `goal`; else
        the least recently used of the cached, up to `goal` of them; else, to open any, such a half.
        """
        victim = max(self._leases, key=lambda other: other.end - other.ahead)
        half = (victim.ahead + victim.end) // 2
        if victim.end - half < goal:
            for _ in range(min(goal, self._named.num_idle)):
                block = self._named.evict()
                if self._open_run(block, block + 1) >= goal:
                    break
            if self._open:
                return
        self._open_run(half, victim.end)
        victim.end = half

    def _open_run(self, start: int, end: int) -> int:
        """Make a run open to everybody, joined with the open runs that touch it; how long it is
        then.
        """
        if start == end:
            return 0
        at = bisect_left(self._open, (start, end))
        if at < len(self._open) and self._open[at][0] == end:
            end = self._open.pop(at)[1]
        if at and self._open[at - 1][1] == start:
            start = self._open.pop(at - 1)[0]
            at -= 1
        self._open.insert(at, (start, end))
        return end - start


def _runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """(first, one past the last) of each stretch of consecutive blocks."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs
