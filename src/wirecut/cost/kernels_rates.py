"""What kernels reach on each generation of GPUs: shares of the datasheet, starts, tile costs.

    GENERATIONS["hopper"].products["bf16"].share

Fitted by `benchmarks/operators.py` on operators that NVIDIA measured (the wheel aiconfigurator-core
0.12.0, Apache-2.0) unless `source` says otherwise. Seconds, or shares of the datasheet's rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from wirecut.fabric.fabric import Source


@dataclass(frozen=True, slots=True)
class Tiles:
    """Kernels that multiply tile by tile, of one format.

    `start_s` is what a kernel takes with nothing to do, inside a CUDA graph; `memory` the share of
    the bandwidth that streamed weights reach; `edge` what loading a tile of a x b costs beside
    computing it, as multiply-adds: (a + b) x edge; `step_s` the latency of one element of k in a
    tile's loop; `share` of the dense rate.
    """

    start_s: float
    memory: float
    edge: float
    step_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Attention:
    """`start_s`, `memory` and `share` as of products, of decode (one query a sequence) and of
    prefill; `decode_edge` and `prefill_edge` are keys' worth of time to start and end a tile.
    """

    decode_start_s: float
    decode_memory: float
    decode_share: float
    prefill_start_s: float
    prefill_share: float
    prefill_edge: float
    fp8_gain: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of GPUs: `products` and grouped products of `experts` by format (the experts'
    starts have routing, sorting and summing in them).

    `free_share` of the dense rate holds instead of the power-bound share where the rate is cut
    below the silicon's (GeForce, H20).
    """

    name: str
    products: Mapping[str, Tiles]
    attention: Attention
    experts: Mapping[str, Tiles]
    elementwise_start_s: float
    elementwise_memory: float
    free_share: float
    source: Source


# ---- constants

