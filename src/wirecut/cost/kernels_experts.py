"""How long a mixture of experts takes on one rank: the experts touched, their grouped products.

    experts_s(gpu, 64, experts_here=256, experts=256, top_k=8, hidden=7168, intermediate=2048,
              format="fp8_block")

Routers are uneven: popularity is log-uniform, the most popular expert `skew` times the least.
Constants are in `kernels_rates`.
"""

import math
from functools import lru_cache

from wirecut.cost.kernels import FORMATS, Gpu, busy_s, format_on, tile_work, tiles_of
from wirecut.facts import fact

# Most popular expert over the least among the tokens of a step: the busiest has 3.5 x the mean.
# TPOT of gpt-oss-120b, Qwen3-235B and DeepSeek-R1 with 4 to 256 users; 10 has too many experts
# touched, 300 too few (benchmarks/serving.md). NVIDIA's own tables of routed experts take power
# laws of 1.01 and 1.2, 134 and 338 times over 128 experts.
SKEW = 100.0
CLASSES = 8  # of popularity, in sums over experts


@fact
class Routed:
    """Tokens at the experts of one rank: `groups` are (experts that have any, rows of each),
    `pairs` all rows together.
    """

    groups: tuple[tuple[float, float], ...]
    pairs: float

    @property
    def touched(self) -> float:
        """Expected experts that have any row."""
        return sum(count for count, _ in self.groups)


@lru_cache(maxsize=4096)
def routed(
    tokens: int,
    experts_here: int,
    experts: int,
    top_k: int,
    *,
    skew: float = SKEW,
    load: float = 1.0,
) -> Routed:
    """Expected rows of one rank's experts when each token picks `top_k` of `experts`.

    Class i of CLASSES has popularity p ~ skew^((i + 1/2) / CLASSES); of its experts the share
    1 - (1 - p)^tokens has any row. `load` is this rank's rows over the mean rank's: as
    many experts have any, each more of them.
    """
    weights = [skew ** ((i + 0.5) / CLASSES) for i in range(CLASSES)]
    mean = sum(weights) / CLASSES
    groups: list[tuple[float, float]] = []
    for weight in weights:
        chance = min(top_k / experts * weight / mean, 1.0 - 1e-12)
        share = -math.expm1(tokens * math.log1p(-chance))
        groups.append((experts_here / CLASSES * share, max(1.0, load * tokens * chance / share)))
    return Routed(tuple(groups), sum(count * rows for count, rows in groups))


def rank_load(experts: int, experts_here: int, skew: float = SKEW) -> float:
    """Expected rows of the busiest of the ranks that share `experts`, over the mean rank's.

    Ranks hold experts of random popularity: the mean of `experts_here` varies by cv / sqrt(here),
    and the largest of r such means lies sqrt(2 ln r) deviations above (extreme values of a normal).
    """
    ranks = experts / experts_here
    if ranks <= 1 or skew <= 1:
        return 1.0
    square = (skew + 1) * math.log(skew) / (2 * (skew - 1))  # mean of squares over squared mean
    spread = math.sqrt((square - 1) / experts_here * (1 - 1 / ranks))
    return min(1 + spread * math.sqrt(2 * math.log(ranks)), ranks)


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
    skew: float = SKEW,
    load: float = 1.0,
    weight_bytes: float | None = None,
) -> float:
    """Seconds of the routed experts of one rank for `tokens`, those of all ranks that send it some.

    `intermediate` is this rank's slice of each expert; `load` as `rank_load` gives for the busiest
    rank; `weight_bytes` of all experts here, scales included (None: as the format usually has
    them). Has sorting by expert and the weighted sum in it, not the router's own product. Raises
    KeyError for an unknown format.
    """
    rows = routed(tokens, experts_here, experts, top_k, skew=skew, load=load)
    expert_bytes = None if weight_bytes is None else weight_bytes / experts_here
    return grouped_s(
        gpu, rows, hidden, intermediate, format, gated=gated, expert_bytes=expert_bytes
    )


def grouped_s(
    gpu: Gpu,
    rows: Routed,
    hidden: int,
    intermediate: int,
    format: str,
    *,
    gated: bool = True,
    expert_bytes: float | None = None,
) -> float:
    """Seconds of both grouped products for tokens that are routed so; `expert_bytes` of weights in
    one expert (None: as the format usually has them).
    """
    name = format_on(gpu, format)
    stored, tiles = FORMATS[name], tiles_of(gpu, name, gpu.generation.experts)
    up = (2 if gated else 1) * intermediate
    if expert_bytes is None:
        expert_bytes = hidden * (up + intermediate) * stored.weight_bytes
    # Rows in 16 bits: sorted (read, written), multiplied (read, written), summed (read); between
    # the products written and read, before the activation and after it.
    moved = rows.touched * expert_bytes + rows.pairs * (5 * hidden + 2 * up + 2 * intermediate) * 2
    work = hidden * tile_work(rows.groups, up, gpu.sms, tiles.edge)
    work += intermediate * tile_work(rows.groups, hidden, gpu.sms, tiles.edge)
    started = tiles.start_s + tiles.step_s * (hidden + intermediate)
    return started + busy_s(gpu, name, tiles, moved, 2 * gpu.sms * work)
