"""The same collectives through `torch.distributed`: Gloo over TCP between hosts or over loopback,
NCCL between GPUs.

    join(rank=0, num_ranks=2, host="127.0.0.1", port_box=flag, backend="gloo")
    group = TorchGroup((0, 1))
    group.all_reduce(x)
"""

import os
from collections import deque
from datetime import timedelta

import torch
import torch.distributed as dist

from wirecut.errors import RankFailed
from wirecut.machine.shm import DEADLINE_S, wait_until

SENDS_IN_FLIGHT = 16  # kept alive until done, then the oldest is waited for


def join(
    *, rank: int, num_ranks: int, port_box: memoryview, backend: str, host: str = "127.0.0.1"
) -> None:
    """Join the default process group. Rank 0 opens a store on a free port and posts it in
    `port_box`.
    """
    if host == "127.0.0.1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = timedelta(seconds=DEADLINE_S)
    if rank == 0:
        store = dist.TCPStore(
            host, 0, num_ranks, is_master=True, timeout=timeout, wait_for_workers=False
        )
        port_box[0] = store.port
    else:
        wait_until(port_box, 1, crowded=True, deadline_s=DEADLINE_S, who="rank 0 (its store)")
        store = dist.TCPStore(host, port_box[0], num_ranks, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=timeout)


class TorchGroup:
    """All-reduce, gather, send and receive among `members` (global ranks) through a process group.

    Every rank of the job makes every group, in the same order, as `new_group` asks.
    """

    def __init__(self, members: tuple[int, ...]) -> None:
        self.members, self.size = members, len(members)
        self._group = dist.new_group(list(members), use_local_synchronization=False)
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()
        mine = dist.get_rank()
        self.rank = members.index(mine) if mine in members else None

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over the group, in place."""
        with _naming(self.members, "all-reduce"):
            dist.all_reduce(x, group=self._group)
        return x

    def gather(self, x: torch.Tensor) -> torch.Tensor | None:
        """`x` (rows, columns) of every rank side by side, on the group's first rank; None
        elsewhere.
        """
        parts = [torch.empty_like(x) for _ in self.members] if self.rank == 0 else None
        with _naming(self.members, "logits gather"):
            dist.gather(x, parts, dst=self.members[0], group=self._group)
        return None if parts is None else torch.cat(parts, dim=1)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of every rank, one after the other along the first dim, on every rank."""
        out = x.new_empty(self.size * x.shape[0], *x.shape[1:])
        with _naming(self.members, "all-gather"):
            dist.all_gather(list(out.chunk(self.size)), x, group=self._group)
        return out

    def send(self, x: torch.Tensor, to: int) -> None:
        """Send to the group's rank `to`. `x` must not change afterwards.

        Returns before it is received: two ranks that wait to send to each other would never meet.
        """
        with _naming((self.members[to],), "send"):
            if len(self._sent) >= SENDS_IN_FLIGHT:
                self._sent.popleft()[0].wait()
            work = dist.isend(x, self.members[to], group=self._group)
            assert work is not None
            self._sent.append((work, x))

    def receive(self, out: torch.Tensor, source: int) -> torch.Tensor:
        """Receive into `out` from the group's rank `source`."""
        with _naming((self.members[source],), "receive"):
            dist.recv(out, self.members[source], group=self._group)
        return out


class _naming:
    """Turns a transport's error into one that names the ranks and the collective."""

    def __init__(self, members: tuple[int, ...], what: str) -> None:
        self._members, self._what = members, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            ranks = ", ".join(map(str, self._members))
            raise RankFailed(f"{self._what} with ranks {ranks} failed: {error}") from error
