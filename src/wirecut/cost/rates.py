"""How fast one device works: from measured points where it was probed, from its datasheet and what
kernels of its generation reach where it is a GPU that was not.

    rate = rate_of(device, "bf16", kv="bf16")
    rate.product_s(product, rows=8)

Both answer the same questions in seconds of one rank and one layer.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Protocol

from wirecut.cost.attend import cache_bytes, chunk_flops, decode_flops, mean_keys
from wirecut.cost.compute import MatrixRate
from wirecut.cost.forward import Batch
from wirecut.cost.kernels import Gpu, elementwise_s, gpu_of, matmul_s
from wirecut.cost.kernels_attention import (
    decode_attention_s,
    latent_decode_s,
    latent_prefill_s,
    prefill_attention_s,
)
from wirecut.cost.kernels_experts import experts_s, rank_load
from wirecut.cost.kernels_linear import linear_attention_s
from wirecut.cost.kernels_rates import Generation, Tiles
from wirecut.cost.terms import half_width
from wirecut.cost.work import LayerWork, Product, Routed
from wirecut.fabric.fabric import Device, Source
from wirecut.spec.attention import Attention, CompressedAttention, LatentAttention
from wirecut.spec.formats import element_bits, kind_of
from wirecut.spec.recurrent import LinearAttention, Mamba


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


def sooner(generation: Generation, share: float) -> Generation:
    """The same kernels when only this share of their starts shows."""
    attention = generation.attention
    return replace(
        generation,
        products={name: _sooner(tiles, share) for name, tiles in generation.products.items()},
        experts={name: _sooner(tiles, share) for name, tiles in generation.experts.items()},
        attention=replace(
            attention,
            decode_start_s=attention.decode_start_s * share,
            prefill_start_s=attention.prefill_start_s * share,
            latent_start_s=attention.latent_start_s * share,
        ),
        elementwise=replace(generation.elementwise, start_s=generation.elementwise.start_s * share),
    )


def _sooner(tiles: Tiles, share: float) -> Tiles:
    return replace(tiles, start_s=tiles.start_s * share)


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


KERNEL_FORMATS = {"fp32": "bf16", "fp16": "bf16", "mxfp8": "fp8_block"}


@cache
def kernel_format(name: str) -> str:
    """A weight format as the kernels name it: 'fp8-b128' -> 'fp8_block'."""
    kind = kind_of(name)
    return "fp8_block" if name.startswith("fp8-") else KERNEL_FORMATS.get(kind, kind)


@dataclass(frozen=True)
class Kernels:
    """A GPU by its datasheet and what kernels of its generation reach. `starts` is the share of
    their starts that shows: in a step, a kernel begins while the one before it drains.
    """

    device: Device
    kv: str
    starts: float = 1.0
    total: int = 1

    @cached_property
    def gpu(self) -> Gpu:
        gpu = gpu_of(self.device)
        return replace(gpu, generation=sooner(gpu.generation, self.starts))

    @property
    def source(self) -> Source:
        return "assumed" if self.gpu.generation.source == "assumed" else self.device.source

    @property
    def spread(self) -> float:
        return half_width(self.source)

    def product_s(
        self, product: Product, rows: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        if not rows:
            return 0.0
        return matmul_s(self.gpu, rows, product.n, product.k, kernel_format(product.format))

    def routed_s(
        self, routed: Routed, tokens: int, *, streamed: float = 0.0, busy: int = 0
    ) -> float:
        if not tokens:
            return 0.0
        return experts_s(
            self.gpu,
            tokens,
            experts_here=routed.here,
            experts=routed.experts,
            top_k=routed.top_k,
            hidden=routed.hidden,
            intermediate=routed.intermediate,
            format=kernel_format(routed.format),
            gated=routed.gated,
            load=rank_load(routed.experts, routed.here),
        )

    def decode_s(self, work: LayerWork, batch: Batch) -> tuple[float, float]:
        if not batch.decodes or work.mixer is None:
            return 0.0, 0.0
        return self._decode_s(work, batch.decodes, batch.context), 0.0

    def _decode_s(self, work: LayerWork, sequences: int, context: float) -> float:
        gpu, kv = self.gpu, "fp8" if kind_of(self.kv) in ("fp8", "int8") else "bf16"
        mixer = work.mixer
        match mixer:
            case Attention():
                keys = mixer.keys(int(context))
                own = decode_attention_s(
                    gpu, sequences, keys, work.heads, work.kv_heads, mixer.head_dim, kv
                )
            case LatentAttention():
                own = latent_decode_s(gpu, sequences, mixer.keys(int(context)), work.heads, kv)
            case CompressedAttention():
                keys = mixer.keys(int(context))
                own = decode_attention_s(gpu, sequences, keys, work.heads, 1, mixer.head_dim, kv)
            case LinearAttention():
                return self._recurrent_s(work, mixer, sequences, sequences)
            case Mamba():
                return self._recurrent_s(work, mixer, sequences, sequences)
            case None:
                return 0.0
        if mixer.index_flops:
            scored = sum(held.elements for held in mixer.kv[1:]) * mixer.index_keys(int(context))
            own += elementwise_s(gpu, sequences * scored)
        return own

    def _recurrent_s(
        self, work: LayerWork, mixer: LinearAttention | Mamba, tokens: int, sequences: int
    ) -> float:
        share = work.heads / mixer.heads
        if isinstance(mixer, Mamba):
            keys, values, key_dim, value_dim = (
                mixer.groups, mixer.heads, mixer.state_dim, mixer.head_dim,
            )  # fmt: skip
        else:
            keys, values, key_dim, value_dim = (
                mixer.key_heads, mixer.value_heads, mixer.key_dim, mixer.value_dim,
            )  # fmt: skip
        return linear_attention_s(
            self.gpu,
            tokens,
            sequences,
            key_heads=max(1, round(keys * share)),
            value_heads=max(1, round(values * share)),
            key_dim=key_dim,
            value_dim=value_dim,
        )

    def chunk_s(self, work: LayerWork, batch: Batch) -> float:
        mixer = work.mixer
        if not batch.chunk or mixer is None:
            return 0.0
        gpu, prompts = self.gpu, max(1, batch.prompts)
        each, before = max(1, batch.chunk // prompts), int(batch.before)
        match mixer:
            case LatentAttention() if mixer.top_k is None:
                return latent_prefill_s(gpu, each, before, work.heads, sequences=prompts)
            case LinearAttention() | Mamba():
                return self._recurrent_s(work, mixer, batch.chunk, prompts)
            case Attention():
                kv_heads, head_dim, bound = work.kv_heads, mixer.head_dim, mixer.window
            case CompressedAttention():
                kv_heads, head_dim = 1, mixer.head_dim
                bound = int(mean_keys(work, before, each)) or None
            case LatentAttention():
                kv_heads, head_dim, bound = work.heads, mixer.value_dim, mixer.top_k
        if isinstance(mixer, Attention) and mixer.top_k:
            bound = mixer.top_k
        return prefill_attention_s(
            gpu, each, before, work.heads, kv_heads, head_dim, sequences=prompts, window=bound
        )

    def small_s(self, kernels: int, num_bytes: float) -> float:
        if not kernels:
            return 0.0
        return (kernels - 1) * elementwise_s(self.gpu, 0.0) + elementwise_s(self.gpu, num_bytes)

    def launch_s(self, busy: int = 0, *, streamed: float = 0.0) -> float:
        return self.device.launch_s
