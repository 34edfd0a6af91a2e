"""A device that was probed, or is no GPU: by its measured points, else by the roofline.

    Measured(MatrixRate(device, "bf16"), kv="bf16").product_s(product, rows=8)

One of the two kinds of `rates.Rate`.
"""

from dataclasses import dataclass

from wirecut.cost.attend import cache_bytes, chunk_flops, decode_flops
from wirecut.cost.compute import MatrixRate
from wirecut.cost.forward import Batch
from wirecut.cost.product import Product
from wirecut.cost.work import LayerWork, Routed
from wirecut.fabric.fabric import Device, Source
from wirecut.spec.formats import element_bits


@dataclass(frozen=True)
class Measured:
    """A device that was probed: products by their bytes from its points, attention likewise."""

    matrix: MatrixRate
    kv: str

    @property
    def device(self) -> Device:
        return self.matrix.device

    @property
    def source(self) -> Source:
        return self.device.source

    @property
    def spread(self) -> float:
        return self.matrix.spread

    @property
    def total(self) -> int:
        return self.matrix.total

    def product_s(
        self, product: Product, rows: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        return self.matrix.seconds(
            weight_bytes=product.weight_bytes,
            rows=rows,
            working_set_bytes=streamed or product.weight_bytes,
            busy=busy,
        )

    def routed_s(
        self, routed: Routed, tokens: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        chosen = 1 - (1 - routed.top_k / routed.experts) ** tokens
        touched = routed.here * chosen
        pairs = tokens * routed.top_k * routed.here / routed.experts
        return self.matrix.seconds(
            weight_bytes=routed.weight_bytes * touched / routed.here,
            rows=max(1, round(pairs / max(touched, 1e-9))),
            working_set_bytes=streamed or routed.weight_bytes,
            busy=busy,
        )

    def decode_s(self, work: LayerWork, batch: Batch) -> tuple[float, float]:
        sequences, context = batch.decodes, batch.context
        size = element_bits(self.kv) / 8
        read = cache_bytes(work, sequences=sequences, context=context, size=size)
        flops = decode_flops(work, sequences=sequences, context=context)
        return self.matrix.kv_seconds(read), flops / self.matrix.attention_flops_per_s

    def chunk_s(self, work: LayerWork, batch: Batch) -> float:
        if not batch.chunk:
            return 0.0
        flops = chunk_flops(work, tokens=batch.chunk, keys=batch.chunk_keys)
        context = batch.before + batch.chunk / batch.prompts
        size = element_bits(self.kv) / 8
        read = cache_bytes(work, sequences=batch.prompts, context=context, size=size)
        return self.matrix.kv_seconds(read) + flops / self.matrix.attention_flops_per_s

    def small_s(self, kernels: int, num_bytes: float) -> float:
        return 0.0  # counted in launches

    def launch_s(self, busy: int = 0, *, streamed: float = 0.0) -> float:
        return self.matrix.launch_s(busy, streamed=streamed)
