"""The same collectives through `torch.distributed`: Gloo over TCP between hosts or over loopback,
NCCL between GPUs.

    store = meet(rank=0, num_ranks=2, port_box=flag, master=None)
    join(store, rank=0, num_ranks=2, backend="gloo")
    group = TorchGroup((0, 1))
    group.all_reduce(x)
"""

import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from wirecut.errors import RankFailed
from wirecut.machine.echo import Address, Echo, silent
from wirecut.machine.nic import address_towards, interface_of
from wirecut.machine.shm import DEADLINE_S, wait_until
from wirecut.machine.world import MEET_S

SENDS_IN_FLIGHT = 16  # kept alive until done, then the oldest is waited for
ANSWER_S = 3.0  # what a peer gets to send back a few packets
ENDED = (os.strerror(errno.ECONNREFUSED), os.strerror(errno.ECONNRESET))
LOOK_S = 4.0  # waited for others so long, a rank looks whether the wires are to blame


def meet(*, rank: int, num_ranks: int, port_box: memoryview, master: Address | None) -> dist.Store:
    """The store that all ranks of the job share. Raises RankFailed.

    With a `master`, it is where that says (torchrun's own agent keeps one there); else rank 0 opens
    one on a free port of loopback and posts it in `port_box`, which lies in shared memory.
    """
    if master is not None:
        return _meet_at(master, rank, num_ranks)
    _speak_through("lo")
    timeout = timedelta(seconds=DEADLINE_S)
    if rank == 0:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            store = dist.TCPStore(
                "127.0.0.1",
                listener.getsockname()[1],
                num_ranks,
                is_master=True,
                timeout=timeout,
                wait_for_workers=False,
                master_listen_fd=os.dup(listener.fileno()),  # else it listens on every interface
            )
        port_box[0] = store.port
        return store
    wait_until(port_box, 1, crowded=True, deadline_s=DEADLINE_S, who="rank 0 (its store)")
    return dist.TCPStore("127.0.0.1", port_box[0], num_ranks, is_master=False, timeout=timeout)


def _meet_at(master: Address, rank: int, num_ranks: int) -> dist.Store:
    """The launcher's store; sockets then use the interface that leads to it."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = master[0], str(master[1])
    timeout = timedelta(seconds=MEET_S)
    try:
        if interface := interface_of(address_towards(master[0])):
            _speak_through(interface)
        store, _, _ = next(rendezvous("env://", rank, num_ranks, timeout=timeout))
    except (OSError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        raise RankFailed(
            f"rank {rank} cannot reach the store of rank 0 at {master[0]}:{master[1]} within "
            f"{MEET_S:.0f} s ({said}): is MASTER_ADDR right, and the port open?"
        ) from error
    return dist.PrefixStore("wirecut", store)


def _speak_through(interface: str) -> None:
    """Which network interface carries collectives, unless a person has said it."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if interface != "lo":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def join(
    store: dist.Store, *, rank: int, num_ranks: int, backend: str, timeout_s: float = DEADLINE_S
) -> None:
    """Make the default process group: every rank's first collective may then be made."""
    timeout = timedelta(seconds=timeout_s)
    with _naming(tuple(range(num_ranks)), "joining"):
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=num_ranks, timeout=timeout
        )


class WireCut(RankFailed):
    """Nothing comes through between pairs of ranks, which the message names."""

    def __init__(self, broken: Sequence[str]) -> None:
        super().__init__(
            f"nothing comes through {'; '.join(broken)}. Look at the cable, the switch and the "
            "firewall between them, and at which interface GLOO_SOCKET_IFNAME names"
        )


class StoreGone(RankFailed):
    """The store that the ranks meet at does not answer any more."""

    def __init__(self, error: Exception) -> None:
        said = str(error).partition("\n")[0]
        super().__init__(f"rank 0's store is gone: did its host end? ({said})")


class Line:
    """What ranks tell one another through the store, each by its number. `names` says who each is
    ("rank 2 (host b)").
    """

    def __init__(self, store: dist.Store, names: list[str], rank: int) -> None:
        self.names, self.rank = names, rank
        self._store = store

    def tell(self, what: str, content: bytes) -> None:
        self._store.set(f"{what}/{self.rank}", content)

    def hear(self, what: str, rank: int, timeout_s: float) -> bytes:
        """What one rank told. Raises RankFailed that names it when it does not come."""
        end = time.monotonic() + timeout_s
        while not self.told_within(what, [rank], 1.0):
            if time.monotonic() > end:
                raise RankFailed(
                    f"{self.names[rank]} said nothing within {timeout_s:.0f} s ({what})"
                )
        return self._store.get(f"{what}/{rank}")

    def hear_all(self, what: str, timeout_s: float) -> list[bytes]:
        """What every rank told, by rank. Raises RankFailed that names the first that is missing."""
        return [self.hear(what, rank, timeout_s) for rank in range(len(self.names))]

    def all_tell(self, what: str, content: bytes, timeout_s: float) -> list[bytes]:
        """Tell, and hear what all told. Collective."""
        self.tell(what, content)
        return self.hear_all(what, timeout_s)

    def fail(self, reason: str) -> None:
        """Let ranks that wait for this one know why they wait in vain."""
        with contextlib.suppress(RuntimeError):
            self._store.set("failed", reason)

    def others_reason(self, wait_s: float) -> str | None:
        """Why another rank has given up, if one says so in time."""
        try:
            self._store.wait(["failed"], timedelta(seconds=wait_s))
            return self._store.get("failed").decode()
        except RuntimeError:
            return None

    def told_within(self, what: str, ranks: Sequence[int], timeout_s: float) -> bool:
        """Whether all of `ranks` tell this in time. Raises RankFailed when one has failed."""
        try:
            self._store.wait([f"{what}/{rank}" for rank in ranks], timedelta(seconds=timeout_s))
            return True
        except dist.DistStoreError:
            pass  # not yet
        except RuntimeError as error:
            raise StoreGone(error) from error
        try:
            reason = self._store.get("failed") if self._store.check(["failed"]) else None
        except RuntimeError as error:
            raise StoreGone(error) from error
        if reason is not None:
            raise RankFailed(reason.decode())
        return False


