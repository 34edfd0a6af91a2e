"""How far a host's clock is ahead of rank 0's: CLOCK_MONOTONIC begins when each host does.

    ahead_ns = clock_ahead(line, pipes, neighbours)      # 0 on the host of rank 0

Asked when the ranks meet; clocks that drift apart by 10 ppm are 0.6 ms off a minute later.
"""

import time
from collections.abc import Callable, Sequence

import torch

from wirecut.machine.pipes import Pipe, Pipes
from wirecut.machine.shm import DEADLINE_S
from wirecut.machine.sockets import Line

PINGS = 32


def clock_ahead(
    line: Line,
    pipes: Pipes,
    neighbours: Sequence[int],
    clock: Callable[[], int] = time.monotonic_ns,
) -> int:
    """Nanoseconds by which the clock of this rank's host, whose ranks are `neighbours`, is ahead of
    rank 0's. Collective. The first rank of each host asks rank 0. Raises RankFailed.
    """
    said = line.all_tell("first of its host", str(min(neighbours)).encode(), DEADLINE_S)
    reference, *firsts = sorted({int(first) for first in said})
    mine = min(neighbours)
    for first in firsts if line.rank == reference else ():
        pipe = pipes.open(first, "clock")
        _answer(pipe, clock)
        pipe.close()
    if mine == reference:
        return 0
    if line.rank == mine:
        pipe = pipes.open(reference, "clock")
        line.tell("clock ahead", str(_ask(pipe, clock)).encode())
        pipe.close()
    return int(line.hear("clock ahead", mine, DEADLINE_S))


def _answer(pipe: Pipe, clock: Callable[[], int]) -> None:
    for _ in range(PINGS):
        pipe.receive(torch.empty(1, dtype=torch.int64))
        pipe.send(torch.tensor([clock()]))


def _ask(pipe: Pipe, clock: Callable[[], int]) -> int:
    """An answer was given half way between asking and hearing it, or off by that half at most: of
    all answers the quickest counts (F. Cristian, "Probabilistic clock synchronization", 1989).
    """
    found: list[tuple[int, int]] = []
    for _ in range(PINGS):
        asked = clock()
        pipe.send(torch.tensor([asked]))
        said = int(pipe.receive(torch.empty(1, dtype=torch.int64)))
        heard = clock()
        found.append((heard - asked, (asked + heard) // 2 - said))
    return min(found)[1]
