"""How fast one device works: from measured points where it was probed, from its datasheet and what
kernels of its generation reach where it is a GPU that was not.

    rate = rate_of(device, "bf16", kv="bf16")
    rate.product_s(product, rows=8)

Both answer the same questions in seconds of one rank and one layer.
"""

from typing import Protocol

from wirecut.cost.compute import MatrixRate
from wirecut.cost.forward import Batch
from wirecut.cost.kernel_rate import Kernels
from wirecut.cost.measured_rate import Measured
from wirecut.cost.product import Product
from wirecut.cost.work import LayerWork, Routed
from wirecut.fabric.fabric import Device, Source


class Rate(Protocol):
    """One device's times. `streamed` bytes of weights pass between two uses of one; `busy` devices
    work meanwhile (0: as many as when it was measured).
    """

    @property
    def device(self) -> Device: ...
    @property
    def source(self) -> Source: ...
    @property
    def spread(self) -> float: ...
    @property
    def total(self) -> int:
        """Devices that were busy when it was measured, this one among them."""
        ...

    def product_s(
        self, product: Product, rows: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        """A dense product."""
        ...

    def routed_s(
        self, routed: Routed, tokens: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        """A rank's experts for `tokens`, of all ranks that send it any."""
        ...

    def decode_s(self, work: LayerWork, batch: Batch) -> tuple[float, float]:
        """Reading the cache, and computing with it, for one token of each running sequence."""
        ...

    def chunk_s(self, work: LayerWork, batch: Batch) -> float:
        """Attention of the chunk's tokens."""
        ...

    def small_s(self, kernels: int, num_bytes: float) -> float:
        """What runs between the products: `kernels` that read and write `num_bytes` in all."""
        ...

    def launch_s(self, busy: int = 0, *, streamed: float = 0.0) -> float:
        """Starting one small operation from the host."""
        ...


def rate_of(device: Device, dtype: str, *, kv: str, total: int = 1, starts: float = 1.0) -> Rate:
    """The rate of a device: `dtype` of activations, `kv` of the cache; `total` devices were busy
    when it was measured; `starts` as `Kernels` takes it.
    """
    if device.points or device.kind != "gpu":
        return Measured(MatrixRate(device, dtype, total), kv)
    return Kernels(device, kv, starts)
