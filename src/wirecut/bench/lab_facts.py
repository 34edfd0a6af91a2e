"""What a lab found: cells of predicted and measured, who won, and where lines cross.

    for race in lab.races():
        print(race.wire, race.users, race.predicted, race.measured, race.agree)

Starts nothing.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TIE = 0.10  # layouts nearer than this are as good as each other


@dataclass(frozen=True, slots=True)
class Spread:
    """What was measured: the median over rounds, and the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Cell:
    """One layout on one wire for one number of users, predicted and measured."""

    wire: str
    layout: str
    users: int
    predicted_tpot_s: float
    predicted_tokens_per_s: float
    predicted_interval: tuple[float, float]  # of tokens per second
    tpot_s: Spread
    tokens_per_s: Spread

    @property
    def tpot_error(self) -> float:
        """Relative: 0.1 is predicted 10 per cent too long."""
        return self.predicted_tpot_s / self.tpot_s.median - 1


@dataclass(frozen=True, slots=True)
class Tried:
    """A wire as its probe measured it between the two ranks."""

    name: str
    kind: str
    shaped_bits_per_s: float | None
    bits_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Race:
    """Which layout was to write most tokens per second over a wire, and which did.

    `lost` is how far the predicted one fell behind the measured one: 0 when they are the same.
    """

    wire: str
    users: int
    predicted: str
    measured: str
    lost: float

    @property
    def agree(self) -> bool:
        """The same layout, or one that is as good."""
        return self.lost <= TIE


@dataclass(frozen=True, slots=True)
class Crossing:
    """The fastest layout is `above` over the wire `fast` and `below` over `slow`, the next slower.

    Their lines cross at `share` of the way from `fast` to `slow`. `bits_per_s` is that place
    between what the two carry (as logarithms); None when they are of different kinds, and bandwidth
    is not all that sets them apart.
    """

    users: int
    above: str
    below: str
    fast: str
    slow: str
    share: float
    bits_per_s: float | None


@dataclass(frozen=True, slots=True)
class Lab:
    """All that was predicted and measured. `wires` are in order of bandwidth, fastest first;
    `left_out` says which layout could not run, and why.
    """

    model: str
    wires: tuple[Tried, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...] = ()

    def at(self, wire: str, users: int) -> list[Cell]:
        """The layouts over one wire for so many users."""
        return [cell for cell in self.cells if (cell.wire, cell.users) == (wire, users)]

    @property
    def users(self) -> tuple[int, ...]:
        return tuple(sorted({cell.users for cell in self.cells}))

    @property
    def layouts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.layout for cell in self.cells))

    def races(self) -> Iterator[Race]:
        """By users, then by wire."""
        for users in self.users:
            for wire in self.wires:
                cells = self.at(wire.name, users)
                guess = max(cells, key=predicted_rate)
                best = max(cells, key=measured_rate)
                lost = best.tokens_per_s.median / guess.tokens_per_s.median - 1
                yield Race(wire.name, users, guess.layout, best.layout, lost)

    def crossings(self, rate: Callable[[Cell], float]) -> Iterator[Crossing]:
        """Where the layout with the highest `rate` changes from a wire to the next slower one."""
        for users in self.users:
            for fast, slow in zip(self.wires, self.wires[1:], strict=False):
                above, below = (
                    {cell.layout: rate(cell) for cell in self.at(wire.name, users)}
                    for wire in (fast, slow)
                )
                if not above or above.keys() != below.keys():
                    continue  # one of them cannot run over both
                first, second = (max(rates, key=rates.__getitem__) for rates in (above, below))
                if first == second:
                    continue
                lead, behind = above[first] - above[second], below[second] - below[first]
                share = lead / (lead + behind) if lead + behind > 0 else 0.5
                alike = fast.kind == slow.kind
                bits = fast.bits_per_s * (slow.bits_per_s / fast.bits_per_s) ** share
                yield Crossing(
                    users, first, second, fast.name, slow.name, share, bits if alike else None
                )


def predicted_rate(cell: Cell) -> float:
    """Tokens per second, for `Lab.crossings`."""
    return cell.predicted_tokens_per_s


def measured_rate(cell: Cell) -> float:
    """Tokens per second, for `Lab.crossings`."""
    return cell.tokens_per_s.median
