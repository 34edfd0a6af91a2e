"""What one rank of `wirecut probe` does: time the wires, then this device's arithmetic with all
ranks busy at once.

The kernels and collectives are the ones that the engine runs (`wirecut.machine`), not others like
them.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import torch

from wirecut.fabric.probing import (
    DTYPES,
    MESSAGE_SIZES,
    ROWS,
    WORKING_SETS,
    Arithmetic,
    ProbeTask,
    Progress,
    WirePoints,
)
from wirecut.machine.host import RankProcess
from wirecut.machine.kernels import Operations, PackedLinear
from wirecut.machine.shm import Arena, Mailbox, ShmGroup
from wirecut.machine.sockets import TorchGroup, join
from wirecut.units import MIB

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATRIX = 1024  # columns of a probe's matrices, a usual hidden size
POINT_S = 0.04  # what a repeated measurement may take
CROWDED_POINT_S = 0.1  # many turns of some milliseconds that the kernel gives each rank
Timing = tuple[float, float]  # median seconds, relative half-spread


def shared_bytes(payload: bytes) -> int:
    """Shared memory that the probe's groups and mailboxes take."""
    arena = Arena(None)
    _Wires(msgspec.msgpack.decode(payload, type=ProbeTask), arena, 0, crowded=True)
    return arena.used


def run(process: RankProcess) -> None:
    """Entry of a rank process; see `machine.ranks.start_ranks`."""
    torch.set_num_threads(max(1, len(process.cpus)))
    task = msgspec.msgpack.decode(process.payload, type=ProbeTask)
    with torch.inference_mode():
        wires = _Wires(task, Arena(process.shared), process.rank, crowded=process.crowded)
        if process.num_ranks > 1:
            wires.join(process.rank, process.num_ranks)
        work = [*_wire_jobs(task, wires, process), *_arithmetic_jobs(process, wires)]
        for done, (what, job) in enumerate(work):
            if process.rank == 0:
                process.channel.send(Progress(done, len(work), what))
            wires.barrier()
            job()


class _Wires:
    """Every group and mailbox of a probe, made in the same order on every rank."""

    def __init__(self, task: ProbeTask, arena: Arena, rank: int, *, crowded: bool) -> None:
        self.task, self.rank = task, rank
        self._port = arena.flags(1)[0]
        biggest = MESSAGE_SIZES[-1]
        everyone = max((max(group) for group in task.groups), default=0) + 1
        self._all = ShmGroup(
            arena, size=everyone, rank=rank, slot_bytes=64, crowded=crowded, name="probe"
        )
        self.groups: dict[tuple[str, tuple[int, ...]], ShmGroup | TorchGroup] = {
            ("shm", group): ShmGroup(
                arena,
                size=len(group),
                rank=group.index(rank) if rank in group else 0,
                slot_bytes=biggest,
                crowded=crowded,
                name=f"ranks {group[0]} to {group[-1]}",
            )
            for group in task.groups
        }
        self.boxes: dict[tuple[int, int], tuple[Mailbox, Mailbox]] = {}
        for pair in task.pairs:
            there, back = (
                Mailbox(
                    arena, readers=1, slot_bytes=biggest, depth=2, crowded=crowded, name=f"{pair}"
                )
                for _ in range(2)
            )
            self.boxes[pair] = (there, back)

    def join(self, rank: int, num_ranks: int) -> None:
        """Make the process groups of the socket wires."""
        join(rank=rank, num_ranks=num_ranks, port_box=self._port, backend="gloo")
        for members in (*self.task.groups, *self.task.pairs):
            if ("tcp", members) not in self.groups:
                self.groups["tcp", members] = TorchGroup(members)

    def barrier(self) -> None:
        self._all.barrier()


Job = tuple[str, Callable[[], None]]


def _wire_jobs(task: ProbeTask, wires: _Wires, process: RankProcess) -> Iterator[Job]:
    for wire in task.wires:
        for group in task.groups:
            yield (
                f"all-reduce of {len(group)} over {wire}",
                lambda wire=wire, group=group: _all_reduce(wires, process, wire, group),
            )
        for pair in task.pairs:
            yield (
                f"send {pair[0]} to {pair[1]} over {wire}",
                lambda wire=wire, pair=pair: _send(wires, process, wire, pair),
            )


