"""The rank grid: how many ranks lie along each axis, and which ranks form a group.

Knows no model and no device.

    layout = parse_layout("tp2pp2")
    layout.groups("pp")       # [(0, 2), (1, 3)]
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from wirecut.errors import LayoutError

Axis = Literal["dp", "pp", "tp"]
AXES: tuple[Axis, ...] = ("dp", "pp", "tp")  # slowest to fastest varying
MOST_RANKS = 1_000_000


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """Degrees of parallelism. Ranks run over dp x pp x tp, the last fastest.

    `ep` regroups the dp x tp ranks of a stage for expert layers.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "ep"):
            degree = getattr(self, name)
            if not isinstance(degree, int) or isinstance(degree, bool) or degree < 1:
                raise LayoutError(f"{name} is {degree!r}, expected a whole number of at least 1")
        if self.world_size > MOST_RANKS:
            raise LayoutError(f"layout {self} has {self.world_size} ranks, more than {MOST_RANKS}")
        if (self.dp * self.tp) % self.ep:
            raise LayoutError(
                f"ep {self.ep} does not divide dp x tp = {self.dp * self.tp}, the ranks of a stage"
            )

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def replica_size(self) -> int:
        """Ranks that together hold one copy of the model."""
        return self.tp * self.pp

    @property
    def shares_experts(self) -> bool:
        """Whether replicas share a model's experts: tokens then travel to them, in step."""
        return self.ep > 1 and self.dp > 1

    def stage_ranks(self, stage: int) -> tuple[int, ...]:
        """The dp x tp ranks of a stage over all replicas: those that experts are dealt to."""
        starts = (self.rank(dp=replica, pp=stage) for replica in range(self.dp))
        return tuple(start + i for start in starts for i in range(self.tp))

    def coord(self, rank: int) -> dict[Axis, int]:
        """Position of `rank` along each axis."""
        sizes: dict[Axis, int] = {"dp": self.dp, "pp": self.pp, "tp": self.tp}
        found: dict[Axis, int] = {}
        for axis in reversed(AXES):
            rank, found[axis] = divmod(rank, sizes[axis])
        return found

    def rank(self, *, dp: int = 0, pp: int = 0, tp: int = 0) -> int:
        """The rank at a position; the inverse of `coord`."""
        return (dp * self.pp + pp) * self.tp + tp

    def groups(self, axis: Axis) -> list[tuple[int, ...]]:
        """Ranks that differ only along `axis`, a tuple per group, each in that axis's order."""
        step = math.prod(getattr(self, faster) for faster in AXES[AXES.index(axis) + 1 :])
        size = getattr(self, axis)
        starts = [rank for rank in range(self.world_size) if self.coord(rank)[axis] == 0]
        return [tuple(start + i * step for i in range(size)) for start in starts]

    def __str__(self) -> str:
        parts = [
            f"{name}{getattr(self, name)}"
            for name in ("tp", "pp", "dp", "ep")
            if getattr(self, name) > 1
        ]
        return "".join(parts) or "tp1"


def parse_layout(text: str) -> Layout:
    """'tp4pp2' -> Layout(tp=4, pp=2); a missing degree is 1. Raises LayoutError."""
    degrees: dict[str, int] = {}
    rest = text.strip().lower()
    for name, digits in re.findall(r"(tp|pp|dp|ep)([0-9]{1,9})", rest):
        if name in degrees:
            raise LayoutError(f"layout {text!r} gives {name} twice")
        degrees[name] = int(digits)
    if (
        not degrees
        or "".join(f"{n}{d}" for n, d in re.findall(r"(tp|pp|dp|ep)([0-9]{1,9})", rest)) != rest
    ):
        raise LayoutError(
            f"layout {text!r} is not understood: write tp4, tp4pp2 or tp2pp2dp2; "
            "a missing degree is 1"
        )
    return Layout(**degrees)
