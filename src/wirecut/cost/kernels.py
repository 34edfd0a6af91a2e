"""How long a GPU's kernels take: dense products and what is only read and written.

    gpu = gpu_of(device)                              # a Device of kind "gpu"
    matmul_s(gpu, rows=8, n=8192, k=8192, format="bf16")
    elementwise_s(gpu, num_bytes=1_000_000)

Attention is in `kernels_attention`, experts in `kernels_experts`, linear attention in
`kernels_linear`; constants and their source in `kernels_fitted`. Weights come from memory, never
from a cache: a model's step passes through all of them. Seconds inside a CUDA graph.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from wirecut.cost.kernels_gpu import Gpu, gpu_of
from wirecut.cost.kernels_rates import Tiles
from wirecut.facts import fact
from wirecut.spec.formats import element_bits

__all__ = ["FORMATS", "Format", "Gpu", "elementwise_s", "format_on", "gpu_of", "matmul_s"]

SOFTNESS = 4.0  # of the maximum of memory time and compute time: they overlap, but not wholly


@fact
class Format:
    """How the two sides of a product are stored (names of `spec.formats`; `inputs` those a kernel
    reads) and what multiplies them. `rate` is a datasheet dtype; `without` the format to use where
    a GPU has no such rate.
    """

    stored: str
    inputs: str
    rate: str
    without: str = ""

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight, scales included, where a product does not tell its own."""
        return element_bits(self.stored) / 8

    @property
    def input_bytes(self) -> float:
        """Bytes of one input, scales included."""
        return element_bits(self.inputs) / 8


FORMATS: Mapping[str, Format] = {
    "bf16": Format("bf16", "bf16", "bf16"),
    "fp8": Format("fp8", "fp8", "fp8", "fp8_wo"),
    "fp8_block": Format("fp8-b128", "fp8-g128", "fp8", "fp8_wo"),
    "fp8_wo": Format("fp8", "bf16", "bf16"),
    "int8": Format("int8", "int8", "int8", "int8_wo"),
    "int8_wo": Format("int8", "bf16", "bf16"),
    "int4": Format("int4-g128", "bf16", "bf16"),
    "nf4": Format("nf4", "bf16", "bf16"),
    "nvfp4": Format("nvfp4", "nvfp4", "fp4", "nvfp4_wo"),
    "nvfp4_wo": Format("nvfp4", "bf16", "bf16"),
    "mxfp4": Format("mxfp4", "mxfp8", "fp4", "mxfp4_wo"),
    "mxfp4_wo": Format("mxfp4", "bf16", "bf16"),
}
_SAME = {"fp16": "bf16", "fp32": "bf16"}
# Whose constants stand in for a format that was not measured on a generation; bf16's in the end.
_LIKE = {
    "fp8_block": "fp8",
    "fp8_wo": "int4",
    "int8": "fp8",
    "int8_wo": "int4",
    "nf4": "int4",
    "nvfp4": "fp8",
    "nvfp4_wo": "int4",
    "mxfp4": "nvfp4",
    "mxfp4_wo": "int4",
}


def format_on(gpu: Gpu, format: str) -> str:
    """The format that the GPU runs for this one: itself, or weights only where its tensor cores
    have no such rate. Raises KeyError for a format that is not in FORMATS.
    """
    name = _SAME.get(format, format)
    found = FORMATS[name]
    if found.without and found.rate not in gpu.flops_per_s:
        return found.without
    return name


def tiles_of(gpu: Gpu, format: str, kernels: Mapping[str, Tiles]) -> Tiles:
    """The constants of this format among `kernels`; nearest relative where it was not measured."""
    name = format
    while name not in kernels:
        name = _LIKE.get(name, "bf16")
    found = kernels[name]
    if gpu.free:
        share = gpu.generation.free_share * min(1.0, found.share / kernels["bf16"].share)
        return replace(found, share=share)
    return found


def matmul_s(
    gpu: Gpu, rows: int, n: int, k: int, format: str, weight_bytes: float | None = None
) -> float:
    """Seconds of (rows x k) @ (k x n), outputs in 16 bits; `weight_bytes` of the whole matrix,
    scales included, where they are known (None: as the format usually has them).

    The longer of memory time and tile time, plus a start. Raises KeyError for an unknown format.
    """
    name = format_on(gpu, format)
    stored, tiles = FORMATS[name], tiles_of(gpu, name, gpu.generation.products)
    held = n * k * stored.weight_bytes if weight_bytes is None else weight_bytes
    moved = held + rows * (k * stored.input_bytes + 2 * n)
    work = 2 * k * gpu.sms * tile_work(((1, rows),), n, gpu.sms, tiles.edge)
    return tiles.start_s + tiles.step_s * k + busy_s(gpu, name, tiles, moved, work)


def busy_s(gpu: Gpu, format: str, tiles: Tiles, moved: float, work: float) -> float:
    """The longer of moving `moved` bytes and of `work` operations (each multiprocessor as many)."""
    dtype = FORMATS[format].rate
    peak = gpu.dense_flops_per_s if dtype == "bf16" else gpu.flops_per_s[dtype]
    return soft_maximum(moved / (gpu.bytes_per_s * tiles.memory), work / (peak * tiles.share))


def soft_maximum(a: float, b: float) -> float:
    """The larger of the two, rounded off where both are alike."""
    high, low = max(a, b), min(a, b)
    return high * (1 + (low / high) ** SOFTNESS) ** (1 / SOFTNESS) if high else 0.0


_TILES = ((16, 64), (16, 128), (64, 64), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128))


@lru_cache(maxsize=65536)
def tile_work(groups: tuple[tuple[float, float], ...], n: int, sms: int, edge: float) -> float:
    """Multiply-adds per element of k that the busiest multiprocessor does, for `groups` of (how
    many products, rows of each), all n columns wide.

    The best of the usual tile shapes, whole waves of them; a tile of a x b costs (a + b) x edge for
    loading.
    """
    best = math.inf
    for a, b in _TILES:
        tiles = 0.0
        for count, rows in groups:
            tiles += count * math.ceil(rows / a)
        tiles *= math.ceil(n / b)
        best = min(best, math.ceil(tiles / sms) * (a * b + (a + b) * edge))
    return best


def elementwise_s(gpu: Gpu, num_bytes: float) -> float:
    """Seconds of a kernel that only reads and writes: norms, rotary, activations, quantising."""
    elementwise = gpu.generation.elementwise
    return elementwise.start_s + num_bytes / (gpu.bytes_per_s * elementwise.memory)
