"""Messages from one rank to others of its host, through memory that they share.

box = Mailbox(Arena(process.shared), readers=2, slot_bytes=4096, depth=3, crowded=False,
              name="steps")
box.write(b"step 1")              # the writer
box.read_bytes(0)                 # the first of its readers
"""

import torch

from wirecut.errors import RankFailed
from wirecut.machine.shm import DEADLINE_S, Arena, wait_until


class Mailbox:
    """Messages from one writer to `readers` readers of one host, in order, each read by every
    reader.
    """

    def __init__(
        self,
        arena: Arena,
        *,
        readers: int,
        slot_bytes: int,
        depth: int,
        crowded: bool,
        name: str,
    ) -> None:
        self.slot_bytes, self.depth = slot_bytes, depth
        self.deadline_s: float | None = DEADLINE_S
        self._crowded, self._name = crowded, name
        self._head, *self._tails = arena.flags(1 + readers)
        self._lengths = arena.flags(depth)
        self._slots = [arena.data(slot_bytes) for _ in range(depth)]
        self._count = 0

    def write(self, payload: torch.Tensor | bytes) -> None:
        """Post `payload`, at most `slot_bytes`; waits while a reader is `depth` behind."""
        size = len(payload) if isinstance(payload, bytes) else payload.nbytes
        if size > self.slot_bytes:
            raise RankFailed(f"{self._name}: {size} bytes for a slot of {self.slot_bytes}")
        for tail in self._tails:
            if tail[0] < self._count + 1 - self.depth:
                self._wait(tail, self._count + 1 - self.depth, "a reader of")
        slot = self._slots[self._count % self.depth]
        if isinstance(payload, bytes):
            slot[:size] = payload
        else:
            flat = payload.reshape(-1)
            torch.frombuffer(slot, dtype=flat.dtype, count=flat.numel()).copy_(flat)
        self._lengths[self._count % self.depth][0] = size
        self._count += 1
        self._head[0] = self._count

    def read_bytes(self, reader: int) -> bytes:
        """The next message."""
        slot = self._next()
        message = bytes(slot[: self._lengths[self._count % self.depth][0]])
        self._taken(reader)
        return message

    def read(self, reader: int, out: torch.Tensor) -> torch.Tensor:
        """The next message, copied into `out`, which has its size and dtype."""
        slot = self._next()
        length = self._lengths[self._count % self.depth][0]
        if length != out.nbytes:
            raise RankFailed(f"{self._name}: got {length} bytes, expected {out.nbytes}")
        out.view(-1).copy_(torch.frombuffer(slot, dtype=out.dtype, count=out.numel()))
        self._taken(reader)
        return out

    def _next(self) -> memoryview:
        if self._head[0] < self._count + 1:
            self._wait(self._head, self._count + 1, "the writer of")
        return self._slots[self._count % self.depth]

    def _taken(self, reader: int) -> None:
        self._count += 1
        self._tails[reader][0] = self._count

    def _wait(self, flag: memoryview, value: int, role: str) -> None:
        who = f"{role} {self._name} (message {value})"
        wait_until(flag, value, crowded=self._crowded, deadline_s=self.deadline_s, who=who)