class Watch:
    """Names the wire when something hangs: the first rank of every host answers pings, and every
    rank can ask them.
    """

    def __init__(self, line: Line, first_of: Sequence[int], *, address: str) -> None:
        """`first_of[rank]` is the first rank of that rank's host. Collective."""
        self.line, self._first_of = line, first_of
        firsts = sorted(set(first_of))
        if line.rank in firsts:
            self._echo = Echo(address)
            line.tell("echo", f"{address}:{self._echo.address[1]}".encode())
        self._addresses = {first: _address(line.hear("echo", first, MEET_S)) for first in firsts}

    def check(self) -> None:
        """Ask the hosts behind this one, and hear what the others found. Raises RankFailed naming
        every pair that nothing comes through. Collective.
        """
        firsts, rank = list(self._addresses), self.line.rank
        behind = [first for first in firsts if rank in firsts and first > rank]
        mine = "\n".join(self.broken(behind)).encode()
        said = self.line.all_tell("broken", mine, 3 * ANSWER_S)
        if broken := [line for each in said for line in each.decode().splitlines()]:
            raise WireCut(broken)

    def broken(self, peers: Sequence[int]) -> list[str]:
        """A line for each of `peers` (one of each host) whose host does not answer this rank."""
        mine, names = self.line.rank, self.line.names
        asked = {self._first_of[peer]: peer for peer in peers}
        asked.pop(self._first_of[mine], None)
        wanted = {first: self._addresses[first] for first in asked}
        return [
            f"between {names[mine]} and {names[asked[first]]}: {reason}"
            for first, reason in silent(wanted, wait_s=ANSWER_S).items()
            if reason not in ENDED  # the wire carried that: its rank is gone
        ]

    def wait_for_hosts(self, what: str, *, patience_s: float) -> None:
        """Return once the first rank of every host has told `what`; see whether the wires are to
        blame when that takes long. Raises RankFailed.
        """
        firsts = list(self._addresses)
        self.line.tell(what, b"")
        end, next_look = time.monotonic() + patience_s, time.monotonic() + LOOK_S
        while not self._came(what, firsts):
            now = time.monotonic()
            if now > end:
                raise RankFailed(f"not every host came to {what} within {patience_s:.0f} s")
            if now > next_look:
                next_look = now + LOOK_S
                if broken := self.broken(firsts):
                    raise WireCut(broken)

    def _came(self, what: str, firsts: Sequence[int]) -> bool:
        """Whether all have told it. A store out of reach is told by its wire, when that is cut."""
        try:
            return self.line.told_within(what, firsts, 1.0)
        except StoreGone:
            if broken := self.broken(firsts):
                raise WireCut(broken) from None
            raise


def _address(text: bytes) -> Address:
    host, _, port = text.decode().rpartition(":")
    return host, int(port)


class TorchGroup:
    """All-reduce, gather, send and receive among `members` (global ranks) through a process group.

    Every rank of the job makes every group, in the same order, as `new_group` asks.
    """

    def __init__(self, members: tuple[int, ...], *, timeout_s: float = DEADLINE_S) -> None:
        self.members, self.size = members, len(members)
        with _naming(members, "joining"):
            self._group = dist.new_group(
                list(members),
                timeout=timedelta(seconds=timeout_s),
                use_local_synchronization=False,
            )
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()
        mine = dist.get_rank()
        self.rank = members.index(mine) if mine in members else None

    @property
    def name(self) -> str:
        """What torch calls it."""
        assert isinstance(self._group, dist.ProcessGroup)
        return self._group.group_name

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

    def all_to_all(self, x: torch.Tensor) -> torch.Tensor:
        """Part i of `x` (equal parts along the first dim) goes to rank i; theirs come back, by
        rank.
        """
        out = torch.empty_like(x)
        with _naming(self.members, "all-to-all"):
            dist.all_to_all_single(out, x, group=self._group)
        return out

    def all_to_all_rows(
        self, x: torch.Tensor, counts: Sequence[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """`counts[i]` rows of `x`, in order, go to rank i; theirs come back, by rank, and how many
        each sent.
        """
        theirs = self.all_to_all(torch.tensor(counts, device=x.device)).tolist()
        out = x.new_empty(sum(theirs), *x.shape[1:])
        with _naming(self.members, "all-to-all"):
            dist.all_to_all_single(out, x, theirs, list(counts), group=self._group)
        return out, theirs

    def barrier(self) -> None:
        """Return once every member has come here."""
        self.all_reduce(torch.zeros(1))

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


class TorchPair:
    """Send and receive between this rank and one other, through a group of the two: what carries a
    GPU's tensors, and `pipes.Pipe` a CPU's.
    """

    def __init__(self, group: TorchGroup) -> None:
        assert group.rank is not None
        self._group, self._other = group, 1 - group.rank

    def send(self, x: torch.Tensor) -> None:
        self._group.send(x, to=self._other)

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        return self._group.receive(out, source=self._other)


class _naming:
    """Turns a transport's error into one that names the ranks and the collective."""

    def __init__(self, members: tuple[int, ...], what: str) -> None:
        self._members, self._what = members, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            ranks = ", ".join(map(str, self._members))
            raise RankFailed(f"{self._what} with ranks {ranks} failed: {error}") from error
