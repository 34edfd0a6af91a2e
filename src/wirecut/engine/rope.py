"""Tables of rotary position embedding.

    cos_PD, sin_PD = rope_tables(rope, 128, positions=4096, dtype=torch.float32, device=device)
    turned_THD = kernels.rotate(x_THD, cos_PD[positions_T], sin_PD[positions_T])

Shapes: D dims that turn, P positions. Row p of a table depends on p alone, so that chunks, other
requests and a prefix that is kept change nothing. Where long sequences turn otherwise, a table has
P rows for them behind those for short ones.
"""

import math

import torch

from wirecut.engine.models.ropes import Dynamic, Llama3, LongRope, Plain, Rope, Yarn


def rope_tables(
    rope: Rope, head_dim: int, *, positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines (P, D), computed in fp32 as transformers does."""
    dim = int(head_dim * rope.share)
    places_P1 = torch.arange(positions, dtype=torch.float32)[:, None]
    angles = places_P1 * _frequencies(rope, dim, positions)
    angles_PD = angles.view(-1, dim // 2).repeat(1, 2)
    sign_D = torch.ones(dim)
    sign_D[: dim // 2] = -1
    how = rope.scaling
    magnitude = how.magnitude if isinstance(how, Yarn | LongRope) else 1.0
    cos_PD, sin_PD = angles_PD.cos() * magnitude, angles_PD.sin() * sign_D * magnitude
    return cos_PD.to(device, dtype), sin_PD.to(device, dtype)


def _frequencies(rope: Rope, dim: int, positions: int) -> torch.Tensor:
    """(D/2,), or (P, D/2) where they differ by position, (2, 1, D/2) by length of sequence."""
    plain = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    match rope.scaling:
        case Plain(factor):
            return plain / factor
        case Llama3() as how:
            turns = how.original * plain / (2 * math.pi)
            kept = ((turns - how.low) / (how.high - how.low)).clamp(0, 1)
            return plain * kept + plain / how.factor * (1 - kept)
        case Yarn() as how:
            stretched = _stretched(how, rope.theta, dim)
            return plain / how.factor * stretched + plain * (1 - stretched)
        case Dynamic() as how:
            lengths_P = torch.arange(1, positions + 1, dtype=torch.float64).clamp_min(how.original)
            grown_P = how.factor * lengths_P / how.original - (how.factor - 1)
            bases_P = rope.theta * grown_P ** (dim / (dim - 2))
            return 1.0 / bases_P.float()[:, None] ** (torch.arange(0, dim, 2) / dim)
        case LongRope() as how:
            factors = torch.tensor([how.short, how.long])[:, None]
            return 1.0 / (factors * rope.theta ** (torch.arange(0, dim, 2).float() / dim))


def _stretched(how: Yarn, theta: float, dim: int) -> torch.Tensor:
    """How far each dim is stretched, from 0 to 1 (YaRN, equations 18 to 20)."""

    def dim_of(turns: float) -> float:
        """The dim that turns so often within `original` positions."""
        return dim * math.log(how.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dim_of(how.fast), dim_of(how.slow)
    if how.whole_dims:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    steps = torch.arange(dim // 2, dtype=torch.float32)
    return ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
