#!/usr/bin/env python3
"""How fast all cores together read memory that no cache holds.   python run_stream.py

The better of two ways, each core with its own memory at the same time: torch's sum of integers,
and the engine's product of one row with weights.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch

from wirecut.machine.kernels import PackedLinear

BYTES, SIDE, SECONDS = 256 << 20, 1024, 2.0


def main() -> None:
    print("READY", flush=True)
    cores = sorted(os.sched_getaffinity(0))
    fork = multiprocessing.get_context("fork")
    barrier, rates = fork.Barrier(len(cores)), fork.SimpleQueue()
    readers = [fork.Process(target=read, args=(core, barrier, rates)) for core in cores]
    for reader in readers:
        reader.start()
    by_way = zip(*(rates.get() for _ in readers), strict=True)
    for reader in readers:
        reader.join()
    best = max(sum(each) for each in by_way)
    print("RESULT", json.dumps({"stream_gb_s": round(best / 1e9, 1)}), flush=True)


def read(core: int, barrier: Barrier, rates: multiprocessing.SimpleQueue) -> None:
    """Bytes a second of this core, by each way, while the other cores read too."""
    os.sched_setaffinity(0, [core])
    torch.set_num_threads(1)
    numbers = torch.ones(BYTES // 8, dtype=torch.int64)
    weight = torch.ones(2 * SIDE, SIDE, dtype=torch.bfloat16)
    products = [PackedLinear(weight) for _ in range(BYTES // weight.nbytes)]
    row = torch.ones(1, SIDE, dtype=torch.bfloat16)
    ways = (numbers.sum, lambda: [product(row) for product in products])
    found = []
    for way in ways:
        barrier.wait()
        found.append(BYTES / _median_seconds(way))
    rates.put(found)


def _median_seconds(once: Callable[[], object]) -> float:
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
