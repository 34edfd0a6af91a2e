"""How long linear attention (gated delta net, Mamba 2) and a sparse attention's indexer take.

    linear_attention_s(gpu, tokens=64, sequences=64, key_heads=16, value_heads=32, key_dim=128,
                       value_dim=128)
    indexer_s(gpu, query_tokens=1, keys=65536, sequences=8, index_heads=64, index_dim=128)

A sequence's state is read and written once a step; a prefill multiplies it in chunks, one after the
other. Constants are in `kernels_rates`.
"""

from wirecut.cost.kernels import Gpu, elementwise_s, soft_maximum

CHUNK = 64  # tokens that one pass over the state takes
STATE_BYTES = 4.0  # fp32


def linear_attention_s(
    gpu: Gpu,
    tokens: int,
    sequences: int,
    *,
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
) -> float:
    """Seconds of convolution and recurrence of one layer for `tokens`, those of all `sequences`.

    Projections are products of their own. Mamba 2 is `key_heads` groups of `key_dim` states and
    `value_heads` heads of `value_dim`.
    """
    width = 2 * key_heads * key_dim + value_heads * value_dim
    heads = (key_heads, value_heads, key_dim, value_dim)
    return convolution_s(gpu, tokens, width) + recurrence_s(gpu, tokens, sequences, heads)


def convolution_s(gpu: Gpu, tokens: int, width: int) -> float:
    """Seconds of a short causal convolution over `width` channels in 16 bits: read and written."""
    return elementwise_s(gpu, 4.0 * tokens * width)


def recurrence_s(gpu: Gpu, tokens: int, sequences: int, heads: tuple[int, int, int, int]) -> float:
    """Seconds of the state's update: (key heads, value heads, key dim, value dim) a layer.

    A head of a sequence runs on one multiprocessor from its first chunk to its last.
    """
    key_heads, value_heads, key_dim, value_dim = heads
    state = sequences * value_heads * key_dim * value_dim * STATE_BYTES
    moved = 2 * state + 4 * tokens * (key_heads * key_dim + value_heads * value_dim)
    inside = min(CHUNK, tokens / sequences)
    a_token = 2 * (2 * key_dim * value_dim + inside * (key_dim + value_dim))
    work = a_token * tokens * max(value_heads, gpu.sms / sequences)
    linear = gpu.generation.linear
    rate = gpu.dense_flops_per_s * linear.share
    memory_s = moved / (gpu.bytes_per_s * linear.memory)
    start_s = linear.start_s if tokens <= sequences else linear.chunk_start_s
    return start_s + soft_maximum(memory_s, work / rate)


def indexer_s(
    gpu: Gpu,
    query_tokens: int,
    keys: float,
    *,
    index_heads: int,
    index_dim: int,
    sequences: int = 1,
) -> float:
    """Seconds to score and pick keys for sparse attention (DeepSeek-V3.2, GLM-5): fp8 index keys,
    `query_tokens` of each of `sequences` that look at `keys` index keys (mean); picking reads fp32
    scores.
    """
    attention = gpu.generation.attention
    scores = sequences * query_tokens * keys
    moved = sequences * keys * index_dim + 8 * scores
    rate = gpu.flops_per_s.get("fp8", gpu.dense_flops_per_s) * attention.prefill_share
    memory_s = moved / (gpu.bytes_per_s * attention.decode_memory)
    return 2 * attention.decode_start_s + soft_maximum(
        memory_s, 2 * scores * index_heads * index_dim / rate
    )
