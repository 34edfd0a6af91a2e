"""Where a decision flips: the nearest wire speed and concurrency at which another layout wins, and
other wires.

    Flip(what="concurrency", threshold=12, unit="requests", to="dp2")
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from wirecut.cost.estimate import Candidate
from wirecut.fabric.fabric import Fabric, Link
from wirecut.planner.contest import Contest
from wirecut.spec.traffic import Traffic

SPEEDS_PER_DECADE = 5
DECADES = 3  # wires a thousand times slower or faster: from InfiniBand to a home line and back
SPEED_TOLERANCE = 1e-4  # relative
MOST_CONCURRENT = 4096
CONCURRENCY_STEP = 1.5


@dataclass(frozen=True, slots=True)
class Flip:
    """Beyond `threshold`, layout `to` wins.

    "wire speed": in bytes/s of `wire`, with every wire `factor` times as fast and that one's
    latency `latency_s`. "concurrency": in requests. "wire": were only that kind of wire used (`to`
    may be the chosen layout).
    """

    what: Literal["wire speed", "concurrency", "wire"]
    threshold: float | str
    unit: Literal["bytes/s", "requests", "kind"]
    to: str
    wire: str | None = None
    factor: float | None = None
    latency_s: float | None = None


def speed_flips(contest: Contest, traffic: Traffic, fabric: Fabric) -> Iterator[Flip]:
    """The nearest slower and the nearest faster wire speed at which another layout wins."""
    chosen = contest.winner(traffic)

    def wins(factor: float) -> Candidate:
        return contest.winner(traffic, speed=factor)

    for direction in (-1, 1):
        found = _nearest_speed(chosen, wins, direction)
        if found is None:
            continue
        factor, winner = found
        link = used_link(fabric, chosen) or used_link(fabric, winner)
        if link is not None:
            yield Flip(
                what="wire speed",
                threshold=link.bytes_per_s * factor,
                unit="bytes/s",
                to=str(winner.cut.layout),
                wire=link.kind,
                factor=factor,
                latency_s=link.latency_s / factor,
            )


def _nearest_speed(
    chosen: Candidate, wins: Callable[[float], Candidate], direction: int
) -> tuple[float, Candidate] | None:
    """Step away from 1, then bisect (in logarithms) the first step over which the winner
    changes.
    """
    near = 1.0
    for step in range(1, DECADES * SPEEDS_PER_DECADE + 1):
        far = 10 ** (direction * step / SPEEDS_PER_DECADE)
        winner = wins(far)
        if winner is chosen:
            near = far
            continue
        while abs(math.log(far / near)) > SPEED_TOLERANCE:
            middle = math.sqrt(near * far)
            between = wins(middle)
            if between is chosen:
                near = middle
            else:
                far, winner = middle, between
        return far, winner
    return None


def concurrency_flips(contest: Contest, traffic: Traffic) -> Iterator[Flip]:
    """The nearest lower and the nearest higher concurrency at which another layout wins; closed
    loops only.
    """
    if traffic.rate is not None or traffic.static_batch or traffic.num_requests is not None:
        return
    chosen, at = contest.winner(traffic), traffic.concurrency or 1

    def wins(concurrency: int) -> Candidate:
        return contest.winner(replace(traffic, concurrency=concurrency))

    for steps in (_down_from(at), _up_from(at)):
        near = at
        for far in steps:
            winner = wins(far)
            if winner is chosen:
                near = far
                continue
            while abs(far - near) > 1:
                middle = (near + far) // 2
                between = wins(middle)
                if between is chosen:
                    near = middle
                else:
                    far, winner = middle, between
            yield Flip("concurrency", far, "requests", str(winner.cut.layout))
            break


def _down_from(concurrency: int) -> Iterator[int]:
    while concurrency > 1:
        concurrency = int(concurrency / CONCURRENCY_STEP)
        yield max(1, concurrency)


def _up_from(concurrency: int) -> Iterator[int]:
    while concurrency < MOST_CONCURRENT:
        concurrency = min(MOST_CONCURRENT, math.ceil(concurrency * CONCURRENCY_STEP))
        yield concurrency


def used_link(fabric: Fabric, candidate: Candidate) -> Link | None:
    """The wire that a layout leans on: of its first TP group, else between its first stages; None
    when of neither.
    """
    replica = candidate.replica
    if candidate.cut.layout.tp > 1:
        return fabric.slowest_link(replica.stages[0].group)
    return replica.boundaries[0] if replica.boundaries else None


def other_wires(fabric: Fabric, chosen: Candidate) -> list[str]:
    """Kinds of wire that join every joined pair of devices and that the chosen layout does not
    use.
    """
    pairs = {(min(k.a, k.b), max(k.a, k.b)) for k in fabric.links}
    used = used_link(fabric, chosen) or (fabric.link(*min(pairs)) if pairs else None)
    kinds = dict.fromkeys(link.kind for link in fabric.links)
    return [
        kind
        for kind in kinds
        if used is not None
        and kind != used.kind
        and {(min(k.a, k.b), max(k.a, k.b)) for k in fabric.links if k.kind == kind} == pairs
    ]
