"""How long a GPU's kernels take: dense products and what is only read and written.

    gpu = gpu_of(device)                              # a Device of kind "gpu"
    matmul_s(gpu, rows=8, n=8192, k=8192, format="bf16")
    elementwise_s(gpu, num_bytes=1_000_000)

Attention is in `kernels_attention`, experts in `kernels_experts`, linear attention in
`kernels_linear`; constants and their source in `kernels_rates`. Weights come from memory, never
from a cache: a model's step passes through all of them. Seconds inside a CUDA graph.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from wirecut.cost.kernels_rates import GENERATIONS, Generation, Tiles
from wirecut.errors import FabricError
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Device

SOFTNESS = 4.0  # of the maximum of memory time and compute time: they overlap, but not wholly


@dataclass(frozen=True, slots=True)
class Gpu:
    """What kernels' times depend on. `flops_per_s` are dense rates by dtype, from the datasheet;
    `sms` the multiprocessors (compute units, Xe cores) that tiles are dealt to; `free` says that
    its tensor rate is cut below the silicon's, so that power does not bound it.
    """

    name: str
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    sms: int
    generation: Generation
    free: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """How the two sides of a product are stored and what multiplies them. Bytes an element, with
    scales. `rate` is a datasheet dtype; `without` the format to use where a GPU has no such rate.
    """

    weight_bytes: float
    input_bytes: float
    rate: str
    without: str = ""


FORMATS: Mapping[str, Format] = {
    "bf16": Format(2, 2, "bf16"),
    "fp8": Format(1, 1, "fp8", "fp8_wo"),
    "fp8_block": Format(1, 1 + 4 / 128, "fp8", "fp8_wo"),
    "fp8_wo": Format(1, 2, "bf16"),
    "int8": Format(1, 1, "int8", "int8_wo"),
    "int8_wo": Format(1, 2, "bf16"),
    "int4": Format(0.5 + 2 / 128, 2, "bf16"),
    "nvfp4": Format(0.5 + 1 / 16, 0.5 + 1 / 16, "fp4", "nvfp4_wo"),
    "nvfp4_wo": Format(0.5 + 1 / 16, 2, "bf16"),
    "mxfp4": Format(0.5 + 1 / 32, 1 + 1 / 32, "fp4", "mxfp4_wo"),
    "mxfp4_wo": Format(0.5 + 1 / 32, 2, "bf16"),
}
_SAME = {"fp16": "bf16", "fp32": "bf16"}
# Whose constants stand in for a format that was not measured on a generation; bf16's in the end.
_LIKE = {
    "fp8_block": "fp8",
    "fp8_wo": "int4",
    "int8": "fp8",
    "int8_wo": "int4",
    "nvfp4": "fp8",
    "nvfp4_wo": "int4",
    "mxfp4": "nvfp4",
    "mxfp4_wo": "int4",
}

_ARCHITECTURES = {
    "Pascal": "turing",
    "Volta": "turing",
    "Turing": "turing",
    "Ampere": "ampere",
    "Ada Lovelace": "ada",
    "Hopper": "hopper",
    "Blackwell": "blackwell",
    "Blackwell Ultra": "blackwell-ultra",
    "CDNA 2": "cdna",
    "CDNA 3": "cdna",
    "CDNA 4": "cdna",
    "RDNA 3": "ada",
    "RDNA 4": "ada",
    "Xe2": "xe2",
    "Xe HPG": "xe2",
    "Xe HPC": "xe2",
    "Gaudi": "hopper",
}
# Boost clock and fp32 operations a clock of one multiprocessor: how many there are follows from the
# fp32 rate (datasheets).
_CLOCKS = {
    "turing": (1.6e9, 128),
    "ampere": (1.41e9, 128),
    "ampere-workstation": (1.74e9, 256),
    "ada": (2.52e9, 256),
    "hopper": (1.98e9, 256),
    "blackwell": (1.98e9, 256),
    "blackwell-ultra": (1.98e9, 256),
    "blackwell-workstation": (2.5e9, 256),
    "cdna": (2.1e9, 256),
    "xe2": (2.4e9, 256),
    "other": (2.0e9, 256),
}


def gpu_of(device: Device) -> Gpu:
    """What kernels' times depend on, of a device of the catalogue or given by hand."""
    try:
        architecture = find_device(device.name).architecture
    except FabricError:
        architecture = ""
    rates = device.flops_per_s
    bf16 = rates.get("bf16", rates.get("fp16", 0.0))
    ratio = bf16 / rates["fp32"] if rates.get("fp32") else 4.0
    name = _ARCHITECTURES.get(architecture, "other")
    if name in ("ampere", "blackwell") and ratio < 10:
        name += "-workstation"
    clock, operations = _CLOCKS[name]
    full = {"ampere": 10, "hopper": 10, "blackwell": 10, "blackwell-ultra": 10}.get(name, 3)
    return Gpu(
        name=device.name,
        bytes_per_s=device.bytes_per_s,
        flops_per_s=dict(rates),
        sms=max(1, round(rates.get("fp32", bf16 / 4) / clock / operations)),
        generation=GENERATIONS[name],
        free=ratio < full,
    )


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


def matmul_s(gpu: Gpu, rows: int, n: int, k: int, format: str) -> float:
    """Seconds of (rows x k) @ (k x n), outputs in 16 bits.

    The longer of memory time and tile time, plus a start. Raises KeyError for an unknown format.
    """
    name = format_on(gpu, format)
    stored, tiles = FORMATS[name], tiles_of(gpu, name, gpu.generation.products)
    moved = n * k * stored.weight_bytes + rows * (k * stored.input_bytes + 2 * n)
    work = 2 * k * gpu.sms * tile_work(rows, n, 1, gpu.sms, tiles.edge)
    return tiles.start_s + tiles.step_s * k + busy_s(gpu, name, tiles, moved, work)


def busy_s(gpu: Gpu, format: str, tiles: Tiles, moved: float, work: float) -> float:
    """The longer of moving `moved` bytes and of `work` operations (each multiprocessor as many)."""
    peak = gpu.flops_per_s.get(FORMATS[format].rate) or gpu.flops_per_s["fp16"]
    return soft_maximum(moved / (gpu.bytes_per_s * tiles.memory), work / (peak * tiles.share))


def soft_maximum(a: float, b: float) -> float:
    """The larger of the two, rounded off where both are alike."""
    high, low = max(a, b), min(a, b)
    return high * (1 + (low / high) ** SOFTNESS) ** (1 / SOFTNESS) if high else 0.0


_TILES = ((16, 64), (16, 128), (64, 64), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128))


@lru_cache(maxsize=65536)
def tile_work(rows: float, n: int, groups: float, sms: int, edge: float) -> float:
    """Multiply-adds per element of k that the busiest multiprocessor does for `groups` products of
    (rows x n): the best of the usual tile shapes, whole waves of them, (a + b) x edge for loading.
    """
    best = math.inf
    for a, b in _TILES:
        tiles = groups * math.ceil(rows / a) * math.ceil(n / b)
        best = min(best, math.ceil(tiles / sms) * (a * b + (a + b) * edge))
    return best


def elementwise_s(gpu: Gpu, num_bytes: float) -> float:
    """Seconds of a kernel that only reads and writes: norms, rotary, activations, quantising."""
    generation = gpu.generation
    rate = gpu.bytes_per_s * generation.elementwise_memory
    return generation.elementwise_start_s + num_bytes / rate
