"""The check that bytes arrive right: what any rank of a group sees counts, not only the first's."""

import torch

from wirecut.fabric.probing import Job
from wirecut.fabric.timing import check
from wirecut.fabric.transports import Lane


class Wire:
    """Collectives of three ranks as the one at `place` sees them; `broken` elements are wrong."""

    size = 3

    def __init__(self, place: int, broken: int = 0) -> None:
        self.place, self.broken = place, broken

    def _hurt(self, x: torch.Tensor) -> torch.Tensor:
        x.view(-1)[: self.broken] += 1
        return x

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        own = x - self.place
        return self._hurt(x.copy_(own * 3 + 3))

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        own = x - self.place
        return self._hurt(torch.cat([own + i for i in range(3)]))

    def all_to_all(self, x: torch.Tensor) -> torch.Tensor:
        parts = (x - self.place).view(3, -1)
        return self._hurt(torch.cat([parts[self.place] + i for i in range(3)]))


class Echoing:
    """A pair whose other end sends everything back, with `broken` elements wrong."""

    def __init__(self, broken: int = 0) -> None:
        self.broken, self.held = broken, torch.empty(0)

    def send(self, x: torch.Tensor) -> None:
        self.held = x.clone()
        self.held.view(-1)[: self.broken] += 1

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(self.held)


def wrong(op: str, *, place: int, broken: int) -> int:
    job = Job(op, "shm", ((0, 1, 2),), (1024,))
    lane = Lane((0, 1, 2), place, torch.device("cpu"), "test", 5.0, group=Wire(place, broken))
    return check(job, lane)


def test_what_is_right_counts_nothing_and_what_is_wrong_counts_on_every_rank() -> None:
    for op in ("all_reduce", "all_gather", "all_to_all"):
        for place in range(3):
            assert wrong(op, place=place, broken=0) == 0
            assert wrong(op, place=place, broken=5) == 5


def test_a_pair_compares_what_came_back() -> None:
    job = Job("send_recv", "tcp", ((0, 1),), (1024,))
    for broken in (0, 3):
        pair = Echoing(broken)
        assert check(job, Lane((0, 1), 0, torch.device("cpu"), "test", 5.0, pair=pair)) == broken


def test_the_group_adds_up_what_its_ranks_count() -> None:
    class Adding(Wire):
        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            return x + 4  # the others saw four

    lane = Lane((0, 1, 2), 0, torch.device("cpu"), "test", 5.0, group=Adding(0))
    assert lane.total(1) == 5
