"""Times one job of a probe: first that the bytes arrive right, then how long each size takes.

    points = time_job(job, transports, budget_s=0.5)

The first rank of a group decides how often each size is repeated and when to stop, and tells the
others, so that all do the same.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch

from wirecut.fabric.probing import Job, WirePoints
from wirecut.fabric.transports import Lane, Transports
from wirecut.machine.kernels import PackedLinear
from wirecut.units import KIB

CHECKED_BYTES = 256 * KIB  # a message that is compared element by element
FEWEST, MOST = 2, 60  # repetitions
WARM_S = 10e-3
PACED_BYTES = 256 * KIB  # up to here a collective is timed between products, as in a layer
WEIGHTS = 16  # matrices of 2 MiB that the products take in turn: more than a core's cache
Timing = tuple[float, float]  # median seconds, relative half-spread


def time_job(job: Job, transports: Transports, *, budget_s: float) -> WirePoints | None:
    """What this rank has to tell of a job: None unless it is the first of a group. Collective.

    A wire that is too slow for the largest messages within the budget is timed up to those that it
    has time for.
    """
    lane = transports.lane(job)
    together = len(job.groups) > 1  # then every size begins in all groups at once, and none is left
    if lane is None:
        for _ in job.sizes if together else ():
            transports.barrier()
        return None
    wrong = lane.total(check(job, lane))
    work = _work(lane) if job.op != "send_recv" else None
    points: list[tuple[int, float, float]] = []
    first_s = 0.0
    for size in job.sizes:
        once, scale = _call(job, lane, size)
        if first_s < WARM_S:  # a wire that takes longer is not warmer the second time
            once()
            lane.sync()
        if together:
            transports.barrier()
        begin = time.perf_counter()
        once()
        lane.sync()
        first_s = lane.agree(time.perf_counter() - begin)
        rounds = max(FEWEST, min(MOST, int(budget_s / len(job.sizes) / first_s)))
        median_s, spread = _repeat(
            once, lane, rounds, between=work if size <= PACED_BYTES else None
        )
        points.append((size, median_s * scale, spread))
        if first_s > budget_s / 6 and len(points) >= 2 and not together:
            break
    if lane.place != 0:
        return None
    return WirePoints(job.op, job.wire, lane.members, tuple(points), len(job.groups), wrong)


def _call(job: Job, lane: Lane, size: int) -> tuple[Callable[[], object], float]:
    """One call on `size` bytes, and what to multiply its time with: there and back is two."""
    n, elements = len(lane.members), size // 2

    def buffer(count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.bfloat16, device=lane.device)

    if job.op == "send_recv":
        x = buffer(elements)
        return lambda: lane.there_and_back(x), 0.5
    group = lane.group
    assert group is not None
    if job.op == "all_gather":  # `size` is the whole buffer
        x = buffer(max(1, elements // n))
        return lambda: group.all_gather(x), 1.0
    if job.op == "all_to_all":
        x = buffer(max(1, elements // n) * n)
        return lambda: group.all_to_all(x), 1.0
    x = buffer(elements)
    return lambda: group.all_reduce(x), 1.0


def check(job: Job, lane: Lane) -> int:
    """Elements that come out wrong when a known pattern is sent."""
    n, place, group = len(lane.members), lane.place, lane.group
    count = CHECKED_BYTES // 4 // n * n
    pattern = torch.arange(count, dtype=torch.float32, device=lane.device) % 1021
    if job.op == "send_recv":
        x = pattern.clone() if place == 0 else torch.zeros_like(pattern)
        lane.there_and_back(x)
        expected = pattern
        lane.sync()
        return int((x != expected).sum())
    assert group is not None
    if job.op == "all_gather":
        x = group.all_gather(pattern[: count // n] + place)
        expected = torch.cat([pattern[: count // n] + i for i in range(n)])
    elif job.op == "all_to_all":
        parts = pattern.view(n, -1)
        x = group.all_to_all(pattern + place)
        expected = torch.cat([parts[place] + i for i in range(n)])
    else:
        x = group.all_reduce(pattern + place)
        expected = pattern * n + n * (n - 1) / 2
    lane.sync()
    return int((x.view(-1) != expected).sum())


def _work(lane: Lane) -> Callable[[], object] | None:
    """What a rank does between two collectives: a product that streams weights. After it the
    transport is cold, its threads asleep and the ranks a little apart, as in a layer; called again
    at once, it would seem faster than it is in use. A GPU's calls are queued and know no such gap.
    """
    if lane.device.type != "cpu":
        return None
    products = [PackedLinear(torch.ones(1024, 1024, dtype=torch.bfloat16)) for _ in range(WEIGHTS)]
    turns, row = itertools.cycle(products), torch.ones(1, 1024, dtype=torch.bfloat16)
    return lambda: next(turns)(row)


def _repeat(
    once: Callable[[], object], lane: Lane, rounds: int, *, between: Callable[[], object] | None
) -> Timing:
    times = []
    for _ in range(rounds):
        if between is not None:
            between()
        begin = time.perf_counter()
        once()
        lane.sync()
        times.append(time.perf_counter() - begin)
    times.sort()
    median_s = statistics.median(times)
    low, high = times[len(times) // 10], times[-1 - len(times) // 10]
    return median_s, (high - low) / 2 / median_s
