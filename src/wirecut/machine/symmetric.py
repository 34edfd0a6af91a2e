"""All-reduces between the GPUs of one host through memory that each sees of all (torch's symmetric
memory): one kernel in place of a ring's many steps. What does not fit goes through NCCL.

    group = over(TorchGroup((0, 1)), TorchMemory(), most_bytes=8 * MIB)   # or the same group

Every rank of the group calls it at the same time, and all keep to the same way. A rank that dies
leaves the others in such a kernel, which has no deadline: they end with their process.
"""

import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from wirecut.units import KIB, MIB

DTYPES = (torch.bfloat16, torch.float32)  # the kernels'
ALIGNMENT = 16  # bytes
MOST_SYMMETRIC = 8 * MIB  # assumed: a ring's starts no longer show in longer sums
# Up to here every GPU reads all of the others' at once; beyond, each sums its part for all (vLLM's
# custom all-reduce changes over at 256 to 512 KiB on 4 to 8 GPUs).
ONE_SHOT_BYTES = 256 * KIB


Made = TypeVar("Made")
Summed = Callable[[torch.Tensor], torch.Tensor]


class Group(Protocol):
    """What NCCL does for these ranks: `sockets.TorchGroup`."""

    @property
    def size(self) -> int: ...

    @property
    def rank(self) -> int | None: ...

    @property
    def name(self) -> str: ...

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor: ...

    def all_gather(self, x: torch.Tensor) -> torch.Tensor: ...

    def gather(self, x: torch.Tensor) -> torch.Tensor | None: ...


class SymmetricGroup:
    """A TP group whose sums go through `buffer`, where they fit, summed by `summed`."""

    def __init__(self, group: Group, buffer: torch.Tensor, summed: Summed) -> None:
        self.size, self.rank = group.size, group.rank
        self._group, self._buffer, self._summed = group, buffer, summed
        self.most_bytes = buffer.nbytes

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over the group, in place."""
        if not self.takes(x):
            return self._group.all_reduce(x)
        part = self._buffer[: x.nbytes].view(x.dtype)
        part.copy_(x.view(-1))
        x.view(-1).copy_(self._summed(part))
        return x

    def takes(self, x: torch.Tensor) -> bool:
        """Whether `x` goes through the buffer: the same on every rank, for it has the same shape
        there.
        """
        return (
            x.dtype in DTYPES
            and x.nbytes <= self.most_bytes
            and x.nbytes % ALIGNMENT == 0
            and x.is_contiguous()
        )

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        return self._group.gather(x)


class Memory(Protocol):
    """Memory of `device` that every rank of a group sees."""

    device: torch.device

    def buffer(self, group: Group, num_bytes: int) -> torch.Tensor:
        """This rank's part. Raises RuntimeError where GPUs cannot reach one another."""
        ...

    def meet(self, buffer: torch.Tensor, name: str) -> Summed:
        """Show it to the others of the group `name`; returns what sums a part of it."""
        ...


class TorchMemory:
    """What torch makes on this process's GPU."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    def buffer(self, group: Group, num_bytes: int) -> torch.Tensor:
        from torch.distributed._symmetric_memory import empty

        mine = self.device.index
        for other in group.all_gather(torch.tensor([mine], device=self.device)).tolist():
            if other != mine and not torch.cuda.can_device_access_peer(mine, other):
                raise RuntimeError(f"no peer access between cuda:{mine} and cuda:{other}")
        return empty(num_bytes, dtype=torch.uint8, device=self.device)

    def meet(self, buffer: torch.Tensor, name: str) -> Summed:
        from torch.distributed._symmetric_memory import rendezvous

        in_switch = rendezvous(buffer, name).multicast_ptr != 0

        def summed(part: torch.Tensor) -> torch.Tensor:
            ops = torch.ops.symm_mem
            if in_switch:
                return ops.multimem_all_reduce_(part, "sum", name)
            if part.nbytes <= ONE_SHOT_BYTES:
                return ops.one_shot_all_reduce(part, "sum", name)
            return ops.two_shot_all_reduce_(part, "sum", name)

        return summed


def over(group: Group, memory: Memory, *, most_bytes: int) -> Group | SymmetricGroup:
    """The group with sums of at most `most_bytes` through `memory`; the group itself where any of
    its GPUs cannot, which its rank says, or a trial comes out wrong. Collective.
    """
    num_bytes = most_bytes // ALIGNMENT * ALIGNMENT
    buffer = _on_all(group, memory, lambda: memory.buffer(group, num_bytes))
    if buffer is None:
        return group
    summed = _on_all(group, memory, lambda: memory.meet(buffer, group.name))
    if summed is None:
        return group
    made = SymmetricGroup(group, buffer, summed)
    return _on_all(group, memory, lambda: _tried(made, memory.device)) or group


def _on_all(group: Group, memory: Memory, make: Callable[[], Made]) -> Made | None:
    """What `make` returns, once it has on every rank; None where it fails on one. No rank goes on
    to wait for others that have given up.
    """
    made = None
    try:
        made = make()
    except (RuntimeError, ImportError, AttributeError) as error:
        said = str(error).partition("\n")[0]
        print(f"wirecut: GPUs of a TP group sum through NCCL ({said})", file=sys.stderr)
    failed = torch.full((1,), float(made is None), device=memory.device)
    return made if group.all_reduce(failed).item() == 0 else None


def _tried(made: SymmetricGroup, device: torch.device) -> SymmetricGroup:
    """The same, when sums of a short and a long row of small numbers are exact."""
    assert made.rank is not None
    for num_bytes in (ALIGNMENT, min(2 * ONE_SHOT_BYTES, made.most_bytes)):
        for dtype in DTYPES:
            count_N = torch.arange(num_bytes // dtype.itemsize, device=device) % 8
            x_N = made.all_reduce((count_N + made.rank).to(dtype))
            expected_N = made.size * count_N + made.size * (made.size - 1) // 2
            if not torch.equal(x_N, expected_N.to(dtype)):
                raise RuntimeError("a trial sum through symmetric memory is wrong")
    return made
