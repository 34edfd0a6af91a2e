"""Covering arrays: few rows that hold every combination of `strength` factors that any row holds.

covering(rows, strength=2)      # of all possible rows; greedy, the same each time
"""

from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations

Row = tuple[Hashable, ...]


def combined(row: Row, strength: int) -> Iterator[tuple[tuple[int, Hashable], ...]]:
    """The combinations that a row holds, as (factor, level)s."""
    return combinations(enumerate(row), strength)


def covering(rows: Sequence[Row], *, strength: int) -> list[Row]:
    """Of `rows`, again and again the one with most combinations that none chosen has; of equals
    the first.
    """
    new = {i: set(combined(row, strength)) for i, row in enumerate(rows)}
    chosen: list[Row] = []
    while new:
        best = max(new, key=lambda i: len(new[i]))
        chosen.append(rows[best])
        held = new[best].copy()
        new = {i: left - held for i, left in new.items() if left - held}
    return chosen
