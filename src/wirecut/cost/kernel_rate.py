"""A GPU that was not probed: its datasheet, and what kernels of its generation reach of it.

    Kernels(device, kv="bf16").decode_s(work, Batch(decodes=8, context=4096))

One of the two kinds of `rates.Rate`; the kernels' own times are in `kernels` and its siblings.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property

from wirecut.cost.attend import mean_keys
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
from wirecut.cost.terms import half_width
from wirecut.cost.work import LayerWork, Product, Routed
from wirecut.fabric.fabric import Device, Source
from wirecut.spec.attention import Attention, CompressedAttention, LatentAttention
from wirecut.spec.formats import kind_of
from wirecut.spec.recurrent import LinearAttention, Mamba

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
        return replace(gpu, generation=gpu.generation.scaled(starts=self.starts))

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
        format = kernel_format(product.format)
        return matmul_s(self.gpu, rows, product.n, product.k, format, product.weight_bytes)

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
            weight_bytes=routed.weight_bytes,
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
