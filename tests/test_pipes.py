"""Pipes between ranks: what is sent arrives in order and whole, whoever sends first."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
import torch

from wirecut.errors import RankFailed
from wirecut.machine.pipes import Pipe, Pipes

LARGE = 8 << 20  # more than a kernel takes at once


class Board:
    """The store's place: what one thread tells, another hears."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, int], bytes] = {}
        self.changed = threading.Condition()


class FakeLine:
    def __init__(self, board: Board, rank: int) -> None:
        self.rank, self.names, self._board = rank, ["rank 0", "rank 1", "rank 2"], board

    def tell(self, what: str, content: bytes) -> None:
        with self._board.changed:
            self._board.said[what, self.rank] = content
            self._board.changed.notify_all()

    def hear(self, what: str, rank: int, timeout_s: float) -> bytes:
        with self._board.changed:
            assert self._board.changed.wait_for(lambda: (what, rank) in self._board.said, 10)
            return self._board.said[what, rank]


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    a, b = socket.socketpair()
    for each in (a, b):
        each.settimeout(5)
    yield Pipe(a, "test"), Pipe(b, "test")
    a.close()
    b.close()


def test_tensors_and_messages_arrive_in_order(ends: tuple[Pipe, Pipe]) -> None:
    here, there = ends
    x = torch.randn(3, 5).bfloat16()
    here.send(x)
    here.send_message(b"hello")
    here.send_message(b"")
    assert torch.equal(there.receive(torch.empty_like(x)), x)
    assert (there.receive_message(), there.receive_message()) == (b"hello", b"")


def test_both_send_more_than_the_kernel_takes_before_either_receives(
    ends: tuple[Pipe, Pipe],
) -> None:
    messages = [[os.urandom(LARGE), os.urandom(10), os.urandom(LARGE)] for _ in ends]
    for pipe, mine in zip(ends, messages, strict=True):
        for message in mine:
            pipe.send_message(message)
    for pipe, theirs in zip(ends, reversed(messages), strict=True):
        assert [pipe.receive_message() for _ in theirs] == theirs


def test_a_peer_that_is_gone_or_silent_is_told() -> None:
    a, b = socket.socketpair()
    a.settimeout(0.2)
    pipe = Pipe(a, "hand-off with rank 1")
    with pytest.raises(RankFailed, match=r"receive, hand-off with rank 1: nothing within 0 s"):
        pipe.receive(torch.empty(4))
    b.close()
    with pytest.raises(RankFailed, match="hand-off with rank 1: the other end is gone"):
        pipe.receive(torch.empty(4))
    a.close()


def test_three_ranks_open_pipes_and_a_stranger_is_turned_away() -> None:
    board, opened = Board(), {}

    def rank(number: int) -> None:
        pipes = Pipes(FakeLine(board, number), address="127.0.0.1")
        if number == 2:
            host, port = board.said["pipe", 2].decode().split(":")
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"x" * 64)
        for peer in (0, 1, 2):
            if peer != number:
                opened[number, peer] = pipes.open(peer, "steps")
        pipes.close()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for (number, peer), pipe in opened.items():
        pipe.send_message(f"{number} to {peer}".encode())
    for (number, peer), pipe in opened.items():
        assert pipe.receive_message() == f"{peer} to {number}".encode()
    for pipe in opened.values():
        pipe.close()
