"""What `wirecut probe` measures and in what words its ranks report. Imports no torch."""

import msgspec

from wirecut.machine.ranks import stores_are_ordered
from wirecut.units import KIB, MIB

MESSAGE_SIZES = tuple(2 * KIB << i for i in range(13))  # 2 KiB to 8 MiB
ROWS = tuple(1 << i for i in range(10))  # 1 to 512 rows
DTYPES = ("bf16", "fp32")
WORKING_SETS = (2 * MIB, 12 * MIB, 96 * MIB)  # in a core's cache, in the shared cache, in memory
WIRES = ("shm", "tcp")


class ProbeTask(msgspec.Struct, frozen=True):
    """What the ranks of a probe are told: the groups whose all-reduce is timed, the pairs that
    send.
    """

    wires: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Rank 0 has done so many of all steps, and what comes next."""

    done: int
    of: int
    what: str


class WirePoints(msgspec.Struct, frozen=True, tag="wire"):
    """Times of one collective over one wire, told by the first of `devices`.

    `points` are (bytes, median seconds, relative half-spread between the 10th and 90th percentile).
    """

    op: str
    wire: str
    devices: tuple[int, ...]
    points: tuple[tuple[int, float, float], ...]


class Arithmetic(msgspec.Struct, frozen=True, tag="arithmetic"):
    """What one rank's device computes: (dtype, rows, weight bytes, median seconds), and a small
    operation.
    """

    points: tuple[tuple[str, int, int, float], ...]
    launch_s: float


Said = Progress | WirePoints | Arithmetic


def plan_probe(num_ranks: int) -> ProbeTask:
    """Groups of 2, 4, 8, ... and all ranks; every pair of up to 4 ranks, else neighbours round the
    ring.
    """
    sizes = sorted({*(1 << i for i in range(1, 11) if 1 << i <= num_ranks), num_ranks} - {1})
    if num_ranks <= 4:
        pairs = tuple((a, b) for a in range(num_ranks) for b in range(a + 1, num_ranks))
    else:
        pairs = tuple((a, a + 1) for a in range(num_ranks - 1))
    wires = WIRES if stores_are_ordered() else tuple(wire for wire in WIRES if wire != "shm")
    return ProbeTask(wires, tuple(tuple(range(size)) for size in sizes), pairs)