_HOPPER = Generation(
    name="hopper",
    products={
        "bf16": Tiles(3.45e-06, 0.854, 0.134, 1.07e-10, 0.8),
        "fp8": Tiles(6.87e-06, 0.846, 17.8, 2.21e-10, 0.721),
        "fp8_block": Tiles(4.94e-06, 0.888, 27.3, 5.63e-10, 0.768),
        "int8_wo": Tiles(2.51e-05, 0.736, 23.3, 6.8e-11, 0.676),
    },
    experts={
        "bf16": Tiles(3.47e-05, 0.966, 81.2, 6.84e-13, 0.411),
        "fp8": Tiles(5.97e-05, 0.966, 27.6, 8.89e-13, 0.228),
        "fp8_block": Tiles(3.75e-05, 0.966, 42.3, 4.05e-13, 0.257),
        "int4": Tiles(1.04e-05, 0.966, 8.48, 1.5e-12, 0.122),
        "mxfp4_wo": Tiles(1.02e-08, 0.966, 53.3, 6.08e-09, 0.376),
    },
    attention=Attention(
        decode_start_s=1.28e-05,
        decode_memory=0.859,
        decode_share=0.331,
        prefill_start_s=1.21e-05,
        prefill_share=0.628,
        prefill_edge=580,
        fp8_gain=1.19,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.792,
    free_share=0.92,
    source="measured",
)
_AMPERE = Generation(
    name="ampere",
    products={
        "bf16": Tiles(5.83e-06, 0.74, 6.1, 7.36e-12, 0.865),
        "int8": Tiles(5.83e-06, 0.883, 15.9, 1.4e-10, 0.931),
        "int8_wo": Tiles(5.83e-06, 0.932, 0.000206, 8.05e-10, 0.813),
        "int4": Tiles(5.83e-06, 0.941, 5.83, 4.39e-10, 0.895),
    },
    experts={
        "bf16": Tiles(4.8e-05, 0.969, 44.5, 8.89e-13, 0.335),
        "int4": Tiles(4.16e-05, 0.969, 0.297, 1.53e-09, 0.239),
    },
    attention=Attention(
        decode_start_s=1.49e-05,
        decode_memory=0.788,
        decode_share=0.3,
        prefill_start_s=8.74e-06,
        prefill_share=0.544,
        prefill_edge=135,
        fp8_gain=1.3,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.72,
    free_share=0.92,
    source="measured",
)
_ADA = Generation(
    name="ada",
    products={
        "bf16": Tiles(2.35e-06, 0.777, 1.95, 4.85e-11, 0.62),
        "fp8": Tiles(6.76e-06, 0.743, 14.5, 1.23e-10, 0.6),
        "fp8_block": Tiles(0.000146, 0.969, 0.461, 1.6e-09, 0.362),
    },
    experts={
        "bf16": Tiles(1.64e-08, 0.845, 118, 7.51e-09, 0.496),
        "fp8": Tiles(2.27e-06, 0.832, 106, 1.8e-09, 0.48),
        "fp8_block": Tiles(2.26e-07, 0.845, 12.8, 1.25e-08, 0.358),
        "int4": Tiles(4.67e-08, 0.969, 8.21, 3.59e-09, 0.22),
        "mxfp4_wo": Tiles(3.39e-09, 0.185, 3.64, 2.63e-09, 0.226),
    },
    attention=Attention(
        decode_start_s=1.04e-05,
        decode_memory=0.808,
        decode_share=0.384,
        prefill_start_s=5.61e-06,
        prefill_share=0.355,
        prefill_edge=85.2,
        fp8_gain=0.606,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.738,
    free_share=0.92,
    source="measured",
)
_BLACKWELL = Generation(
    name="blackwell",
    products={
        "bf16": Tiles(2.72e-06, 0.77, 0.686, 7.03e-11, 0.7),
        "fp8": Tiles(6.49e-06, 0.85, 13.1, 4.64e-10, 0.65),
        "fp8_block": Tiles(6.34e-06, 0.884, 3.2, 5.1e-10, 0.65),
        "nvfp4": Tiles(7.38e-06, 0.863, 8.21, 4.76e-10, 0.523),
    },
    experts={
        "bf16": Tiles(5.88e-06, 0.966, 103, 5.42e-09, 0.56),
        "fp8": Tiles(2.72e-05, 0.889, 125, 6.84e-13, 0.52),
        "fp8_block": Tiles(2.23e-05, 0.97, 138, 2.39e-13, 0.394),
        "nvfp4": Tiles(2.35e-05, 0.942, 94.5, 5.26e-13, 0.373),
        "mxfp4": Tiles(1.21e-05, 0.97, 89.6, 9.31e-10, 0.296),
        "int4": Tiles(2.03e-05, 0.966, 38.2, 1.16e-12, 0.275),
        "mxfp4_wo": Tiles(1.02e-09, 0.966, 15, 5.03e-09, 0.213),
    },
    attention=Attention(
        decode_start_s=1.1e-05,
        decode_memory=0.915,
        decode_share=0.5,
        prefill_start_s=1.18e-05,
        prefill_share=0.566,
        prefill_edge=758,
        fp8_gain=0.753,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.765,
    free_share=0.92,
    source="measured",
)
_BLACKWELL_ULTRA = Generation(
    name="blackwell-ultra",
    products={
        "bf16": Tiles(2.64e-06, 0.77, 0.000267, 7.23e-11, 0.739),
        "fp8": Tiles(6.24e-06, 0.85, 8.03, 4.83e-10, 0.66),
        "fp8_block": Tiles(5.97e-06, 0.863, 0.000267, 5.57e-10, 0.666),
        "nvfp4": Tiles(7.13e-06, 0.817, 33.3, 3.81e-10, 0.5),
    },
    experts={
        "bf16": Tiles(2.62e-06, 0.966, 113, 6.05e-09, 0.627),
        "fp8": Tiles(3.06e-05, 0.863, 89.6, 5.26e-13, 0.52),
        "fp8_block": Tiles(1.69e-05, 0.966, 120, 1.31e-09, 0.388),
        "nvfp4": Tiles(2.94e-05, 0.943, 143, 4.05e-13, 0.347),
        "mxfp4": Tiles(1.4e-05, 0.966, 184, 2.39e-13, 0.338),
        "int4": Tiles(2.21e-05, 0.864, 30.5, 4.05e-13, 0.287),
        "mxfp4_wo": Tiles(5.92e-10, 0.966, 19.6, 4.39e-09, 0.23),
    },
    attention=Attention(
        decode_start_s=1.08e-05,
        decode_memory=0.884,
        decode_share=0.542,
        prefill_start_s=1.15e-05,
        prefill_share=0.733,
        prefill_edge=944,
        fp8_gain=0.801,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.765,
    free_share=0.92,
    source="measured",
)
_BLACKWELL_WORKSTATION = Generation(
    name="blackwell-workstation",
    products={
        "bf16": Tiles(3.92e-06, 0.93, 0.56, 7.21e-12, 0.82),
        "fp8": Tiles(9.9e-06, 0.953, 0.000267, 8.94e-10, 0.711),
        "fp8_block": Tiles(6.15e-06, 0.967, 0.000267, 1.65e-09, 0.56),
        "nvfp4": Tiles(4.38e-06, 0.967, 0.000267, 2.75e-09, 0.676),
    },
    experts={
        "bf16": Tiles(5.73e-09, 0.903, 60, 4.06e-09, 0.568),
        "fp8": Tiles(7.24e-06, 0.967, 53.5, 2.9e-09, 0.52),
        "fp8_block": Tiles(2.23e-05, 0.813, 42, 6.84e-13, 0.283),
        "nvfp4": Tiles(3.08e-05, 0.908, 26.3, 1.62e-09, 0.4),
        "mxfp4": Tiles(4.57e-05, 0.93, 90.9, 4.05e-13, 0.4),
        "int4": Tiles(1e-08, 0.967, 13, 1.16e-12, 0.39),
        "mxfp4_wo": Tiles(3.39e-09, 0.855, 7.67, 8.15e-09, 0.46),
    },
    attention=Attention(
        decode_start_s=1.07e-05,
        decode_memory=0.944,
        decode_share=0.649,
        prefill_start_s=7.81e-06,
        prefill_share=0.422,
        prefill_edge=93.6,
        fp8_gain=0.566,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.837,
    free_share=0.92,
    source="measured",
)
_XE2 = Generation(
    name="xe2",
    products={
        "bf16": Tiles(1.5e-05, 0.919, 6.87, 1.24e-12, 1.04),
        "fp8": Tiles(1e-05, 0.85, 2, 1e-10, 0.9),
    },
    experts={
        "bf16": Tiles(0.000102, 0.644, 81.6, 4.29e-12, 0.76),
        "fp8": Tiles(1.5e-05, 0.85, 8, 1e-10, 0.72),
        "mxfp4_wo": Tiles(0.000142, 0.975, 15.3, 4.29e-12, 0.347),
    },
    attention=Attention(
        decode_start_s=7.13e-05,
        decode_memory=1.05,
        decode_share=0.666,
        prefill_start_s=7.31e-05,
        prefill_share=0.395,
        prefill_edge=67.5,
        fp8_gain=1.3,
    ),
    elementwise_start_s=2e-06,
    elementwise_memory=0.765,
    free_share=0.92,
    source="measured",
)

_NO_FP8 = {name: tiles for name, tiles in _ADA.products.items() if not name.startswith("fp8")}
_GA10X = replace(
    _ADA,
    name="ampere-workstation",
    products={**_NO_FP8, "int4": _AMPERE.products["int4"], "int8": _AMPERE.products["int8"]},
    source="assumed",
)

GENERATIONS: Mapping[str, Generation] = {
    "turing": replace(_AMPERE, name="turing", source="assumed"),
    "ampere": _AMPERE,
    "ampere-workstation": _GA10X,
    "ada": _ADA,
    "hopper": _HOPPER,
    "blackwell": _BLACKWELL,
    "blackwell-ultra": _BLACKWELL_ULTRA,
    "blackwell-workstation": _BLACKWELL_WORKSTATION,
    "cdna": replace(_HOPPER, name="cdna", source="assumed"),
    "xe2": _XE2,
    "other": replace(_ADA, name="other", source="assumed"),
}
