"""What a device computes, timed with the products that the engine runs (`machine.kernels`): weights
streamed, matrix rates by rows and dtype, attention, small operations. All ranks compute at once;
one of each host then times some products again while all others wait.

    bench = Bench(device, barrier, crowded=False, turn=0, turns=1)
    for what, job in arithmetic_jobs(bench, found): ...
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from wirecut.fabric.probing import Arithmetic
from wirecut.facts import fact
from wirecut.machine import halves, kernels, paged
from wirecut.machine.kernels import Operations, PackedLinear
from wirecut.machine.paged import Paged
from wirecut.units import GIB, MIB

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COLD_BYTES, COLD_ROUNDS = 96 * MIB, 12
POINT_S = 0.04  # what a repeated measurement may take
CROWDED_POINT_S = 0.08  # many turns of some milliseconds that the kernel gives each rank
KV_HEADS, SHARING, HEAD_DIM = 4, 2, 64  # of the attention that is timed: 8 query heads
HALVES = 64  # of layers, one behind the other
DECODES = 8  # sequences that are decoded together
BLOCK = 32  # places of a cache's block
ALONE_ROWS = (1, 8, 64)  # of products that are timed alone too
ATTENTION = ((1, 256), (1, 1024), (128, 128), (512, 512))  # queries, keys

Job = tuple[str, Callable[[], None]]


@fact
class Workload:
    """What is computed on one kind of device. `matrix` is the columns of a matrix, `working_sets`
    lie in a core's cache, in the shared cache and in memory.
    """

    dtypes: tuple[str, ...]
    rows: tuple[int, ...]
    working_sets: tuple[int, ...]
    matrix: int


CPU = Workload(
    ("bf16", "fp32"), tuple(1 << i for i in range(10)), (2 * MIB, 12 * MIB, 96 * MIB), 1024
)
GPU = Workload(
    ("bf16", "fp16", "fp32"), tuple(1 << i for i in range(0, 14, 2)), (32 * MIB, GIB), 4096
)


@dataclass(slots=True)
class Found:
    """What was measured so far."""

    points: list[tuple[str, int, int, float]] = field(default_factory=list)
    attention: list[tuple[str, int, int, int, int, float]] = field(default_factory=list)
    launch_s: float = 0.0
    alone: list[tuple[str, int, int, float]] = field(default_factory=list)
    launch_alone_s: float = 0.0
    launch_cold_s: float = 0.0
    half_s: float = 0.0

    def report(self) -> Arithmetic:
        return Arithmetic(
            tuple(self.points),
            tuple(self.attention),
            self.launch_s,
            tuple(self.alone),
            self.launch_alone_s,
            self.launch_cold_s,
            self.half_s,
        )


class Bench:
    """Times calls on one device; all ranks begin each point together (`barrier`).

    `turns` ranks work alone, one after the other, and this one is number `turn` of them (None: it
    only waits). 0 turns where there is nothing to learn: one rank in all. GPUs take none, since
    their memories are their own.
    """

    def __init__(
        self,
        device: torch.device,
        barrier: Callable[[], None],
        *,
        crowded: bool,
        turn: int | None = None,
        turns: int = 0,
    ) -> None:
        self.device, self.barrier, self.crowded = device, barrier, crowded
        self.load = GPU if device.type == "cuda" else CPU
        self.turn, self.turns = turn, turns if self.load is CPU else 0

    def alone(self, work: Callable[[], None]) -> None:
        """Do `work` in this rank's turn, if it has one, and wait in those of the others. Hosts take
        turns too: they may be namespaces of one machine.
        """
        for turn in range(self.turns):
            self.barrier()
            if turn == self.turn:
                work()
        if self.turns:
            self.barrier()

    def seconds(self, once: Callable[[], object]) -> float:
        """Seconds of a call, from calls made for POINT_S, at least two after one that warms up.

        The median; where ranks share a core the mean, which alone has the turns of the others in
        it.
        """
        once()
        self.sync()
        times, end = [], time.perf_counter() + (CROWDED_POINT_S if self.crowded else POINT_S)
        while len(times) < 2 or time.perf_counter() < end:
            begin = time.perf_counter()
            once()
            self.sync()
            times.append(time.perf_counter() - begin)
        return statistics.mean(times) if self.crowded else statistics.median(times)

    def sync(self) -> None:
        """Wait for what was started: a GPU's calls return before it has computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def random(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)


