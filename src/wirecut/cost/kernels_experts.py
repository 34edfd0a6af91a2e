"""How long a mixture of experts takes on one rank: the experts touched, their grouped products.

    experts_s(gpu, 64, experts_here=256, experts=256, top_k=8, hidden=7168, intermediate=2048,
              format="fp8_block")

Constants are in `kernels_rates`.
"""

import math

from wirecut.cost.kernels import FORMATS, Gpu, busy_s, format_on, tile_work, tiles_of


def experts_touched(tokens: float, experts_here: int, experts: int, top_k: int) -> float:
    """Expected distinct experts of this rank that `tokens` choose, each `top_k` of `experts`."""
    return experts_here * -math.expm1(tokens * math.log1p(-min(top_k / experts, 1 - 1e-12)))


def experts_s(
    gpu: Gpu,
    tokens: int,
    *,
    experts_here: int,
    experts: int,
    top_k: int,
    hidden: int,
    intermediate: int,
    format: str,
    gated: bool = True,
) -> float:
    """Seconds of the routed experts of one rank for `tokens` (of all ranks that send it tokens).

    `intermediate` is this rank's slice of each expert. Raises KeyError for an unknown format.
    """
    name = format_on(gpu, format)
    stored, tiles = FORMATS[name], tiles_of(gpu, name, gpu.generation.experts)
    touched = experts_touched(tokens, experts_here, experts, top_k)
    pairs = tokens * top_k * experts_here / experts
    up = (2 if gated else 1) * intermediate
    weights = touched * hidden * (up + intermediate) * stored.weight_bytes
    moved = weights + pairs * (2 * hidden + up + intermediate) * 2
    rows = max(1.0, pairs / max(touched, 1e-9))
    work = hidden * tile_work(rows, up, touched, gpu.sms, tiles.edge)
    work += intermediate * tile_work(rows, hidden, touched, gpu.sms, tiles.edge)
    started = tiles.start_s + tiles.step_s * (hidden + intermediate)
    return started + busy_s(gpu, name, tiles, moved, 2 * gpu.sms * work)
