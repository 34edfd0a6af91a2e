"""The KV blocks of one replica: a fixed number, lent to requests and given back. Knows no tokens
and no tensors.

The engine reads a sequence without copying where its blocks follow one another. So a request gets a
stretch of free blocks as long as it may become, holds the part it needs now, and the rest (`ahead`)
stays free but is offered to others last: preferring neighbours costs no block, since any free block
can still be had by whoever needs one.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass


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

    def lend(self, most: int) -> Lease:
        """An empty lease that may grow to `most` blocks."""
        lease = Lease(most=most)
        self._leases[lease] = None
        return lease

    def grow(self, lease: Lease, count: int) -> bool:
        """Add `count` blocks to the lease, or none and False when fewer are free."""
        if count > self.num_free:
            return False
        self.num_free -= count
        while count:
            if lease.ahead == lease.end:
                lease.ahead, lease.end = self._claim(lease)
            taken = min(count, lease.end - lease.ahead)
            lease.blocks += tuple(range(lease.ahead, lease.ahead + taken))
            lease.ahead += taken
            count -= taken
        return True

    def give_back(self, lease: Lease) -> None:
        """Free everything that the lease holds. It is empty and ended afterwards."""
        del self._leases[lease]
        self.num_free += len(lease.blocks)
        for run in (*_runs(lease.blocks), (lease.ahead, lease.end)):
            self._open_run(*run)
        lease.blocks, lease.ahead, lease.end = (), 0, 0

    def _claim(self, lease: Lease) -> tuple[int, int]:
        """A run of free blocks for the rest of a lease: after its last block, else the tightest
        that holds all of it, else the longest, else the far half of the longest that is meant for
        another.
        """
        wanted = max(1, lease.most - len(lease.blocks))
        if not self._open:
            victim = max(self._leases, key=lambda other: other.end - other.ahead)
            start, victim_end = (victim.ahead + victim.end) // 2, victim.end
            victim.end = start
            self._open.append((start, victim_end))
        following = lease.blocks[-1] + 1 if lease.blocks else None

        def badness(run: tuple[int, int]) -> tuple[bool, bool, int]:
            length = run[1] - run[0]
            return run[0] != following, length < wanted, abs(length - wanted)

        best = min(self._open, key=badness)
        start, end = best[0], min(best[1], best[0] + wanted)
        at = self._open.index(best)
        self._open[at : at + 1] = [(end, best[1])] if end < best[1] else []
        return start, end

    def _open_run(self, start: int, end: int) -> None:
        """Make a run open to everybody, joined with the open runs that touch it."""
        if start == end:
            return
        at = bisect_left(self._open, (start, end))
        if at < len(self._open) and self._open[at][0] == end:
            end = self._open.pop(at)[1]
        if at and self._open[at - 1][1] == start:
            start = self._open.pop(at - 1)[0]
            at -= 1
        self._open.insert(at, (start, end))


def _runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """(first, one past the last) of each stretch of consecutive blocks."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs
