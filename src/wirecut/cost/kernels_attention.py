"""How long attention takes on a GPU: decode (reads the cache), prefill (multiplies), latent (MLA).

    decode_attention_s(gpu, sequences=8, context=4096, heads=32, kv_heads=8, head_dim=128)
    prefill_attention_s(gpu, query_tokens=2048, keys_before=0, heads=32, kv_heads=8, head_dim=128)

Counts are those of one rank. Constants are in `kernels_rates`; caches come from memory.
"""

import math

from wirecut.cost.kernels import Gpu, soft_maximum

KV_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp32": 4.0}
QUERY_TILE = 128  # queries of one head that a prefill kernel takes at a time
GROUP_TILE = 64  # query heads over one KV head that a decode kernel takes at a time
LATENT, ROTARY = 512, 64  # MLA's cached values: compressed keys and values, rotary part


def decode_attention_s(
    gpu: Gpu,
    sequences: int,
    context: float,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str = "bf16",
    window: int | None = None,
) -> float:
    """Seconds of one new token of each of `sequences` that looks at `context` keys (mean)."""
    keys = min(context, window) if window else context
    moved = 2 * sequences * keys * kv_heads * head_dim * KV_BYTES[kv_dtype]
    group = max(1, heads // max(1, kv_heads))
    padded = math.ceil(group / GROUP_TILE) * GROUP_TILE * kv_heads
    flops = 4 * sequences * keys * padded * head_dim
    return _decode_s(gpu, moved, flops)


def _decode_s(gpu: Gpu, moved: float, flops: float) -> float:
    attention = gpu.generation.attention
    memory_s = moved / (gpu.bytes_per_s * attention.decode_memory)
    compute_s = flops / (_bf16(gpu) * attention.decode_share)
    return attention.decode_start_s + soft_maximum(memory_s, compute_s)


def _bf16(gpu: Gpu) -> float:
    return gpu.flops_per_s.get("bf16") or gpu.flops_per_s["fp16"]


def prefill_attention_s(
    gpu: Gpu,
    query_tokens: int,
    keys_before: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    sequences: int = 1,
    dtype: str = "bf16",
    window: int | None = None,
) -> float:
    """Seconds of `query_tokens` new tokens of each of `sequences`, causal, after `keys_before`."""
    pairs = _pairs(query_tokens, keys_before, window)
    return _prefill_s(gpu, query_tokens, pairs, sequences * heads, head_dim, head_dim, dtype)


def _pairs(queries: int, before: int, window: int | None) -> float:
    """(query, key) pairs of one sequence and head that a causal mask leaves."""
    if not window or queries + before <= window:
        return queries * before + queries * (queries + 1) / 2
    full = max(0, min(queries, window - before))
    return full * before + full * (full + 1) / 2 + (queries - full) * window


def _prefill_s(
    gpu: Gpu, queries: int, pairs: float, heads: int, key_dim: int, value_dim: int, dtype: str
) -> float:
    attention = gpu.generation.attention
    tiles = math.ceil(queries / QUERY_TILE)
    # A tile computes its last block of keys whole, and has a start and an end.
    worked = pairs * tiles * QUERY_TILE / queries + tiles * QUERY_TILE * attention.prefill_edge
    idle = max(1.0, gpu.sms / (tiles * heads))
    flops = 2 * worked * heads * (key_dim + value_dim) * idle
    rate = _bf16(gpu) * attention.prefill_share
    if dtype == "fp8" and "fp8" in gpu.flops_per_s:
        rate *= attention.fp8_gain
    return attention.prefill_start_s + flops / rate


def latent_decode_s(
    gpu: Gpu, sequences: int, context: float, heads: int, kv_dtype: str = "bf16"
) -> float:
    """Seconds of decode attention over MLA's compressed cache, all heads over one cached vector."""
    moved = sequences * context * (LATENT + ROTARY) * KV_BYTES[kv_dtype]
    padded = math.ceil(heads / GROUP_TILE) * GROUP_TILE
    flops = 2 * sequences * context * padded * (2 * LATENT + ROTARY)
    return _decode_s(gpu, moved, flops)


def latent_prefill_s(
    gpu: Gpu,
    query_tokens: int,
    keys_before: int,
    heads: int,
    *,
    sequences: int = 1,
    dtype: str = "bf16",
) -> float:
    """Seconds of MLA's prefill attention: keys of 192 and values of 128 a head, projected before."""
    pairs = _pairs(query_tokens, keys_before, None)
    return _prefill_s(gpu, query_tokens, pairs, sequences * heads, 192, 128, dtype)
