"""Shared-memory collectives between real processes: sums, gathers, mailboxes, and the rank that
does not come.
"""

import mmap
import os
import time
import traceback
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from in_threads import in_threads, shared_groups
from wirecut.engine.wiring import SharedBytes
from wirecut.errors import RankFailed
from wirecut.machine.mailbox import Mailbox
from wirecut.machine.shm import Arena, ShmGroup

SLOT = 64 * 1024


def on_ranks(
    size: int, work: Callable[[int, mmap.mmap], None], shared_bytes: int = 8 << 20
) -> None:
    """Run `work(rank, shared)` in `size` forked processes; fail if one does."""
    shared = mmap.mmap(-1, shared_bytes)
    children = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                work(rank, shared)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * size


def group(shared: mmap.mmap, size: int, rank: int, slot_bytes: int = SLOT) -> ShmGroup:
    return ShmGroup(
        Arena(shared), size=size, rank=rank, slot_bytes=slot_bytes, crowded=True, name="test"
    )


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_reduce_sums_alike_on_every_rank_at_every_size(size: int, dtype: torch.dtype) -> None:
    counts = [1, 7, 512, 8 * 1024, 33 * 1024 + 1, 200_001]  # one round, two rounds, several slots

    def work(rank: int, shared: mmap.mmap) -> None:
        mine = group(shared, size, rank)
        for count in counts * 2:
            parts = [torch.arange(count) % 97 - 50 + 3 * peer for peer in range(size)]
            got = mine.all_reduce(parts[rank].to(dtype))
            want = torch.stack([part.to(dtype) for part in parts]).float().sum(0).to(dtype)
            assert torch.equal(got, want), (count, got, want)

    on_ranks(size, work)


def test_gather_puts_columns_side_by_side_and_rounds_may_follow_at_once() -> None:
    def work(rank: int, shared: mmap.mmap) -> None:
        mine = group(shared, 3, rank, slot_bytes=1024)
        for rows in (1, 5, 90):
            x = torch.full((rows, 4), float(rank)) + torch.arange(rows)[:, None]
            got = mine.gather(x)
            if rank == 0:
                want = torch.cat([x - rank + peer for peer in range(3)], dim=1)
                assert got is not None
                assert torch.equal(got, want)
            else:
                assert got is None
        mine.barrier()

    on_ranks(3, work)


@given(data=st.data(), size=st.integers(2, 5), slot_bytes=st.sampled_from([64, 200, 4096]))
@settings(deadline=None, max_examples=25)
def test_uneven_rows_reach_the_ranks_that_they_are_for(
    data: st.DataObject, size: int, slot_bytes: int
) -> None:
    """Rows say whence and whither; some ranks send nothing, some more than a slot."""
    some = st.lists(st.integers(0, 40), min_size=size, max_size=size)
    rounds = data.draw(st.lists(st.lists(some, min_size=size, max_size=size), max_size=3))
    groups = shared_groups(size, slot_bytes=slot_bytes)

    def rows(source: int, to: int, count: int) -> torch.Tensor:
        return torch.tensor([[source, to, i] for i in range(count)], dtype=torch.int16).view(-1, 3)

    def work(rank: int) -> None:
        for counts in rounds:
            mine = torch.cat([rows(rank, to, n) for to, n in enumerate(counts[rank])])
            got, theirs = groups[rank].all_to_all_rows(mine, counts[rank])
            assert theirs == [sent[rank] for sent in counts]
            assert torch.equal(got, torch.cat([rows(i, rank, n) for i, n in enumerate(theirs)]))
            assert groups[rank].all_reduce(torch.ones(3)).tolist() == [size] * 3

    in_threads(size, work)


def test_mailbox_delivers_in_order_to_every_reader_and_waits_for_the_slowest() -> None:
    def work(rank: int, shared: mmap.mmap) -> None:
        box = Mailbox(Arena(shared), readers=2, slot_bytes=4096, depth=2, crowded=True, name="box")
        for i in range(50):
            if rank == 0:
                box.write(torch.full((i + 1,), float(i)))
                box.write(bytes([i]) * i)
            else:
                time.sleep(0.001 * (rank - 1))
                out = box.read(rank - 1, torch.empty(i + 1))
                assert torch.equal(out, torch.full((i + 1,), float(i)))
                assert box.read_bytes(rank - 1) == bytes([i]) * i

    on_ranks(3, work)


def test_a_rank_that_does_not_come_is_named_with_its_collective() -> None:
    shared = mmap.mmap(-1, 1 << 20)
    mine = ShmGroup(
        Arena(shared),
        size=2,
        rank=0,
        slot_bytes=4096,
        crowded=True,
        name="tp of stage 1",
        members=(4, 5),
    )
    mine.deadline_s = 0.05
    with pytest.raises(RankFailed, match=r"rank 5 \(tp of stage 1: all-reduce number 1\)"):
        mine.all_reduce(torch.ones(4))


def test_messages_longer_than_a_slot_go_in_pieces() -> None:
    messages = [bytes(range(length % 251)) * (length // 251 + 1) for length in (0, 250, 9, 1000)]
    messages += [b"x" * length for length in (63, 64, 65, 128, 129)]

    def work(rank: int, shared: mmap.mmap) -> None:
        box = Mailbox(Arena(shared), readers=1, slot_bytes=64, depth=2, crowded=True, name="pieces")
        wire = SharedBytes(box, 0 if rank else None)
        for message in messages:
            if rank:
                assert wire.receive() == message
            else:
                wire.send(message)

    on_ranks(2, work)
