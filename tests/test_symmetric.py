"""Sums through symmetric memory without a GPU: threads whose buffers lie in one process."""

import pytest
import torch

from in_threads import in_threads
from inprocess import Meeting, ThreadGroup
from wirecut.engine.wired import Wired, sums_in_one_host
from wirecut.layout.layout import Layout
from wirecut.machine.symmetric import Group, Summed, SymmetricGroup, over

SIZE, MOST = 3, 1024 + 7
BF16 = torch.bfloat16


class Nccl(ThreadGroup):
    """What carries the rest; it counts its calls."""

    name = "tp"

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__(meeting, rank)
        self.calls = 0

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().all_reduce(x)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchange(x))


class ThreadMemory:
    """`reaches`: whether this rank's memory is seen by the others. Sums come out `off` by this."""

    def __init__(self, meeting: Meeting, rank: int, *, reaches: bool = True, off: int = 0) -> None:
        self.device, self._reaches, self._off = torch.device("cpu"), reaches, off
        self._group, self.met = ThreadGroup(meeting, rank), ""

    def buffer(self, group: Group, num_bytes: int) -> torch.Tensor:
        if not self._reaches:
            raise RuntimeError("no peer access between cuda:0 and cuda:1\nmore")
        return torch.full((num_bytes,), 255, dtype=torch.uint8)

    def meet(self, buffer: torch.Tensor, name: str) -> Summed:
        self.met = name
        return lambda part: self._group.all_reduce(part) + self._off


def sums(
    *rows: torch.Tensor, unseen: int | None = None, off: int = 0
) -> list[tuple[Nccl, Group | SymmetricGroup, ThreadMemory, list[torch.Tensor]]]:
    """By rank, what it has, and the sums of rows to which each adds its number."""
    nccl, beside = Meeting(SIZE), Meeting(SIZE)

    def of(rank: int) -> tuple[Nccl, Group | SymmetricGroup, ThreadMemory, list[torch.Tensor]]:
        group = Nccl(nccl, rank)
        memory = ThreadMemory(beside, rank, reaches=rank != unseen, off=off)
        made = over(group, memory, most_bytes=MOST)
        group.calls = 0
        return group, made, memory, [made.all_reduce(row + rank) for row in rows]

    return in_threads(SIZE, of)


def test_what_fits_goes_through_it() -> None:
    """By bytes, dtype and whole 16 bytes; sums are the same either way."""
    fit = [torch.arange(256.0).view(4, 64), torch.arange(512).to(BF16) % 16]
    too_long, halves, odd = torch.ones(257), torch.ones(8, dtype=torch.float16), torch.ones(3)
    rows = [*fit, too_long, halves, odd]
    for group, made, memory, found in sums(*rows):
        assert isinstance(made, SymmetricGroup)
        assert made.most_bytes == 1024
        assert memory.met == "tp"
        assert group.calls == 3
        assert (made.size, made.rank) == (SIZE, group.rank)
        for row, one in zip(rows, found, strict=True):
            assert one.shape == row.shape
            assert torch.equal(one, (SIZE * row.float() + 3).to(row.dtype))


def test_one_rank_without_it_leaves_all_to_nccl(capfd: pytest.CaptureFixture[str]) -> None:
    """That rank says why; no other waits for it to meet."""
    for group, made, memory, found in sums(torch.ones(4), unseen=1):
        assert made is group
        assert memory.met == ""
        assert group.calls == 1
        assert found[0].equal(torch.full((4,), 6.0))
    why = "no peer access between cuda:0 and cuda:1"
    assert capfd.readouterr().err == f"wirecut: GPUs of a TP group sum through NCCL ({why})\n"


def test_a_wrong_trial_leaves_all_to_nccl(capfd: pytest.CaptureFixture[str]) -> None:
    for group, made, _, found in sums(torch.ones(4), off=1):
        assert made is group
        assert found[0].equal(torch.full((4,), 6.0))
    assert "a trial sum through symmetric memory is wrong" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kind", "neighbours", "inside"),
    [("nccl", (0, 1), True), ("nccl", (0,), False), ("shm", (0, 1), False)],
)
def test_it_is_for_gpus_of_one_host(kind: str, neighbours: tuple[int, ...], inside: bool) -> None:
    wired = Wired([kind, kind], ["tcp", "tcp"], gpus=True)
    assert sums_in_one_host(Layout(tp=2, dp=2), wired, 0, neighbours) is inside
