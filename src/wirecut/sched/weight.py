"""What a token weighs in a step's budget: the later its position, the more keys it looks at.

weights = Weights(attention_tokens=28_000)
weights.of(start=0, count=2048)          # 2122.8: what a full first chunk weighs
weights.most(start=100_000, weight=2122.8)     # 460: a later chunk takes as long with fewer
"""

from dataclasses import dataclass
from math import inf, sqrt


@dataclass(frozen=True, slots=True)
class Weights:
    """A token at position p weighs 1 + p / `attention_tokens`.

    `attention_tokens` is how many keys a token looks at for as many FLOPs as the rest of its way
    through the model takes; infinity when only tokens count.
    """

    attention_tokens: float = inf

    def of(self, start: int, count: int) -> float:
        """Weight of `count` tokens from position `start` on."""
        return count + count * (2 * start + count - 1) / (2 * self.attention_tokens)

    def most(self, start: int, weight: float) -> int:
        """How many tokens from position `start` on weigh at most `weight`: `of` solved for its
        count.
        """
        if weight <= 0:
            return 0
        linear = 1 + (2 * start - 1) / (2 * self.attention_tokens)
        return int(2 * weight / (linear + sqrt(linear**2 + 2 * weight / self.attention_tokens)))


@dataclass(slots=True)
class Room:
    """What a step may still take: `rows`, and `weight` as `weights` has it."""

    weights: Weights
    rows: int
    weight: float
    empty: bool = True

    def fits(self, start: int) -> bool:
        """Whether there is room for a token at position `start`: any token fits an empty step."""
        return self.rows > 0 and (self.empty or self.weights.most(start, self.weight) > 0)

    def take(self, start: int, most: int) -> int:
        """Take as many tokens from position `start` on as there is room for, at most `most` and at
        least one.
        """
        count = min(most, self.rows, max(1, self.weights.most(start, self.weight)))
        self.rows -= count
        self.weight -= self.weights.of(start, count)
        self.empty = False
        return count
