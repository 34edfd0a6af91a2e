"""Times one job of a probe: first that the bytes arrive right, then how long each size takes.

    points = time_job(job, transports, budget_s=0.5)

The first rank of a group decides how often each size is repeated and when to stop, and tells the
others, so that all do the same.
"""

import statistics
import time
from collections.abc import Callable

import torch

from wirecut.fabric.probing import Job, WirePoints
from wirecut.fabric.transports import Lane, Transports
from wirecut.units import KIB

CHECKED_BYTES = 256 * KIB  # a message that is compared element by element
FEWEST, MOST = 3, 60  # repetitions
Timing = tuple[float, float]  # median seconds, relative half-spread


def time_job(job: Job, transports: Transports, *, budget_s: float) -> WirePoints | None:
    """What this rank has to tell of a job: None unless it is the first of a group. Collective.

    A wire that is too slow for the largest messages within the budget is timed up to those that it
    has time for.
    """
    lane = transports.lane(job)
    if lane is None:
        return None
    wrong = check(job, lane)
    points: list[tuple[int, float, float]] = []
    for size in job.sizes:
        once, scale = _call(job, lane, size)
        once()
        begin = time.perf_counter()
        once()
        lane.sync()
        first_s = lane.agree(time.perf_counter() - begin)
        rounds = max(FEWEST, min(MOST, int(budget_s / len(job.sizes) / first_s)))
        median_s, spread = _repeat(once, lane, rounds)
        points.append((size, median_s * scale, spread))
        if first_s > budget_s / 4 and len(points) >= 2:
            break
    if lane.place != 0:
        return None
    return WirePoints(job.op, job.wire, lane.members, tuple(points), len(job.groups), wrong)


def _call(job: Job, lane: Lane, size: int) -> tuple[Callable[[], object], float]:
    """One call on `size` bytes, and what to multiply its time with: there and back is two."""
    n, elements = lane.group.size, size // 2

    def buffer(count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.bfloat16, device=lane.device)

    if job.op == "send_recv":
        x = buffer(elements)
        return lambda: lane.there_and_back(x), 0.5
    if job.op == "all_gather":  # `size` is the whole buffer
        x = buffer(max(1, elements // n))
        return lambda: lane.group.all_gather(x), 1.0
    if job.op == "all_to_all":
        x = buffer(max(1, elements // n) * n)
        return lambda: lane.group.all_to_all(x), 1.0
    x = buffer(elements)
    return lambda: lane.group.all_reduce(x), 1.0


def check(job: Job, lane: Lane) -> int:
    """Elements that come out wrong when a known pattern is sent."""
    n, place = lane.group.size, lane.place
    count = CHECKED_BYTES // 4 // n * n
    pattern = torch.arange(count, dtype=torch.float32, device=lane.device) % 1021
    if job.op == "send_recv":
        x = pattern.clone() if place == 0 else torch.zeros_like(pattern)
        lane.there_and_back(x)
        expected = pattern
    elif job.op == "all_gather":
        x = lane.group.all_gather(pattern[: count // n] + place)
        expected = torch.cat([pattern[: count // n] + i for i in range(n)])
    elif job.op == "all_to_all":
        parts = pattern.view(n, -1)
        x = lane.group.all_to_all(pattern + place)
        expected = torch.cat([parts[place] + i for i in range(n)])
    else:
        x = lane.group.all_reduce(pattern + place)
        expected = pattern * n + n * (n - 1) / 2
    lane.sync()
    return int((x.view(-1) != expected).sum())


def _repeat(once: Callable[[], object], lane: Lane, rounds: int) -> Timing:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        once()
        lane.sync()
        times.append(time.perf_counter() - begin)
    times.sort()
    median_s = statistics.median(times)
    low, high = times[len(times) // 10], times[-1 - len(times) // 10]
    return median_s, (high - low) / 2 / median_s
