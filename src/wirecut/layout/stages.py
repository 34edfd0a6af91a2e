"""Cutting a model's layers into pipeline stages, by a weight per layer (seconds or bytes)."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from wirecut.facts import fact

Stages = tuple[tuple[int, int], ...]  # (first layer, one past the last), stage by stage


@fact
class Room:
    """A second weight of each layer, in bytes or seconds, and how much of it each stage has room
    for.
    """

    layers: Sequence[float]
    stages: Sequence[float]


def cut_stages(
    weights: Sequence[float],
    pp: int,
    *,
    extras: Sequence[float] = (),
    speeds: Sequence[float] = (),
    room: Room | None = None,
) -> Stages:
    """The cut into `pp` contiguous stages of at least one layer whose heaviest is lightest.

    `extras`: what each stage carries besides its layers, in the weights' unit, as the embedding on
    the first and norm and head on the last (empty: nothing). `speeds`: how many times as fast each
    stage is (empty: alike). `room` is kept to where any cut does. Weights are not negative. Exact:
    dynamic programming over (stage, layers so far), from the latest start of a stage to where it
    alone is heavier than the best so far. Of equally good cuts, the one with the fewest layers in
    late stages.
    """
    layers = len(weights)
    if not 1 <= pp <= layers:
        raise ValueError(f"{layers} layers cannot make {pp} stages")
    before = [0.0, *accumulate(weights)]
    slow = [1.0 / speed for speed in speeds] or [1.0] * pp
    besides = list(extras) or [0.0] * pp
    held = [0.0, *accumulate(room.layers)] if room else before
    limits = room.stages if room else [math.inf] * pp

    worst = [  # of the stages so far, by layers so far
        (before[last] + besides[0]) * slow[0] if held[last] <= limits[0] else math.inf
        for last in range(layers + 1)
    ]
    came_from: list[dict[int, int]] = []
    for stage in range(1, pp):
        extra, slower, limit = besides[stage], slow[stage], limits[stage]
        row, origin = [math.inf] * (layers + 1), dict[int, int]()
        for last in range(stage + 1, layers - pp + stage + 2) if stage < pp - 1 else [layers]:
            best = math.inf
            for first in range(last - 1, stage - 1, -1):
                own = (before[last] - before[first] + extra) * slower
                if own >= best or held[last] - held[first] > limit:
                    break
                slowest = worst[first]
                if own > slowest:
                    slowest = own
                if slowest < best:
                    best, origin[last] = slowest, first
            row[last] = best
        worst = row
        came_from.append(origin)
    if room and math.isinf(worst[layers]):
        return cut_stages(weights, pp, extras=extras, speeds=speeds)

    ends = [layers]
    for origin in reversed(came_from):
        ends.append(origin[ends[-1]])
    bounds = [0, *reversed(ends)]
    return tuple(pairwise(bounds))
