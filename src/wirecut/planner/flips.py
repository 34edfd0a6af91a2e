"""Where a decision flips: the nearest load and the nearest speed of wires at which another layout
wins, and other wires.

    Flip(what="concurrency", threshold=12, unit="requests", now=4, to="dp2")

Knows no words; `other_wires` asks about other kinds of wire.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from wirecut.cost.collectives import collective_price
from wirecut.cost.estimate import Candidate, fit
from wirecut.cost.replica import Pricing
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.link import Link
from wirecut.facts import fact
from wirecut.planner.contest import Contest
from wirecut.planner.field import Field, within
from wirecut.spec.traffic import LEAST, MOST, Traffic
from wirecut.units import DTYPE_BYTES

SPEEDS_PER_DECADE = 5
DECADES = 3  # wires a thousand times slower or faster: from InfiniBand to a home line and back
SPEED_TOLERANCE = 1e-4  # relative
MOST_CONCURRENT = 4096
LOAD_STEP = 2.0
RATE_STEPS = 10
RATE_TOLERANCE = 0.01  # relative
PROMPT_STEP = 4.0
LEAST_PROMPT = 32  # tokens; nobody asks shorter
PROMPT_TOLERANCE = 0.1  # relative

What = Literal[
    "wire speed", "concurrency", "rate", "input tokens", "wire", "wires inside", "wires between"
]
Unit = Literal["bytes/s", "requests", "requests/s", "tokens", "kind"]


@fact
class AllReduce:
    """An all-reduce of `num_bytes` among `devices`: bus bandwidth (2 (n-1)/n x bytes / seconds) as
    it is, and at the flip, in bytes/s.
    """

    devices: tuple[int, ...]
    num_bytes: int
    now: float
    threshold: float


@fact
class Flip:
    """Beyond `threshold`, layout `to` wins; `now` is the value that there is, in the same unit.

    "wire speed": in bytes/s of `wire`, with every wire `factor` times as fast and that one's
    latency `latency_s`; `all_reduce` says it as what a TP group sees. "concurrency": in requests.
    "rate": in requests/s. "input tokens": of a prompt. "wire": were only that kind of wire used.
    "wires inside", "wires between": were the hosts wired, or joined, by that word of a typed
    fabric; `times` is how many times as good the best layout there is as the chosen one here (`to`
    of these three may be the chosen layout).
    """

    what: What
    threshold: float | str
    unit: Unit
    to: str
    wire: str | None = None
    factor: float | None = None
    latency_s: float | None = None
    now: float | str | None = None
    all_reduce: AllReduce | None = None
    times: float | None = None


def speed_flips(field: Field, pricing: Pricing) -> Iterator[Flip]:
    """The nearest slower and the nearest faster wires with which another layout wins."""
    chosen, traffic = field.chosen, field.traffic

    def wins(contest: Contest, factor: float) -> Candidate:
        return contest.winner(traffic, speed=factor)

    for direction in (-1, 1):
        tenths = range(DECADES * SPEEDS_PER_DECADE + 1)
        steps = [10 ** (direction * step / SPEEDS_PER_DECADE) for step in tenths]
        found = field.nearest(steps, wins, within(SPEED_TOLERANCE))
        if found is None:
            continue
        factor, winner = found
        link = used_link(pricing.fabric, chosen) or used_link(pricing.fabric, winner)
        if link is not None:
            yield Flip(
                what="wire speed",
                threshold=link.bytes_per_s * factor,
                unit="bytes/s",
                to=str(winner.cut.layout),
                wire=link.kind,
                factor=factor,
                latency_s=link.latency_s / factor,
                now=link.bytes_per_s,
                all_reduce=_all_reduce(pricing, chosen, winner, traffic, factor),
            )


def _all_reduce(
    pricing: Pricing, chosen: Candidate, winner: Candidate, traffic: Traffic, factor: float
) -> AllReduce | None:
    """What the larger of the two TP groups sees, at the size in which most of its time goes."""
    larger = max(winner, chosen, key=lambda one: one.cut.layout.tp)
    if larger.cut.layout.tp == 1:
        return None
    group, n = larger.replica.stages[0].group, larger.cut.layout.tp
    row = pricing.spec.hidden * DTYPE_BYTES[pricing.dtype]
    running = larger.timing(traffic).running
    chunk = min(traffic.input_tokens, pricing.limits.max_batched_tokens)

    def seconds(rows: int) -> float:
        return collective_price(
            pricing.fabric,
            "all_reduce",
            group,
            rows * row,
            at_once=larger.cut.layout.pp * larger.cut.layout.dp,
            library=pricing.engine.library,
        ).seconds

    decode_s = traffic.output_tokens * seconds(running) / running
    prefill_s = traffic.input_tokens / chunk * seconds(chunk)
    rows = running if decode_s >= prefill_s else chunk
    rate = 2 * (n - 1) / n * rows * row / seconds(rows)
    return AllReduce(group, rows * row, rate, rate * factor)


def is_endless(traffic: Traffic) -> bool:
    """Whether there may be more or less of this load."""
    return not traffic.static_batch and traffic.num_requests is None and traffic.rate != math.inf


def load_flips(field: Field) -> Iterator[Flip]:
    """The nearest lower and the nearest higher concurrency, or rate, at which another layout wins;
    of endless runs only.
    """
    traffic = field.traffic
    if not is_endless(traffic):
        return
    if traffic.rate is None:
        yield from _concurrency_flips(field, traffic.concurrency or 1)
    else:
        yield from _rate_flips(field, traffic.rate)


def _concurrency_flips(field: Field, now: int) -> Iterator[Flip]:
    traffic = field.traffic
    ends = {1, min(MOST_CONCURRENT, 16 * now)} - {now}
    unlike = field.unlike
    field.join(unlike.winner(replace(traffic, concurrency=users)) for users in ends)

    def wins(contest: Contest, users: float) -> Candidate:
        return contest.winner(replace(traffic, concurrency=int(users)))

    down, up = [now], [now]
    while down[-1] > 1:
        down.append(max(1, int(down[-1] / LOAD_STEP)))
    while up[-1] < MOST_CONCURRENT:
        up.append(min(MOST_CONCURRENT, math.ceil(up[-1] * LOAD_STEP)))
    for steps in (down, up):
        if found := field.nearest(steps, wins, within(0.0)):
            yield Flip("concurrency", int(found[0]), "requests", str(found[1].cut.layout), now=now)


def _rate_flips(field: Field, now: float) -> Iterator[Flip]:
    traffic = field.traffic
    ends = (max(LEAST, now / 16), min(MOST, now * 16))
    unlike = field.unlike
    field.join(unlike.winner(replace(traffic, rate=rate)) for rate in ends)

    def wins(contest: Contest, rate: float) -> Candidate:
        return contest.winner(replace(traffic, rate=rate))

    for step in (1 / LOAD_STEP, LOAD_STEP):
        steps = [rate for i in range(RATE_STEPS + 1) if LEAST <= (rate := now * step**i) <= MOST]
        if found := field.nearest(steps, wins, within(RATE_TOLERANCE)):
            yield Flip("rate", found[0], "requests/s", str(found[1].cut.layout), now=now)


def prompt_flips(field: Field, pricing: Pricing) -> Iterator[Flip]:
    """The nearest shorter and the nearest longer prompt with which another of the best layouts
    wins.
    """
    traffic = field.traffic
    now, most = traffic.input_tokens, pricing.spec.max_positions - traffic.output_tokens

    def wins(contest: Contest, tokens: float) -> Candidate:
        load = replace(traffic, input_tokens=int(tokens))
        again = (fit(one.replica, load) for one in contest.candidates)
        works = [one for one in again if isinstance(one, Candidate)]
        return contest.among(works).winner(load) if works else field.chosen

    down, up = [now], [now]
    while down[-1] > LEAST_PROMPT:
        down.append(max(LEAST_PROMPT, int(down[-1] / PROMPT_STEP)))
    while up[-1] < most:
        up.append(min(most, int(up[-1] * PROMPT_STEP)))
    held = field.alone()
    for steps in (down, up):
        if found := held.nearest(steps, wins, within(PROMPT_TOLERANCE)):
            yield Flip("input tokens", int(found[0]), "tokens", str(found[1].cut.layout), now=now)


def used_link(fabric: Fabric, candidate: Candidate) -> Link | None:
    """The wire that a layout leans on: of its first TP group, else between its first stages; None
    when of neither.
    """
    replica = candidate.replica
    if candidate.cut.layout.tp > 1:
        return fabric.slowest_link(replica.stages[0].group)
    return replica.boundaries[0] if replica.boundaries else None
