"""What kernels reach on one generation of GPUs: shares of the datasheet, starts, tile costs.

    GENERATIONS["hopper"].products["bf16"].share      # GENERATIONS is in kernels_gpu

Seconds, or shares of the datasheet's rates. Values are in `kernels_fitted` and `kernels_gpu`.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

from wirecut.fabric.fabric import Source
from wirecut.facts import fact

# Streams reach about this share of the bandwidth (the highest fitted are 0.95 to 0.97): no
# scaling takes a share beyond it.
MOST_MEMORY = 0.95


Kernel = TypeVar("Kernel", "Tiles", "Attention", "Linear", "Elementwise")


def _scaled(kernel: Kernel, memory: float, compute: float, starts: float) -> Kernel:
    """See `Generation.scaled`: a field's last word says what it is."""
    found: dict[str, float] = {}
    for field in fields(kernel):
        value: float = getattr(kernel, field.name)
        if field.name.endswith("start_s"):
            found[field.name] = value * starts
        elif field.name.endswith("memory"):
            found[field.name] = min(value * memory, max(value, MOST_MEMORY))
        elif field.name.endswith("share"):
            found[field.name] = value * compute
    return replace(kernel, **found)


@fact
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


@fact
class Attention:
    """Decode: one query a sequence. Prefill: many.

    `..._start_s`, `..._memory` and `..._share` as of `Tiles`. `..._edge` is what a tile costs
    beside its keys, in keys. `decode_share` is the compute of decode over the fp32 rate.
    `prefill_softmax`: the exponentials of one key, as elements of
    head_dim. `latent_...`: MLA's.
    `fp8_gain`: how much faster the products alone are in fp8.
    """

    decode_start_s: float
    decode_memory: float
    decode_share: float
    decode_edge: float
    prefill_start_s: float
    prefill_share: float
    prefill_edge: float
    prefill_softmax: float
    fp8_gain: float
    latent_start_s: float
    latent_share: float
    latent_prefill_share: float


@fact
class Linear:
    """Recurrences of linear attention: start of a decode step and of a chunked prefill, shares of
    the bandwidth and of the 16-bit rate.
    """

    start_s: float
    chunk_start_s: float
    memory: float
    share: float


@fact
class Elementwise:
    """Kernels that only read and write."""

    start_s: float
    memory: float


@fact
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
    linear: Linear
    elementwise: Elementwise
    free_share: float
    source: Source

    def scaled(
        self, *, memory: float = 1.0, compute: float = 1.0, starts: float = 1.0
    ) -> "Generation":
        """The same kernels with `memory` times their shares of the bandwidth (MOST_MEMORY at most),
        `compute` times those of the arithmetic rates, and `starts` times what they take to start.
        """

        by = (memory, compute, starts)
        return replace(
            self,
            products={format: _scaled(one, *by) for format, one in self.products.items()},
            experts={format: _scaled(one, *by) for format, one in self.experts.items()},
            attention=_scaled(self.attention, *by),
            linear=_scaled(self.linear, *by),
            elementwise=_scaled(self.elementwise, *by),
            free_share=self.free_share * compute,
        )
