"""What carries a probe's jobs: the engine's own transports, made anew for each job from one piece
of shared memory, or from process groups that are kept.

    lane = transports.lane(job)         # None for a rank that has no part in the job
    lane.group.all_reduce(x)
"""

import time
from dataclasses import dataclass
from typing import Protocol

import torch

from wirecut.errors import RankFailed
from wirecut.fabric.probing import Job
from wirecut.machine.host import RankProcess
from wirecut.machine.mailbox import Mailbox
from wirecut.machine.pipes import Pipe, Pipes
from wirecut.machine.shm import Arena, ShmGroup
from wirecut.machine.sockets import TorchGroup, TorchPair, Watch, WireCut
from wirecut.units import MIB

SLOT_BYTES = 8 * MIB  # as the engine's largest: longer messages go in pieces
MAILBOX_DEPTH = 2


class Group(Protocol):
    """The collectives that are timed."""

    size: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor: ...

    def all_gather(self, x: torch.Tensor) -> torch.Tensor: ...

    def all_to_all(self, x: torch.Tensor) -> torch.Tensor: ...


class Pair(Protocol):
    """This rank and one other, messages in order both ways."""

    def send(self, x: torch.Tensor) -> None: ...

    def receive(self, out: torch.Tensor) -> torch.Tensor: ...


