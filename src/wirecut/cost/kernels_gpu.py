"""Which GPU a device is, for its kernels: generation, multiprocessors, datasheet rates.

gpu = gpu_of(device)                  # a Device of kind "gpu"
gpu.generation.source                 # "measured", or "assumed" from the nearest generation
"""

from collections.abc import Mapping
from dataclasses import replace

from wirecut.cost.kernels_fitted import FITTED
from wirecut.cost.kernels_rates import Generation
from wirecut.errors import FabricError
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Device
from wirecut.facts import fact


@fact
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

    @property
    def vector_flops_per_s(self) -> float:
        """The rate without tensor cores, in fp32."""
        return self.flops_per_s.get("fp32") or self.flops_per_s["fp16"] / 4

    @property
    def dense_flops_per_s(self) -> float:
        """The 16-bit rate with tensor cores, or fp32's where 16 bits are slower (Pascal)."""
        rates = self.flops_per_s
        return max(rates.get("bf16") or rates["fp16"], rates.get("fp32", 0.0))


def _derived(of: Generation, name: str, *, without: tuple[str, ...] = ()) -> Generation:
    """A generation whose kernels nobody measured: another's (scaled), without some formats."""
    products, experts = (
        {format: tiles for format, tiles in kernels.items() if format not in without}
        for kernels in (of.products, of.experts)
    )
    return replace(of, name=name, products=products, experts=experts, source="assumed")


_FP8 = ("fp8", "fp8_block")
# Error correction in GDDR6 takes bandwidth. Without it streams reach 0.92 of the datasheet, as they
# do on GDDR7 (measured, blackwell-workstation); with it the share of "ada" (measured, L40S).
_NO_ECC = 1.19
# CDNA, whose kernels no table has: what is left of Hopper's shares, and how much longer kernels
# take to start, in published serving runs of MI300X (vLLM on ROCm, 405B in fp8;
# benchmarks/serving.md).
# AMD's own best is 708 of 1307 TFLOP/s in bf16 ("Measuring Max-Achievable FLOPs", part 2).
_CDNA_COMPUTE, _CDNA_MEMORY, _CDNA_STARTS = 0.41, 0.75, 3.0
_GA10X = _derived(FITTED["ada"], "ga10x", without=_FP8)

GENERATIONS: Mapping[str, Generation] = {
    generation.name: generation
    for generation in (
        *FITTED.values(),
        _GA10X,
        _derived(FITTED["ampere"], "turing"),
        _derived(FITTED["ampere"].scaled(memory=_NO_ECC), "turing-no-ecc"),
        _derived(_GA10X.scaled(memory=_NO_ECC), "ga10x-no-ecc"),
        _derived(FITTED["ada"].scaled(memory=_NO_ECC), "ada-no-ecc"),
        _derived(
            FITTED["hopper"].scaled(
                memory=_CDNA_MEMORY, compute=_CDNA_COMPUTE, starts=_CDNA_STARTS
            ),
            "cdna",
        ),
        _derived(FITTED["ada"].scaled(memory=_NO_ECC), "other"),
    )
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
    "ga10x": (1.74e9, 256),
    "ada": (2.52e9, 256),
    "hopper": (1.98e9, 256),
    "blackwell": (1.98e9, 256),
    "blackwell-ultra": (1.98e9, 256),
    "blackwell-workstation": (2.5e9, 256),
    "cdna": (2.1e9, 256),
    "xe2": (2.4e9, 256),
    "other": (2.0e9, 256),
}

# A tensor rate below this many times the fp32 rate is cut below the silicon's, which then does not
# reach its power limit: GeForce halves it (2 instead of 4), H20 has a seventh of H100's.
_FULL_RATIO = {"ampere": 10, "hopper": 10, "blackwell": 10, "blackwell-ultra": 10}
# Cards whose memory runs without error correction unless told otherwise.
_ECC_OFF = ("RTX", "GTX", "Titan", "Quadro")


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
        name = {"ampere": "ga10x", "blackwell": "blackwell-workstation"}[name]
    clock, operations = _CLOCKS[name]
    if device.name.startswith(_ECC_OFF) and f"{name}-no-ecc" in GENERATIONS:
        name += "-no-ecc"
    return Gpu(
        name=device.name,
        bytes_per_s=device.bytes_per_s,
        flops_per_s=dict(rates),
        sms=max(1, round(rates.get("fp32", bf16 / 4) / clock / operations)),
        generation=GENERATIONS[name],
        free=ratio < _FULL_RATIO.get(name, 3),
    )
