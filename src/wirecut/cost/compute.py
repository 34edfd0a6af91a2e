"""How long one device computes: matrix products from measured points or a roofline, attention,
starting operations.

    rate = MatrixRate(device, "bf16")
    rate.seconds(weight_bytes=7_700_000, rows=4, working_set_bytes=7_700_000)
    MatrixRate(device, "bf16", total=2).launch_s(busy=1)  # while the other device is idle

Knows no wires and no layout.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from wirecut.cost.terms import half_width
from wirecut.errors import FabricError
from wirecut.fabric.device import AttentionPoint, MatrixPoint
from wirecut.fabric.fabric import Device, Source
from wirecut.facts import fact
from wirecut.units import DTYPE_BYTES

# A device without numbers of its own for a dtype is taken to be as fast as with the other 16-bit
# one.
STAND_INS = {"fp16": "bf16"}


@fact
class Series:
    """Measured products on one working set: log rows, and log seconds per weight byte, smallest
    rows first.
    """

    log_working_set: float
    log_rows: tuple[float, ...]
    log_seconds_per_byte: tuple[float, ...]

    def at(self, log_rows: float) -> float:
        """Log seconds per byte: straight in logarithms between points, compute-bound (times rows)
        beyond the last.
        """
        if log_rows > self.log_rows[-1]:
            return self.log_seconds_per_byte[-1] + log_rows - self.log_rows[-1]
        return interpolate(self.log_rows, self.log_seconds_per_byte, log_rows)


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Straight between the points (rising xs), the end's value beyond an end."""
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    above = bisect_left(xs, x)
    share = (x - xs[above - 1]) / (xs[above] - xs[above - 1])
    return ys[above - 1] + share * (ys[above] - ys[above - 1])


