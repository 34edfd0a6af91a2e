"""Replicas that share experts step together: their leaders agree on every round.

    rounds = Rounds(among)                    # None: a replica that has its experts to itself
    anyone, alike = rounds.agree(step is not None, messages_heard)

In a round every replica runs a step, an empty one where it has nothing to do, since the others
exchange tokens with its ranks. The front tells something to every leader whenever it tells one, so
when no leader has a step and all have heard as much, all of them may wait for the next message.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from wirecut.engine.comm import Pair
from wirecut.errors import during


class Among(Protocol):
    """What carries a few numbers among the leaders."""

    def all_gather(self, x: torch.Tensor) -> torch.Tensor: ...


class Rounds:
    """One replica's part in the agreement."""

    def __init__(self, among: Among | None) -> None:
        self._among = among
        self._count = 0

    def agree(self, has_step: bool, heard: int) -> tuple[bool, bool]:
        """Whether any replica has a step, and whether all have heard as many messages."""
        if self._among is None:
            return has_step, True
        self._count += 1
        with during(f"round {self._count} of the replicas"):
            said = self._among.all_gather(torch.tensor([has_step, heard])).view(-1, 2)
        return bool(said[:, 0].any()), bool((said[:, 1] == heard).all())


class PairsGather:
    """An all-gather of a few numbers over a pair to each of the others."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        for pair in self._pairs:
            pair.send(x)
        return torch.cat([x, *(pair.receive(torch.empty_like(x)) for pair in self._pairs)])
