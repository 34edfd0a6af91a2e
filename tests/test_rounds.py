"""Replicas that share experts agree on every round, whatever each hears and when."""

import random
import socket
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain

import pytest
import torch

from in_threads import in_threads, shared_groups
from wirecut.engine.rounds import Among, PairsGather, Rounds
from wirecut.errors import RankFailed
from wirecut.machine.pipes import Pipe


@contextmanager
def over_memory(size: int) -> Generator[list[Among]]:
    yield list(shared_groups(size))


@contextmanager
def over_pipes(size: int) -> Generator[list[Among]]:
    """An all-gather over a pair of sockets between each two."""
    ends: list[list[Pipe]] = [[] for _ in range(size)]
    for a in range(size):
        for b in range(a + 1, size):
            for rank, end in zip((a, b), socket.socketpair(), strict=True):
                end.settimeout(20)
                ends[rank].append(Pipe(end, f"pair {a}-{b}"))
    yield [PairsGather(pairs) for pairs in ends]
    for pipe in chain.from_iterable(ends):
        pipe.close()


@pytest.mark.parametrize("wire", [over_memory, over_pipes])
@pytest.mark.parametrize("size", [2, 3])
def test_all_go_on_while_one_has_a_step_and_rest_when_all_have_heard_as_much(
    wire: Callable[[int], AbstractContextManager[list[Among]]], size: int
) -> None:
    """Message i gives one replica some steps and wakes the others, each of which hears it late."""
    draw = random.Random(size)
    messages = [(draw.randrange(size), draw.randrange(4)) for _ in range(12)]
    came_s = [[i * 0.002 + draw.random() * 0.02 for i in range(12)] for _ in range(size)]
    begin = time.monotonic()

    def work(rank: int, among: list[Among]) -> tuple[int, int]:
        rounds, left, heard, ran = Rounds(among[rank]), 0, 0, 0
        while True:
            while heard < 12 and time.monotonic() - begin > max(came_s[rank][: heard + 1]):
                to, steps = messages[heard]
                heard, left = heard + 1, left + steps * (to == rank)
            anyone, alike = rounds.agree(left > 0, heard)
            ran, left = ran + anyone, max(0, left - 1)
            if heard == 12 and alike and not anyone:
                return ran, left

    with wire(size) as among:
        found = in_threads(size, partial(work, among=among))
    assert len(set(found)) == 1
    ran, left = found[0]
    steps = [sum(n for to, n in messages if to == rank) for rank in range(size)]
    assert left == 0
    assert max(steps) <= ran <= sum(steps)


def test_a_replica_with_its_own_experts_asks_nobody() -> None:
    assert Rounds(None).agree(True, 3) == (True, True)
    assert Rounds(None).agree(False, 0) == (False, True)
    assert torch.equal(PairsGather([]).all_gather(torch.tensor([1, 2])), torch.tensor([1, 2]))


def test_a_replica_that_does_not_come_is_named_with_the_round() -> None:
    rounds = [Rounds(group) for group in shared_groups(2, deadline_s=0.2)]
    in_threads(2, lambda rank: rounds[rank].agree(True, 1))
    expected = r"round 2 of the replicas: rank 0 \(test: all-gather number 2\) did not come"
    with pytest.raises(RankFailed, match=expected):
        rounds[1].agree(True, 1)
