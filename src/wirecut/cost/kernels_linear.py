"""How long linear attention (gated delta net) and state space (Mamba 2) layers take on a GPU.

    linear_attention_s(gpu, tokens=64, sequences=64, key_heads=16, value_heads=32, key_dim=128,
                       value_dim=128)

A sequence's state is read and written once a step; a prefill also multiplies it in chunks.
"""

from wirecut.cost.kernels import Gpu, soft_maximum

CHUNK = 64  # tokens that one pass over the state takes
STATE_BYTES = 4.0  # fp32
SHARE = 0.2  # of the 16-bit rate: small products in chains (assumed)
CONVOLUTION = 4  # taps


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
    """Seconds of a gated delta net's convolution and recurrence, `tokens` new ones of `sequences`
    together (projections are products). Mamba 2 is `key_heads` groups of `key_dim` state.
    """
    width = 2 * key_heads * key_dim + value_heads * value_dim
    state = sequences * value_heads * key_dim * value_dim * STATE_BYTES
    moved = 2 * state + tokens * 2 * (3 * width + 2 * value_heads * value_dim)
    inside = min(CHUNK, tokens / max(1, sequences))
    flops = 2 * tokens * value_heads * (2 * key_dim * value_dim + inside * (key_dim + value_dim))
    generation = gpu.generation
    memory_s = moved / (gpu.bytes_per_s * generation.elementwise_memory)
    rate = gpu.flops_per_s.get("bf16") or gpu.flops_per_s["fp16"]
    return 2 * generation.elementwise_start_s + soft_maximum(memory_s, flops / (rate * SHARE))
