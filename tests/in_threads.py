"""Ranks as threads of this process that share memory: cheap enough to draw many groups of them."""

import mmap
import threading
from collections.abc import Callable
from typing import TypeVar

from wirecut.machine.shm import Arena, ShmGroup

Found = TypeVar("Found")


def in_threads(size: int, work: Callable[[int], Found]) -> list[Found]:
    """What `work(rank)` returns on each of `size` ranks; raises what one of them raised."""
    found: dict[int, Found] = {}
    raised: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            found[rank] = work(rank)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if raised:
        raise raised[0]
    return [found[rank] for rank in range(size)]


def shared_groups(
    size: int, *, slot_bytes: int = 64 * 1024, deadline_s: float = 20
) -> list[ShmGroup]:
    """One group of `size` ranks, as each of them sees it."""
    count = Arena(None)
    ShmGroup(count, size=size, rank=0, slot_bytes=slot_bytes, crowded=True, name="test")
    shared = mmap.mmap(-1, count.used)
    return [
        ShmGroup(
            Arena(shared),
            size=size,
            rank=rank,
            slot_bytes=slot_bytes,
            crowded=True,
            name="test",
            deadline_s=deadline_s,
        )
        for rank in range(size)
    ]