@dataclass(frozen=True)
class MatrixRate:
    """What one device's matrix products cost in one dtype. Raises FabricError when it has no number
    for the dtype.

    `total` devices, with this one, were busy when it was measured. Where it was measured alone too,
    `busy` of them at work (0: all) cost seconds on the straight line between both.
    """

    device: Device
    dtype: str
    total: int = 1

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """The measured points by working set, smallest first; empty when there are none."""
        by_set = self._by_set(self.device.points)
        return tuple(_series(size, by_set[size]) for size in sorted(by_set))

    def _by_set(self, points: Sequence[MatrixPoint]) -> dict[int, dict[int, float]]:
        """Seconds by working set and rows, in this dtype or in the one that stands in for it."""
        by_set: dict[int, dict[int, float]] = {}
        for name in (self.dtype, STAND_INS.get(self.dtype)):
            for point in points:
                if point.dtype == name:
                    by_set.setdefault(point.weight_bytes, {})[point.rows] = point.seconds
            if by_set:
                break
        return by_set

    @cached_property
    def _alone(self) -> tuple[tuple[float, tuple[float, ...], tuple[float, ...]], ...]:
        """By working set, smallest first: its log, log rows, and log of seconds alone over seconds
        with all busy, at most 0: more is noise.
        """
        busy, alone = self._by_set(self.device.points), self._by_set(self.device.alone)
        found: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = []
        for size in sorted(busy.keys() & alone.keys()):
            rows = sorted(busy[size].keys() & alone[size].keys())
            ratios = (min(0.0, math.log(alone[size][n] / busy[size][n])) for n in rows)
            if rows:
                found.append((math.log(size), tuple(map(math.log, rows)), tuple(ratios)))
        return tuple(found)

    def _idle(self, busy: int) -> float:
        """The share of the other devices that is idle: 0 when all are busy, 1 when none."""
        return (self.total - busy) / (self.total - 1) if 0 < busy < self.total else 0.0

    def _relief(self, log_rows: float, log_working_set: float, busy: int) -> float:
        """What seconds with all busy are multiplied by. The ratio is straight in logarithms between
        the points measured alone, and the nearest one's beyond them.
        """
        idle = self._idle(busy)
        if not idle or not self._alone:
            return 1.0
        sizes = [size for size, _, _ in self._alone]
        values = [interpolate(rows, ratios, log_rows) for _, rows, ratios in self._alone]
        return 1 - idle * (1 - math.exp(interpolate(sizes, values, log_working_set)))

    def launch_s(self, busy: int = 0, *, streamed: float = 0.0) -> float:
        """Time to start one operation while `busy` devices work (0: all), after `streamed` bytes of
        weights: cold when they are the largest working set measured, warm when they fit a cache.
        """
        all_busy = self.device.launch_s
        alone = min(all_busy, self.device.launch_alone_s or all_busy)
        warm = all_busy - self._idle(busy) * (all_busy - alone)
        sizes = [one.log_working_set for one in self.series][-2:]
        if streamed <= 1 or len(sizes) < 2:
            return warm
        colder = max(0.0, self.device.launch_cold_s - all_busy)
        return warm + colder * interpolate(sizes, (0.0, 1.0), math.log(streamed))

    @cached_property
    def flops_per_s(self) -> float:
        """Peak rate in this dtype, or in the one that stands in for it."""
        rates = self.device.flops_per_s
        for name in (self.dtype, STAND_INS.get(self.dtype)):
            if name is not None and name in rates:
                return rates[name]
        known = ", ".join(rates) or "none"
        raise FabricError(
            f"the fabric has no rate of device {self.device.id} in {self.dtype} (it has {known}): "
            f"choose one with --dtype, or probe again"
        )

    @property
    def source(self) -> Source:
        return self.device.source

    @property
    def spread(self) -> float:
        return half_width(self.device.source)

    def seconds(
        self, *, weight_bytes: float, rows: int, working_set_bytes: float, busy: int = 0
    ) -> float:
        """Time to multiply `rows` rows with weights of `weight_bytes`, out of a working set read
        over and over, while `busy` devices work (0: all).

        Measured points where there are any; else the roofline (Williams et al. 2009): the longer of
        reading the weights and of 2 FLOP per weight and row.
        """
        if weight_bytes == 0 or rows == 0:
            return 0.0
        if not self.series:
            flops = 2 * weight_bytes / DTYPE_BYTES[self.dtype] * rows
            return max(weight_bytes / self.device.bytes_per_s, flops / self.flops_per_s)
        log_rows = math.log(rows)
        sizes = [one.log_working_set for one in self.series]
        values = [one.at(log_rows) for one in self.series]
        log_working_set = math.log(working_set_bytes)
        per_byte_s = math.exp(interpolate(sizes, values, log_working_set))
        return weight_bytes * per_byte_s * self._relief(log_rows, log_working_set, busy)

    @cached_property
    def attention_flops_per_s(self) -> float:
        """Rate of a prompt's attention: from two measured ones, whose difference has no call in it;
        else the products' own.
        """
        points = sorted((p for p in self.device.attention if p.queries > 1), key=lambda p: p.keys)
        if len(points) > 1:
            few, many = points[0], points[-1]
            pairs = (_causal_pairs(many) - _causal_pairs(few)) * 4 * many.width
            if many.seconds > few.seconds and pairs > 0:
                return pairs / (many.seconds - few.seconds)
        return self.flops_per_s

    @cached_property
    def kv_bytes_per_s(self) -> float:
        """Rate at which a decode reads its cache: from two measured ones, less their products; else
        the memory's own.
        """
        points = sorted((p for p in self.device.attention if p.queries == 1), key=lambda p: p.keys)
        if len(points) > 1:
            few, many = points[0], points[-1]
            keys = many.keys - few.keys
            seconds = many.seconds - few.seconds
            seconds -= 4 * many.width * keys / self.attention_flops_per_s
            if keys > 0 and seconds > 0:
                return 2 * many.kv_width * DTYPE_BYTES[many.dtype] * keys / seconds
        return self.device.bytes_per_s

    def kv_seconds(self, kv_bytes: float) -> float:
        """Time to read keys and values from the cache."""
        return kv_bytes / self.kv_bytes_per_s


def _causal_pairs(point: AttentionPoint) -> float:
    """Query and key tokens that see each other: a query sees the keys up to its own place."""
    before = point.keys - point.queries
    return point.queries * (before + (point.queries + 1) / 2)


def _series(working_set_bytes: int, seconds_by_rows: dict[int, float]) -> Series:
    rows = sorted(seconds_by_rows)
    per_byte = (math.log(seconds_by_rows[n] / working_set_bytes) for n in rows)
    return Series(math.log(working_set_bytes), tuple(math.log(n) for n in rows), tuple(per_byte))
