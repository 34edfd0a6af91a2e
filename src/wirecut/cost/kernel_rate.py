"""A GPU that was not probed: its datasheet, and what kernels of its generation reach of it.

    Kernels(device, kv="bf16").decode_s(work, Batch(decodes=8, context=4096))

One of the two kinds of `rates.Rate`; the kernels' own times are in `kernels` and its siblings.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property

from wirecut.cost.attend import mean_keys
from wirecut.cost.forward import Batch
from wirecut.cost.kernels import Gpu, elementwise_s, gpu_of, matmul_s
from wirecut.cost.kernels_attention import (
    decode_attention_s,
    latent_decode_s,
    latent_prefill_s,
    latent_sparse_prefill_s,
    prefill_attention_s,
)
from wirecut.cost.kernels_experts import experts_s, rank_load
from wirecut.cost.kernels_linear import indexer_s, linear_attention_s
from wirecut.cost.product import Product
from wirecut.cost.terms import half_width
from wirecut.cost.work import LayerWork, Routed
from wirecut.fabric.fabric import Device, Source
from wirecut.spec.attention import Attention, CompressedAttention, LatentAttention
from wirecut.spec.formats import kind_of
from wirecut.spec.recurrent import LinearAttention, Mamba

Latent = LatentAttention | CompressedAttention  # all heads share one cached vector
Looking = Attention | Latent
KERNEL_FORMATS = {"fp32": "bf16", "fp16": "bf16", "mxfp8": "fp8_block"}


@cache
def kernel_format(name: str) -> str:
    """A weight format as the kernels name it: 'fp8-b128' -> 'fp8_block'."""
    kind = kind_of(name)
    return "fp8_block" if name.startswith("fp8-") else KERNEL_FORMATS.get(kind, kind)


def _latent(mixer: Latent) -> tuple[int, int]:
    """Elements of a cached vector that are key and value, and key only."""
    if isinstance(mixer, LatentAttention):
        return mixer.kv_rank, mixer.rope_dim
    return mixer.head_dim, 0


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

    @cached_property
    def _products(self) -> dict[tuple[int, int, int, str, float], float]:
        """Seconds of every product asked for: layouts of one search ask for the same ones."""
        return {}

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
        key = rows, product.n, product.k, product.format, product.weight_bytes
        seconds = self._products.get(key)
        if seconds is None:
            format = kernel_format(product.format)
            seconds = matmul_s(self.gpu, rows, product.n, product.k, format, product.weight_bytes)
            self._products[key] = seconds
        return seconds

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
        gpu, kv, mixer = self.gpu, self._kv, work.mixer
        match mixer:
            case Attention():
                own = decode_attention_s(
                    gpu,
                    sequences,
                    mixer.keys(context),
                    work.heads,
                    work.kv_heads,
                    mixer.head_dim,
                    kv,
                    value_dim=mixer.value_width,
                )
            case LatentAttention() | CompressedAttention():
                latent, rope = _latent(mixer)
                keys = mixer.keys(context)
                own = latent_decode_s(
                    gpu, sequences, keys, work.heads, kv, kv_rank=latent, rope_dim=rope
                )
            case LinearAttention() | Mamba():
                return self._recurrent_s(work, mixer, sequences, sequences)
            case None:
                return 0.0
        return own + self._index_s(mixer, 1, context, sequences)

    @property
    def _kv(self) -> str:
        return "fp8" if kind_of(self.kv) in ("fp8", "int8") else "bf16"

    def _index_s(self, mixer: Looking, queries: int, context: float, sequences: int) -> float:
        """Scoring and picking keys, which every TP rank does for itself."""
        if mixer.index is None:
            return 0.0
        return indexer_s(
            self.gpu,
            queries,
            mixer.index_keys(context),
            sequences=sequences,
            index_heads=mixer.index.heads,
            index_dim=mixer.index.head_dim,
        )

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
        prompts = max(1, batch.prompts)
        each, before = max(1, batch.chunk // prompts), int(batch.before)
        match mixer:
            case LinearAttention() | Mamba():
                return self._recurrent_s(work, mixer, batch.chunk, prompts)
            case Attention():
                bounds = [bound for bound in (mixer.window, mixer.top_k) if bound]
                own = prefill_attention_s(
                    self.gpu,
                    each,
                    before,
                    work.heads,
                    work.kv_heads,
                    mixer.head_dim,
                    sequences=prompts,
                    window=min(bounds, default=None),
                    value_dim=mixer.value_width,
                )
            case LatentAttention() | CompressedAttention():
                own = self._latent_chunk_s(work, mixer, each, before, prompts)
        return own + self._index_s(mixer, each, before + (each + 1) / 2, prompts)

    def _latent_chunk_s(
        self, work: LayerWork, mixer: Latent, each: int, before: int, prompts: int
    ) -> float:
        """Over all keys, projected, or over those that each query chose: whichever is sooner, as
        runtimes take the first while prompts are short (DeepSeek-V3.2, section 2.1).
        """
        dense = math.inf
        if isinstance(mixer, LatentAttention):
            dense = latent_prefill_s(
                self.gpu,
                each,
                before,
                work.heads,
                key_dim=mixer.nope_dim + mixer.rope_dim,
                value_dim=mixer.value_dim,
                sequences=prompts,
            )
            if mixer.top_k is None:
                return dense
        latent, rope = _latent(mixer)
        chosen = mean_keys(work, before, each)
        sparse = latent_sparse_prefill_s(
            self.gpu,
            each,
            before,
            chosen,
            work.heads,
            self._kv,
            kv_rank=latent,
            rope_dim=rope,
            sequences=prompts,
        )
        return min(dense, sparse)

    def small_s(self, kernels: int, num_bytes: float) -> float:
        if not kernels:
            return 0.0
        return (kernels - 1) * elementwise_s(self.gpu, 0.0) + elementwise_s(self.gpu, num_bytes)

    def launch_s(self, busy: int = 0, *, streamed: float = 0.0) -> float:
        return self.device.launch_s
