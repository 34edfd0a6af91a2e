"""How long attention takes on a GPU: decode (reads the cache), prefill (multiplies), latent (MLA).

    decode_attention_s(gpu, sequences=8, context=4096, heads=32, kv_heads=8, head_dim=128)
    prefill_attention_s(gpu, query_tokens=2048, keys_before=0, heads=32, kv_heads=8, head_dim=128)

Counts are those of one rank. Constants are in `kernels_rates`; caches come from memory.
"""

import math

from wirecut.cost.kernels import Gpu, soft_maximum

KV_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp32": 4.0}
QUERY_TILE = 128  # rows (queries x the heads that share a KV head) that a kernel takes at a time
USUAL_DIM = 128  # head_dim of the keys that a tile's edge is counted in
GROUP_TILE = 16  # query heads over one KV head that a decode kernel takes at least


def decode_attention_s(
    gpu: Gpu,
    sequences: int,
    context: float,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str = "bf16",
    window: int | None = None,
    *,
    value_dim: int | None = None,
) -> float:
    """Seconds of one new token of each of `sequences` that looks at `context` keys (mean).
    `value_dim`: of a value where it is not `head_dim`.
    """
    keys = min(context, window) if window else context
    group = math.ceil(max(1, heads / max(1, kv_heads)) / GROUP_TILE) * GROUP_TILE
    width = kv_heads * (head_dim + (head_dim if value_dim is None else value_dim))
    return _decode_s(gpu, sequences, keys, width * KV_BYTES[kv_dtype], 2 * width * group)


def _decode_s(gpu: Gpu, sequences: int, keys: float, key_bytes: float, key_flops: float) -> float:
    """From bytes and operations a key. Exponentials and loads bound it, not the tensor cores: its
    compute goes by the fp32 rate.
    """
    attention = gpu.generation.attention
    memory_s = keys * key_bytes / (gpu.bytes_per_s * attention.decode_memory)
    compute_s = (keys + attention.decode_edge) * key_flops / gpu.vector_flops_per_s
    compute_s /= attention.decode_share
    return attention.decode_start_s + sequences * soft_maximum(memory_s, compute_s)


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
    value_dim: int | None = None,
) -> float:
    """Seconds of `query_tokens` new tokens of each of `sequences`, causal, after `keys_before`.
    `value_dim`: of a value where it is not `head_dim`.
    """
    mean_dim = (head_dim + (head_dim if value_dim is None else value_dim)) / 2
    return _prefill_s(
        gpu, query_tokens, keys_before, (heads, kv_heads), mean_dim, sequences, dtype, window
    )


def _prefill_s(
    gpu: Gpu,
    queries: int,
    before: int,
    heads: tuple[int, int],
    head_dim: float,
    sequences: int,
    dtype: str,
    window: int | None = None,
    share: float = 0.0,
) -> float:
    """By tiles of QUERY_TILE rows: the work of all over the multiprocessors, or the longest.

    A row of a tile visits its keys, its own tile's worth of masked ones and the tile's `edge`;
    a key costs the products over `head_dim` and a softmax worth `softmax` more of it.
    """
    attention = gpu.generation.attention
    of, shared = heads
    group = of / max(1, shared)
    tile = max(1.0, QUERY_TILE / group) if queries < QUERY_TILE else QUERY_TILE
    tiles = math.ceil(queries / tile)
    rows = of * tiles * tile * sequences
    most = before + queries
    mean = before + (tiles + 1) / 2 * min(tile, queries)
    if window:
        most, mean = min(most, window + tile), min(mean, window + tile)
    share = share or attention.prefill_share
    rate = gpu.dense_flops_per_s * (gpu.generation.free_share if gpu.free else share)
    width = head_dim
    if dtype == "fp8" and "fp8" in gpu.flops_per_s:
        width /= attention.fp8_gain
    key, edge = width + attention.prefill_softmax, attention.prefill_edge * USUAL_DIM
    total = rows * (mean * key + edge)
    longest = QUERY_TILE * (most * key + edge) * gpu.sms
    compute_s = 4 * max(total, longest) / rate
    values = queries * of + min(queries + before, most) * shared  # rows of q and o, of k and v
    memory_s = 4 * sequences * values * head_dim / (gpu.bytes_per_s * attention.decode_memory)
    return attention.prefill_start_s + soft_maximum(memory_s, compute_s)


def latent_decode_s(
    gpu: Gpu,
    sequences: int,
    context: float,
    heads: int,
    kv_dtype: str = "bf16",
    *,
    kv_rank: int,
    rope_dim: int,
) -> float:
    """Seconds of decode attention over MLA's compressed cache, all heads over one cached vector of
    `kv_rank` (key and value) and `rope_dim` (key only) elements.
    """
    pairs = sequences * context
    return _latent_s(gpu, pairs, pairs, heads, (kv_rank, rope_dim), kv_dtype)


def latent_sparse_prefill_s(
    gpu: Gpu,
    query_tokens: int,
    keys_before: int,
    chosen: float,
    heads: int,
    kv_dtype: str = "bf16",
    *,
    kv_rank: int,
    rope_dim: int,
    sequences: int = 1,
) -> float:
    """Seconds of `query_tokens` of each of `sequences`, each over `chosen` keys of its own (mean)
    in the form that decode has (DeepSeek-V3.2, section 2.1: all heads of a query share them).
    """
    pairs = sequences * query_tokens * chosen
    read = min(pairs, sequences * (keys_before + query_tokens))
    return _latent_s(gpu, pairs, read, heads, (kv_rank, rope_dim), kv_dtype)


def _latent_s(
    gpu: Gpu, pairs: float, read: float, heads: int, dims: tuple[int, int], kv_dtype: str
) -> float:
    """From pairs of a query token and a key, and keys that come from memory; `dims`: of latent and
    rotary part.
    """
    attention, (latent, rotary) = gpu.generation.attention, dims
    moved = read * (latent + rotary) * KV_BYTES[kv_dtype]
    flops = 2 * pairs * math.ceil(heads / GROUP_TILE) * GROUP_TILE * (2 * latent + rotary)
    memory_s = moved / (gpu.bytes_per_s * attention.decode_memory)
    return attention.latent_start_s + soft_maximum(
        memory_s, flops / (gpu.dense_flops_per_s * attention.latent_share)
    )


def latent_prefill_s(
    gpu: Gpu,
    query_tokens: int,
    keys_before: int,
    heads: int,
    *,
    key_dim: int,
    value_dim: int,
    sequences: int = 1,
    dtype: str = "bf16",
) -> float:
    """Seconds of MLA's prefill attention once keys (`key_dim` a head, rotary part included) and
    values are projected.
    """
    return _prefill_s(
        gpu,
        query_tokens,
        keys_before,
        (heads, heads),
        (key_dim + value_dim) / 2,
        sequences,
        dtype,
        share=gpu.generation.attention.latent_prefill_share,
    )