def arithmetic_jobs(bench: Bench, found: Found) -> Iterator[Job]:
    """What to compute, in order, with words for each; `found` fills."""
    for dtype in bench.load.dtypes:
        for working_set in bench.load.working_sets:
            yield (
                f"matrices of {working_set >> 20} MiB in {dtype}",
                lambda dtype=dtype, size=working_set: _matrices(bench, dtype, size, found),
            )
    yield "attention", lambda: _attention(bench, found)
    yield "small operations", lambda: _launch(bench, found)


def _matrices(bench: Bench, dtype: str, working_set: int, found: Found) -> None:
    """Stream a working set of weights once, with 1 row and more; all ranks at once, then alone."""
    torch_dtype, columns = TORCH_DTYPES[dtype], bench.load.matrix
    matrix_bytes = min(working_set, 4 * MIB * (columns // 1024) ** 2)  # few calls, much data
    out = matrix_bytes // torch_dtype.itemsize // columns
    products = [
        PackedLinear(bench.random(out, columns, dtype=torch_dtype))
        for _ in range(working_set // matrix_bytes)
    ]
    total = len(products) * out * columns * torch_dtype.itemsize

    def inputs(rows: int) -> torch.Tensor:
        return bench.random(rows, columns, dtype=torch_dtype)

    def stream(x: torch.Tensor) -> tuple[str, int, int, float]:
        return dtype, len(x), total, bench.seconds(lambda: [each(x) for each in products])

    for rows in bench.load.rows:
        x = inputs(rows)
        bench.barrier()
        found.points.append(stream(x))
    bench.alone(lambda: found.alone.extend(stream(inputs(rows)) for rows in ALONE_ROWS))


def _attention(bench: Bench, found: Found) -> None:
    """One sequence's attention, as the engine calls it: a decode's one query, some sequences at
    once, or a prompt's many.
    """
    kv_width = KV_HEADS * HEAD_DIM
    for queries, keys in ATTENTION:
        together = DECODES if queries == 1 else 1
        rows, places = together * queries, together * keys
        q = bench.random(rows, KV_HEADS * SHARING, HEAD_DIM, dtype=torch.bfloat16)
        k = bench.random(KV_HEADS, places, HEAD_DIM, dtype=torch.bfloat16)
        attend = _Attend(queries, keys, bench.device, sequences=together)
        bench.barrier()
        seconds = bench.seconds(partial(attend, q, k)) / together
        found.attention.append(("bf16", queries, keys, SHARING * kv_width, kv_width, seconds))


class _Attend:
    """The last `count` rows of each of some sequences, which have `length` places of a cache one
    after the other, as the engine computes them.
    """

    def __init__(
        self, count: int, length: int, device: torch.device, *, sequences: int = 1
    ) -> None:
        self._count, self._length, self._sequences = count, length, sequences
        blocks = -(-length // BLOCK)
        numbers = {"dtype": torch.int32, "device": device}
        self.where = Paged(
            torch.arange(sequences, **numbers) * count,
            torch.full((sequences,), count, **numbers),
            torch.full((sequences,), length, **numbers),
            torch.arange(sequences * blocks, **numbers).view(sequences, blocks),
            BLOCK,
        )

    def __call__(self, q_THD: torch.Tensor, cache_KSD: torch.Tensor) -> torch.Tensor:
        out_THD, many = q_THD.new_empty(q_THD.shape), self._count > 1
        takes = paged.takes_prompts if many else paged.takes_decodes
        if takes(q_THD, cache_KSD, BLOCK):
            where, scale = self.where, q_THD.shape[2] ** -0.5
            paged.attend(q_THD, cache_KSD, cache_KSD, out_THD, where, prompts=many, scale=scale)
            return out_THD
        stretch = self.where.blocks_NB.shape[1] * BLOCK
        for number in range(self._sequences):
            rows = slice(number * self._count, (number + 1) * self._count)
            seen_KLD = cache_KSD[:, number * stretch : number * stretch + self._length]
            out_THD[rows] = _by_torch(q_THD[rows], seen_KLD)
        return out_THD


def _by_torch(q_THD: torch.Tensor, seen_KLD: torch.Tensor) -> torch.Tensor:
    """A decode's heads that share a key head are its rows; a prompt's key heads are the batch."""
    (rows, heads, dim), kv_heads = q_THD.shape, len(seen_KLD)
    if rows == 1:
        seen_1KLD = seen_KLD[None]
        mixed = scaled_dot_product_attention(q_THD.view(1, kv_heads, -1, dim), seen_1KLD, seen_1KLD)
        return mixed.view(1, heads, dim)
    q_KGTD = q_THD.view(rows, kv_heads, -1, dim).permute(1, 2, 0, 3)
    seen_KGLD = seen_KLD[:, None].expand(-1, heads // kv_heads, -1, -1)
    mixed_KGTD = scaled_dot_product_attention(q_KGTD, seen_KGLD, seen_KGLD, is_causal=True)
    return mixed_KGTD.permute(2, 0, 1, 3).reshape(rows, heads, dim)


def _launch(bench: Bench, found: Found) -> None:
    """Seconds to start one operation in the mix that a transformer layer is, on little data.

    Timed one kind at a time, each from a warm cache, they take less than half as long.
    """
    layer = _small_layer(bench.device)
    with Operations() as operations:
        layer()
    found.launch_s = bench.seconds(layer) / operations.count

    def again() -> None:
        found.launch_alone_s = bench.seconds(layer) / operations.count

    bench.alone(again)
    if bench.device.type == "cpu":
        found.launch_cold_s = _cold_seconds(bench, layer) / operations.count
        if kernels.HAS_PRODUCTS:
            found.half_s = bench.seconds(_small_halves()) / HALVES


def _small_halves() -> Callable[[], object]:
    """Half layers in one native call over one token, so narrow that products take nearly nothing,
    and so many that the call itself does so too.
    """
    width, dim, bf16 = 2 * kernels.PANEL, kernels.PANEL, torch.bfloat16
    heads, norm = width // dim, torch.ones(width, dtype=bf16)
    qkv, wide, back = (
        PackedLinear(torch.ones(rows, width, dtype=bf16)) for rows in (3 * width, 2 * width, width)
    )
    cache_KSD = torch.zeros(heads, BLOCK, dim, dtype=bf16)
    attention, mlp = (halves.half_of(norm, 1e-5, into, back) for into in (qkv, wide))
    attention.keys = attention.values = cache_KSD.data_ptr()
    attention.heads = attention.kv_heads = heads
    attention.head_dim, attention.places = dim, BLOCK
    chain = halves.NativeHalves(
        [attention, mlp] * (HALVES // 2), hidden=width, kept=(norm, qkv, wide, back, cache_KSD)
    )
    x_TE, turn_TD = torch.ones(1, width, dtype=bf16), torch.ones(1, dim, dtype=bf16)
    where = _Attend(1, 20, torch.device("cpu")).where
    rows = halves.Rows((turn_TD, turn_TD), torch.tensor([3]), where, None)
    return lambda: chain.over(x_TE, rows)(None)


def _cold_seconds(bench: Bench, once: Callable[[], object]) -> float:
    """Seconds of a call right after weights have passed through the caches: between two steps."""
    row = bench.random(1, 1024, dtype=torch.bfloat16)
    weights = [
        PackedLinear(bench.random(2048, 1024, dtype=torch.bfloat16))
        for _ in range(COLD_BYTES // (4 * MIB))
    ]
    times = []
    for _ in range(COLD_ROUNDS):
        for each in weights:
            each(row)
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _small_layer(device: torch.device) -> Callable[[], object]:
    """Norms, products, rotary embedding, cache writes, attention and a gated MLP for one token."""
    width, heads, dim = 256, 8, 32
    here = {"dtype": torch.bfloat16, "device": device}
    norm, x = torch.ones(width, **here), torch.ones(1, width, **here)
    mix, out, wide, down = (
        PackedLinear(torch.ones(rows, width, **here)) for rows in (768, 256, 512, 256)
    )
    cache, place = torch.zeros(heads, BLOCK, dim, **here), torch.tensor([3], device=device)
    turn, attend = torch.ones(1, dim, **here), _Attend(1, 20, device)

    def layer() -> torch.Tensor:
        h = kernels.rms_norm(x, norm, 1e-5)
        qkv = mix(h).view(1, 3 * heads, dim)
        qk = kernels.rotate(qkv[:, : 2 * heads], turn, turn)
        kernels.keep(qk[:, heads:], cache, place)
        kernels.keep(qkv[:, 2 * heads :], cache, place)
        mixed = attend(qk[:, :heads], cache)
        y = x + out(mixed.flatten(1))
        h = kernels.rms_norm(y, norm, 1e-5)
        return y + down(kernels.swiglu(wide(h)))

    return layer
