"""Collectives between the ranks of one host, through memory that they share. No process group, no
copy in the kernel.

    arena = Arena(process.shared)
    group = ShmGroup(arena, size=2, rank=0, slot_bytes=1 << 20, crowded=False, name="tp of stage 0")
    group.all_reduce(x)

Every rank makes the same objects in the same order, so that all agree on where each lies. A rank
says "I am here" by storing a rising number in its own cache line after storing its data; x86-64
keeps that order of stores; elsewhere (`ranks.stores_are_ordered`) sockets are used.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Sequence

import torch

from wirecut.errors import RankFailed
from wirecut.machine import kernels, native
from wirecut.machine.halves import Group, Running
from wirecut.machine.sizes import in_one_piece, is_two_shot

CACHE_LINE = 64
SPINS = 20_000  # about a millisecond of looking before the core is given away
NATIVE_SPINS = 30_000  # the same, in C
NAP_S = 50e-6
DEADLINE_S = 60.0


class Arena:
    """Hands out pieces of shared memory, in the order asked. Without memory it only counts bytes.

    Memory that was used before needs one rank that clears the flags while the others wait.
    """

    def __init__(self, shared: mmap.mmap | memoryview | None, *, clear: bool = False) -> None:
        self.used = 0
        self._view = None if shared is None else memoryview(shared)
        self._clear = clear

    @property
    def has_memory(self) -> bool:
        return self._view is not None

    def data(self, num_bytes: int) -> memoryview:
        """`num_bytes` of shared memory."""
        start = self.used
        self.used += -(-num_bytes // CACHE_LINE) * CACHE_LINE
        return memoryview(b"") if self._view is None else self._view[start : start + num_bytes]

    def flags(self, count: int) -> list[memoryview]:
        """`count` numbers that begin at 0, each in a cache line of its own."""
        flags = [self.data(CACHE_LINE)[:8].cast("q") for _ in range(count)]
        if self._clear:
            for flag in flags:
                flag[0] = 0
        return flags


def wait_until(
    flag: memoryview, value: int, *, crowded: bool, deadline_s: float | None, who: str
) -> None:
    """Return once `flag` has reached `value`; raise RankFailed naming `who` after `deadline_s`
    (None: never).

    With a core for each rank it spins first. Where ranks share cores the waiting one gives way at
    once.
    """
    if not crowded:
        for _ in range(SPINS):
            if flag[0] >= value:
                return
    begin = time.monotonic()
    while flag[0] < value:
        os.sched_yield()
        waited = time.monotonic() - begin
        if waited > 0.002:
            time.sleep(NAP_S if waited < 1 else 10 * NAP_S)
        if deadline_s is not None and waited > deadline_s:
            raise RankFailed(f"{who} did not come within {deadline_s:.0f} s")


class ShmGroup:
    """All-reduce and gather among `size` ranks of one host.

    Each rank owns a flag and two slots, used in turn. Writing slot n % 2 for round n is safe once
    every flag has reached n - 1: whoever posted n - 1 has finished reading round n - 2.
    """

    def __init__(
        self,
        arena: Arena,
        *,
        size: int,
        rank: int,
        slot_bytes: int,
        crowded: bool,
        name: str,
        members: tuple[int, ...] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.size, self.rank, self.slot_bytes = size, rank, slot_bytes
        self.deadline_s = deadline_s
        self._crowded, self._name = crowded, name
        self._members = members or tuple(range(size))
        self._flags = arena.flags(size)
        self._slots = [[arena.data(slot_bytes) for _ in range(2)] for _ in range(size)]
        self._round = 0
        self._views: dict[tuple[int, int, torch.dtype], list[torch.Tensor]] = {}
        self._native = native.load() if arena.has_memory else None
        if self._native:
            self._flags_at = _addresses(self._flags)
            self._slots_at = [
                _addresses([slots[parity] for slots in self._slots]) for parity in (0, 1)
            ]

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over the group, in place, the same bits on every rank. Any shape; contiguous."""
        two_shot = is_two_shot(x.nbytes, ranks=self.size)
        add = self._two_shot if two_shot else self._one_shot
        flat, most = x.view(-1), self._most(x)
        for start in range(0, flat.numel(), most):
            add(flat[start : start + most])
        return x

    def runs(self, num_bytes: int) -> bool:
        """Whether native code may sum so many bytes itself: those that go in one piece."""
        one_piece = in_one_piece(num_bytes, ranks=self.size, slot_bytes=self.slot_bytes)
        return bool(self._native) and one_piece

    def run(self, running: Running) -> None:
        """Let native code run, which sums over the group by itself; it says who is late."""
        group = Group(
            slots=tuple(map(ctypes.addressof, self._slots_at)),
            flags=ctypes.addressof(self._flags_at),
            rank=self.rank,
            size=self.size,
            round=self._round,
            spins=0 if self._crowded else NATIVE_SPINS,
        )
        while late := running(group):
            self._round = group.round
            self._wait_for_late(late - 1)
        self._round = group.round

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        """`x` (rows, columns) of every rank side by side, on rank 0; None elsewhere. Columns equal
        on all.
        """
        rows, columns = x.shape
        together = x.new_empty(rows, self.size * columns) if self.rank == 0 else None
        most = max(1, self.slot_bytes // (columns * x.itemsize))
        for start in range(0, rows, most):
            part = x[start : start + most]
            views = self._begin(part.numel(), x.dtype)
            views[self.rank].copy_(part.reshape(-1))
            self._post()
            if together is not None:
                self._await("logits gather")
                torch.cat(
                    [view.view(-1, columns) for view in views],
                    dim=1,
                    out=together[start : start + most],
                )
        return together

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of every rank, one after the other along the first dim, on every rank."""
        out = x.new_empty(self.size * x.shape[0], *x.shape[1:])
        parts, most = [part.view(-1) for part in out.chunk(self.size)], self._most(x)
        flat = x.view(-1)
        for start in range(0, flat.numel(), most):
            piece = flat[start : start + most]
            for rank, view in enumerate(self._exchange(piece, "all-gather")):
                parts[rank][start : start + most].copy_(view)
        return out

    def all_to_all(self, x: torch.Tensor) -> torch.Tensor:
        """Part i of `x` (equal parts along the first dim) goes to rank i; theirs come back, by
        rank.
        """
        out = torch.empty_like(x)
        mine, theirs = x.view(self.size, -1), out.view(self.size, -1)
        most = max(1, self._most(x) // self.size)
        for start in range(0, mine.shape[1], most):
            piece = mine[:, start : start + most].reshape(-1)
            for rank, view in enumerate(self._exchange(piece, "all-to-all")):
                theirs[rank, start : start + most].copy_(view.view(self.size, -1)[self.rank])
        return out

    def all_to_all_rows(
        self, x: torch.Tensor, counts: Sequence[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """`counts[i]` rows of `x`, in order, go to rank i; theirs come back, by rank, and how many
        each sent.

        A rank shows how many rows it has for whom, then all of them, a slot at a time until the
        longest is through; each picks out its own.
        """
        head = torch.tensor(counts).view(torch.uint8)
        mine, width = torch.cat([head, bytes_of(x)]), x.shape[1:].numel() * x.itemsize
        shown = self._show(mine[: self.slot_bytes])
        sent: list[list[int]] = [view[: len(head)].view(torch.int64).tolist() for view in shown]
        theirs = [each[self.rank] for each in sent]
        out = x.new_empty(sum(theirs), *x.shape[1:])
        parts = bytes_of(out).split([count * width for count in theirs])
        firsts = [len(head) + sum(each[: self.rank]) * width for each in sent]
        longest = len(head) + max(map(sum, sent)) * width
        for start in range(0, longest, self.slot_bytes):
            if start:
                shown = self._show(mine[start : start + self.slot_bytes])
            for view, part, first in zip(shown, parts, firsts, strict=True):
                low, high = max(first, start), min(first + len(part), start + len(view))
                if low < high:
                    part[low - first : high - first].copy_(view[low - start : high - start])
        return out, theirs

    def _most(self, x: torch.Tensor) -> int:
        """Elements that a slot has room for."""
        return self.slot_bytes // x.itemsize

    def _exchange(self, flat: torch.Tensor, what: str) -> list[torch.Tensor]:
        """Show `flat` to all; every rank's, by rank, until the next round but one."""
        views = self._begin(flat.numel(), flat.dtype)
        views[self.rank].copy_(flat)
        self._post()
        self._await(what)
        return views

    def _show(self, piece: torch.Tensor) -> list[torch.Tensor]:
        """Show bytes to all, as many as each rank has; every rank's whole slot, by rank."""
        views = self._begin(self.slot_bytes, torch.uint8)
        views[self.rank][: len(piece)].copy_(piece)
        self._post()
        self._await("all-to-all")
        return views

    def barrier(self) -> None:
        """Return once every rank has come here."""
        self._round += 1
        self._post()
        self._await("barrier")

    def _one_shot(self, flat: torch.Tensor) -> None:
        if self._native and kernels.fits(flat, flat.numel()):
            self._sum_natively(flat)
            return
        _sum(self._exchange(flat, "all-reduce"), out=flat)

    def _sum_natively(self, flat: torch.Tensor) -> None:
        """The same round in one call, which says who is late."""
        self._round += 1
        asked = (
            *(flat.data_ptr(), self._slots_at[self._round & 1], self._flags_at, self.rank),
            *(self.size, self._round, flat.numel(), 0 if self._crowded else NATIVE_SPINS),
            flat.dtype == torch.bfloat16,
        )
        while late := self._native.all_reduce(*asked):
            self._wait_for_late(late - 1)

    def _wait_for_late(self, peer: int) -> None:
        """Wait for the rank that native code misses, for this round or for the end of the one
        before.
        """
        posted = self._flags[self.rank][0] == self._round
        self._wait_for(peer, self._round if posted else self._round - 1, "all-reduce")

    def _two_shot(self, flat: torch.Tensor) -> None:
        count = flat.numel()
        cuts = [count * i // self.size for i in range(self.size + 1)]
        views = self._begin(count, flat.dtype)
        views[self.rank].copy_(flat)
        self._post()
        self._await("all-reduce (its parts)")
        mine = slice(cuts[self.rank], cuts[self.rank + 1])
        sums = self._begin(count, flat.dtype)
        _sum([view[mine] for view in views], out=flat[mine])
        sums[self.rank][mine].copy_(flat[mine])
        self._post()
        self._await("all-reduce (its sums)")
        for peer in range(self.size):
            if peer != self.rank:
                part = slice(cuts[peer], cuts[peer + 1])
                flat[part].copy_(sums[peer][part])

    def _begin(self, count: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Start a round: wait until its slots are free, and return every rank's slot as `count`
        elements.
        """
        self._await("the round before")
        self._round += 1
        key = (self._round & 1, count, dtype)
        views = self._views.get(key)
        if views is None:
            if len(self._views) > 256:
                self._views.clear()
            parity = self._round & 1
            views = [
                torch.frombuffer(slots[parity], dtype=dtype, count=count) for slots in self._slots
            ]
            self._views[key] = views
        return views

    def _post(self) -> None:
        self._flags[self.rank][0] = self._round

    def _await(self, what: str) -> None:
        """Return once every rank of the group has posted this round."""
        for peer, flag in enumerate(self._flags):
            if flag[0] < self._round:
                self._wait_for(peer, self._round, what)

    def _wait_for(self, peer: int, number: int, what: str) -> None:
        wait_until(
            self._flags[peer],
            number,
            crowded=self._crowded,
            deadline_s=self.deadline_s,
            who=f"rank {self._members[peer]} ({self._name}: {what} number {self._round})",
        )


def _addresses(places: Sequence[memoryview]) -> ctypes.Array[ctypes.c_void_p]:
    """Where pieces of memory lie, for a kernel of ours."""
    at = [ctypes.addressof(ctypes.c_char.from_buffer(place.cast("B"))) for place in places]
    return (ctypes.c_void_p * len(at))(*at)


def bytes_of(x: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor as bytes, flat."""
    return x.view(-1).view(torch.uint8)


def _sum(views: list[torch.Tensor], *, out: torch.Tensor) -> None:
    """Sum in the order of ranks, in fp32 when there are more than two: every rank gets the same
    bits.
    """
    if len(views) == 2:
        torch.add(views[0], views[1], out=out)
        return
    total = views[0].float() + views[1].float()
    for view in views[2:]:
        total += view
    out.copy_(total)