def _all_reduce(wires: _Wires, process: RankProcess, wire: str, group: tuple[int, ...]) -> None:
    if process.rank not in group:
        return
    transport, points = wires.groups[wire, group], []
    for size in MESSAGE_SIZES:
        x = torch.zeros(size // 2, dtype=torch.bfloat16)
        timing = _repeat(lambda x=x: transport.all_reduce(x), _rounds(size))
        points.append((size, *timing))
    if process.rank == group[0]:
        process.channel.send(WirePoints("all_reduce", wire, group, tuple(points)))


def _send(wires: _Wires, process: RankProcess, wire: str, pair: tuple[int, int]) -> None:
    """There and back; one way is half."""
    if process.rank not in pair:
        return
    first, points = process.rank == pair[0], []
    for size in MESSAGE_SIZES:
        x = torch.zeros(size // 2, dtype=torch.bfloat16)
        once = _over_shm if wire == "shm" else _over_sockets
        median_s, spread = _repeat(
            lambda x=x, once=once: once(wires, pair, x, first), _rounds(size)
        )
        points.append((size, median_s / 2, spread))
    if first:
        process.channel.send(WirePoints("send_recv", wire, pair, tuple(points)))


def _over_shm(wires: _Wires, pair: tuple[int, int], x: torch.Tensor, first: bool) -> None:
    there, back = wires.boxes[pair]
    if first:
        there.write(x)
        back.read(0, x)
    else:
        there.read(0, x)
        back.write(x)


def _over_sockets(wires: _Wires, pair: tuple[int, int], x: torch.Tensor, first: bool) -> None:
    group = wires.groups["tcp", pair]
    assert isinstance(group, TorchGroup)
    if first:
        group.send(x, to=1)
        group.receive(x, source=1)
    else:
        group.receive(x, source=0)
        group.send(x, to=0)


def _rounds(size: int) -> int:
    """Repetitions, the same on every rank: many of small messages, few of large."""
    return max(5, min(60, (4 << 20) // size))


def _repeat(once: Callable[[], object], rounds: int) -> Timing:
    """Time `rounds` calls after two that warm up."""
    once()
    once()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return _summary(times)


def _summary(times: list[float]) -> Timing:
    times = sorted(times)
    median_s = statistics.median(times)
    low, high = times[len(times) // 10], times[-1 - len(times) // 10]
    return median_s, (high - low) / 2 / median_s


def _arithmetic_jobs(process: RankProcess, wires: _Wires) -> Iterator[Job]:
    points: list[tuple[str, int, int, float]] = []
    for dtype in DTYPES:
        for working_set in WORKING_SETS:
            yield (
                f"matrices of {working_set >> 20} MiB in {dtype}",
                lambda dtype=dtype, size=working_set: points.extend(
                    _matrices(dtype, size, wires, process.crowded)
                ),
            )

    def finish() -> None:
        process.channel.send(Arithmetic(tuple(points), _launch_s(process.crowded)))

    yield "small operations", finish


def _matrices(
    dtype: str, working_set: int, wires: _Wires, crowded: bool
) -> list[tuple[str, int, int, float]]:
    """Stream a working set of weights once, with 1 to 512 rows; all ranks begin each point
    together.
    """
    torch_dtype = TORCH_DTYPES[dtype]
    matrix_bytes = min(working_set, 4 * MIB)  # few calls: what starting one takes is not data
    out = matrix_bytes // torch_dtype.itemsize // MATRIX
    products = [
        PackedLinear(torch.randn(out, MATRIX).to(torch_dtype))
        for _ in range(working_set // matrix_bytes)
    ]
    total = len(products) * out * MATRIX * torch_dtype.itemsize
    points = []
    for rows in ROWS:
        x = torch.randn(rows, MATRIX).to(torch_dtype)
        wires.barrier()
        seconds = _for_a_while(lambda x=x: [each(x) for each in products], crowded)
        points.append((dtype, rows, total, seconds))
    return points


def _for_a_while(once: Callable[[], object], crowded: bool) -> float:
    """Seconds of a call, from calls made for POINT_S, at least two after one that warms up.

    The median; where ranks share a core the mean, which alone has the turns of the others in it.
    """
    once()
    times, end = [], time.perf_counter() + (CROWDED_POINT_S if crowded else POINT_S)
    while len(times) < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return statistics.mean(times) if crowded else statistics.median(times)


def _launch_s(crowded: bool) -> float:
    """Seconds to start one operation in the mix that a transformer layer is, on little data.

    Timed one kind at a time, each from a warm cache, they take less than half as long.
    """
    layer = _small_layer()
    with Operations() as operations:
        layer()
    return _for_a_while(layer, crowded) / operations.count


def _small_layer() -> Callable[[], object]:
    """Norms, products, rotary embedding, cache writes, attention and a gated MLP for one token."""
    width, heads, dim, dtype = 256, 8, 32, torch.bfloat16
    norm, x = torch.ones(width, dtype=dtype), torch.ones(1, width, dtype=dtype)
    mix, out, wide, down = (
        PackedLinear(torch.ones(rows, width, dtype=dtype)) for rows in (768, 256, 512, 256)
    )
    cache, place = torch.zeros(heads, 64, dim, dtype=dtype), torch.tensor([3])
    turn = torch.ones(1, 1, dim, dtype=dtype)

    def layer() -> torch.Tensor:
        h = torch.nn.functional.rms_norm(x, (width,), norm, 1e-5)
        qkv = mix(h).view(1, 3 * heads, dim)
        both = qkv[:, : 2 * heads]
        qk = torch.addcmul(both * turn, both.roll(dim // 2, -1), turn)
        cache.index_copy_(1, place, qk[:, heads:].transpose(0, 1))
        cache.index_copy_(1, place, qkv[:, 2 * heads :].transpose(0, 1))
        seen, mixed = cache[:, 0:20], torch.empty_like(qk[:, :heads])
        mixed[0:1] = torch.nn.functional.scaled_dot_product_attention(
            qk[0:1, :heads].view(1, heads, 1, dim), seen[None], seen[None]
        ).view(1, heads, dim)
        y = x + out(mixed.flatten(1))
        h = torch.nn.functional.rms_norm(y, (width,), norm, 1e-5)
        gate, up = wide(h).chunk(2, dim=1)
        return y + down(torch.nn.functional.silu(gate).mul_(up))

    return layer
