"""Communication as an object handed in: it counts calls and payload bytes by axis, whatever carries
them.

    tp = Comm(torch_group)         # what carries its collectives
    tp = Comm(shm_group, shm_group)    # where native code may do all-reduces by itself
    tp = Comm(None)                # a group of one: nothing to do or to count

What is counted is what `cost` calls `wire_bytes`: the bytes handed to a collective, once per group,
independent of the algorithm that carries them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from wirecut.machine.halves import Running
from wirecut.machine.mailbox import Mailbox
from wirecut.machine.sockets import TorchGroup


class Transport(Protocol):
    """What carries the collectives of one group."""

    size: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor: ...

    def gather(self, x: torch.Tensor) -> torch.Tensor | None: ...


class NativeGroup(Protocol):
    """A group whose all-reduces native code can do while it runs; see `machine.shm`."""

    def runs(self, num_bytes: int) -> bool: ...

    def run(self, running: Running) -> None: ...


@dataclass(slots=True)
class Count:
    """Calls made and payload bytes handed over."""

    calls: int = 0
    bytes: int = 0

    def add(self, num_bytes: int, *, calls: int = 1) -> None:
        """`calls` of `num_bytes` each."""
        self.calls += calls
        self.bytes += calls * num_bytes

    def reset(self) -> None:
        self.calls = self.bytes = 0


class Comm:
    """The tensor-parallel group as one rank sees it. `native_halves`: halves of layers that native
    code ran, counted whatever the size.
    """

    def __init__(self, transport: Transport | None, native: NativeGroup | None = None) -> None:
        self.size = transport.size if transport else 1
        self.count = Count()
        self.native_halves = 0
        self._transport, self._native = transport, native

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over the group, in place."""
        if self._transport is None:
            return x
        self.count.add(x.nbytes)
        return self._transport.all_reduce(x)

    def runs(self, num_bytes: int) -> bool:
        """Whether native code can do all-reduces of so many bytes by itself."""
        if self._native is None:
            return self.size == 1
        return self._native.runs(num_bytes)

    def run(self, running: Running) -> None:
        """Run native code that does its all-reduces by itself."""
        self.native_halves += len(running)
        if self._native is None:
            running(None)
            return
        self.count.add(running.num_bytes, calls=len(running))
        self._native.run(running)

    def reset(self) -> None:
        """Count from zero."""
        self.count.reset()
        self.native_halves = 0

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        """`x` (rows, columns) of every rank side by side on the first rank; None elsewhere."""
        if self._transport is None:
            return x
        self.count.add(x.nbytes * self.size)
        return self._transport.gather(x)


class HandOff(Protocol):
    """One boundary between two stages: tokens x hidden from every rank before to every rank behind
    it.
    """

    count: Count

    def send(self, x: torch.Tensor) -> None: ...

    def receive(self, out: torch.Tensor) -> torch.Tensor: ...


class Pair(Protocol):
    """This rank and one other: `machine.pipes.Pipe` between CPUs, `TorchPair` between GPUs."""

    def send(self, x: torch.Tensor) -> None: ...

    def receive(self, out: torch.Tensor) -> torch.Tensor: ...


class SharedHandOff:
    """Through shared memory: the first rank before the boundary writes once, every rank behind
    reads.
    """

    def __init__(self, box: Mailbox, tp_rank: int) -> None:
        self.count = Count()
        self._box, self._tp_rank = box, tp_rank

    def send(self, x: torch.Tensor) -> None:
        if self._tp_rank == 0:
            self._box.write(x)
            self.count.add(x.nbytes)

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        return self._box.read(self._tp_rank, out)


class SocketHandOff:
    """Between hosts: each rank sends its part of the rows' bytes once, and those behind put them
    together.

    Crossing bytes are tokens x hidden whatever TP is; the putting together stays inside the
    receiving stage.
    """

    def __init__(self, pair: Pair, together: TorchGroup | None, tp_rank: int, tp: int) -> None:
        self.count = Count()
        self._pair, self._together, self._tp_rank, self._tp = pair, together, tp_rank, tp

    def send(self, x: torch.Tensor) -> None:
        flat = x.reshape(-1)
        share = -(-flat.numel() // self._tp)
        part = flat[self._tp_rank * share : (self._tp_rank + 1) * share]
        padded = torch.nn.functional.pad(part, (0, share - part.numel()))
        self._pair.send(padded)
        if self._tp_rank == 0:
            self.count.add(x.nbytes)

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        share = -(-out.numel() // self._tp)
        part = self._pair.receive(out.new_empty(share))
        whole = part if self._together is None else self._together.all_gather(part)
        out.view(-1).copy_(whole[: out.numel()])
        return out