class BoxPair:
    """Through shared memory: a mailbox each way, long messages in pieces."""

    def __init__(self, out: Mailbox, into: Mailbox) -> None:
        self._out, self._into = out, into

    def send(self, x: torch.Tensor) -> None:
        for piece in x.split(SLOT_BYTES // x.itemsize):
            self._out.write(piece)

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        for piece in out.split(SLOT_BYTES // out.itemsize):
            self._into.read(0, piece)
        return out


@dataclass(frozen=True)
class Lane:
    """One group of a job as one of its ranks sees it: `place` is this rank's in the group, `name`
    says what it does. `group` does collectives, `pair` sends; a job needs one of them.
    """

    members: tuple[int, ...]
    place: int
    device: torch.device
    name: str
    timeout_s: float
    group: Group | None = None
    pair: Pair | None = None

    def agree(self, value: float) -> float:
        """What the first of the group says, on all of them."""
        said = torch.tensor([value if self.place == 0 else 0.0], dtype=torch.float64)
        if self.pair is None:
            assert self.group is not None
            return float(self.group.all_reduce(said))
        said = said.to(self.device)
        if self.place == 0:
            self.pair.send(said)
        else:
            self.pair.receive(said)
        return float(said)

    def total(self, value: int) -> int:
        """The sum of what all of the group say."""
        if self.group is None:
            return value  # of a pair the first has seen both ways
        return int(self.group.all_reduce(torch.tensor([float(value)], dtype=torch.float64)))

    def there_and_back(self, x: torch.Tensor) -> None:
        """The first of a pair sends `x` and receives it again."""
        assert self.pair is not None
        if self.place == 0:
            self.pair.send(x)
            self.pair.receive(x)
        else:
            self.pair.receive(x)
            self.pair.send(x)

    def sync(self) -> None:
        """Wait for what was started: a GPU's calls return before it is done. Raises RankFailed
        when it hangs, long before NCCL would end the process without a word.
        """
        if self.device.type != "cuda":
            return
        done, end = torch.cuda.Event(), time.monotonic() + self.timeout_s
        done.record()
        while not done.query():
            if time.monotonic() > end:
                raise RankFailed(
                    f"{self.name} did not finish within {self.timeout_s:.0f} s: nothing moves "
                    f"between devices {', '.join(map(str, self.members))}. If peer-to-peer copies "
                    "are to blame (IOMMU, ACS), NCCL_P2P_DISABLE=1 goes through host memory"
                )


class Everyone:
    """All ranks of the probe: they begin each job together."""

    def __init__(self, arena: Arena, process: RankProcess, *, patience_s: float) -> None:
        self.port = arena.flags(1)[0]
        neighbours = process.neighbours
        self.is_first = process.rank == neighbours[0]
        self.local = ShmGroup(
            arena,
            size=len(neighbours),
            rank=neighbours.index(process.rank),
            slot_bytes=64,
            crowded=process.crowded,
            name="probe",
            members=neighbours,
            deadline_s=2 * patience_s,  # the first of them names the wire before
        )
        self._watch: Watch | None = None
        self._patience_s, self._count = patience_s, 0

    @staticmethod
    def bytes_for(neighbours: int) -> int:
        """Shared memory that it takes."""
        arena = Arena(None)
        arena.flags(1)
        ShmGroup(arena, size=neighbours, rank=0, slot_bytes=64, crowded=False, name="probe")
        return arena.used

    def connect(self, watch: Watch) -> None:
        """From now on wait for the ranks of other hosts too."""
        self._watch = watch

    def look(self, members: tuple[int, ...]) -> None:
        """See that bytes come through to `members` before sockets are opened to them: opening them
        over a cut wire takes half a minute to fail. Raises RankFailed.
        """
        watch = self._watch
        if watch and watch.line.rank in members and (broken := watch.broken(members)):
            raise WireCut(broken)

    def barrier(self) -> None:
        """Return once every rank has come here."""
        self.local.barrier()
        if self._watch is not None:
            self._count += 1
            if self.is_first:
                self._watch.wait_for_hosts(f"step {self._count}", patience_s=self._patience_s)
            self.local.barrier()


def scratch_bytes(neighbours: int) -> int:
    """Shared memory that the largest job on a host of so many ranks takes."""
    slots = 2 * neighbours + 2 * MAILBOX_DEPTH * (neighbours // 2 + 1)
    return slots * SLOT_BYTES + MIB


class Transports:
    """Makes the lanes of each job. Every rank asks for every job, in the same order."""

    def __init__(
        self,
        arena: Arena,
        process: RankProcess,
        everyone: Everyone,
        pipes: Pipes,
        *,
        device: torch.device,
        timeout_s: float,
    ) -> None:
        self._process, self._everyone, self._device = process, everyone, device
        self.barrier = everyone.barrier
        self._timeout_s = timeout_s
        # NCCL's own deadline ends the process: `Lane.sync` sees a hang first, and names it.
        self._group_timeout_s = timeout_s if device.type == "cpu" else 12 * timeout_s
        self._scratch = arena.data(scratch_bytes(len(process.neighbours)))
        self._pipes = pipes
        self._groups: dict[tuple[int, ...], TorchGroup] = {}
        self._open: dict[tuple[int, ...], Pipe] = {}

    def lane(self, job: Job) -> Lane | None:
        """This rank's part of a job. Collective."""
        lanes = self._shared(job) if job.wire == "shm" else self._sockets(job)
        self._everyone.local.barrier()  # flags are clear before anyone raises one
        return lanes

    def _sockets(self, job: Job) -> Lane | None:
        """Groups are made by every rank, pipes by their two ends."""
        mine, rank = None, self._process.rank
        for members in job.groups:
            group, pair = None, None
            if job.op != "send_recv" or self._device.type == "cuda":
                group = self._group(members)
            if rank not in members:
                continue
            if job.op == "send_recv":
                pair = TorchPair(group) if group else self._pipe(members)
            mine = self._lane(job, members, group=group, pair=pair)
        return mine

    def _group(self, members: tuple[int, ...]) -> TorchGroup:
        if members not in self._groups:
            self._everyone.look(members)
            self._groups[members] = TorchGroup(members, timeout_s=self._group_timeout_s)
        return self._groups[members]

    def _pipe(self, members: tuple[int, ...]) -> Pipe:
        if members not in self._open:
            self._everyone.look(members)
            other = members[members[0] == self._process.rank]
            self._open[members] = self._pipes.open(other, "probe", deadline_s=self._timeout_s)
        return self._open[members]

    def _lane(
        self, job: Job, members: tuple[int, ...], *, group: Group | None, pair: Pair | None
    ) -> Lane:
        place = members.index(self._process.rank)
        return Lane(members, place, self._device, job.words, self._timeout_s, group, pair)

    def _shared(self, job: Job) -> Lane | None:
        """Every rank lays out all of its host's groups, so that all agree on where each lies."""
        arena, mine = Arena(self._scratch, clear=self._everyone.is_first), None
        rank = self._process.rank
        for members in job.groups:
            if not set(members) <= set(self._process.neighbours):
                continue
            group, pair = None, None
            place = members.index(rank) if rank in members else 0
            if job.op == "send_recv":
                boxes = [self._box(arena, job) for _ in members]
                pair = BoxPair(boxes[place], boxes[1 - place])
            else:
                group = ShmGroup(
                    arena,
                    size=len(members),
                    rank=place,
                    slot_bytes=SLOT_BYTES,
                    crowded=self._process.crowded,
                    name=job.words,
                    members=members,
                    deadline_s=self._timeout_s,
                )
            if rank in members:
                mine = self._lane(job, members, group=group, pair=pair)
        return mine

    def _box(self, arena: Arena, job: Job) -> Mailbox:
        box = Mailbox(
            arena,
            readers=1,
            slot_bytes=SLOT_BYTES,
            depth=MAILBOX_DEPTH,
            crowded=self._process.crowded,
            name=job.words,
        )
        box.deadline_s = self._timeout_s
        return box
