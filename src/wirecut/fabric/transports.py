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
from wirecut.machine.shm import Arena, Mailbox, ShmGroup
from wirecut.machine.sockets import TorchGroup, Watch, WireCut
from wirecut.units import MIB

SLOT_BYTES = 8 * MIB  # as the engine's largest: longer messages go in pieces
MAILBOX_DEPTH = 2


class Group(Protocol):
    """The collectives that are timed."""

    size: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor: ...

    def all_gather(self, x: torch.Tensor) -> torch.Tensor: ...

    def all_to_all(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Lane:
    """One group of a job as one of its ranks sees it: `place` is this rank's in the group, `name`
    says what it does.

    `boxes` are the ways there and back when it is a pair that meets in shared memory.
    """

    group: Group
    members: tuple[int, ...]
    place: int
    device: torch.device
    name: str
    timeout_s: float
    boxes: tuple[Mailbox, Mailbox] | None = None

    def agree(self, value: float) -> float:
        """What the first of the group says, on all of them."""
        said = torch.tensor([value if self.place == 0 else 0.0], dtype=torch.float64)
        return float(self.group.all_reduce(said))

    def there_and_back(self, x: torch.Tensor) -> None:
        """The first of a pair sends `x` and receives it again."""
        steps = (self._send, self._receive)
        for step in steps if self.place == 0 else reversed(steps):
            step(x)

    def _send(self, x: torch.Tensor) -> None:
        if self.boxes is None:
            self.group.send(x, to=1 - self.place)
            return
        most = SLOT_BYTES // x.itemsize
        for start in range(0, x.numel(), most):
            self.boxes[self.place].write(x[start : start + most])

    def _receive(self, x: torch.Tensor) -> None:
        if self.boxes is None:
            self.group.receive(x, source=1 - self.place)
            return
        most = SLOT_BYTES // x.itemsize
        for start in range(0, x.numel(), most):
            self.boxes[1 - self.place].read(0, x[start : start + most])

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
            deadline_s=patience_s,
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
        *,
        device: torch.device,
        timeout_s: float,
    ) -> None:
        self._process, self._everyone, self._device = process, everyone, device
        self._timeout_s = timeout_s
        # NCCL's own deadline ends the process: `Lane.sync` sees a hang first, and names it.
        self._group_timeout_s = timeout_s if device.type == "cpu" else 12 * timeout_s
        self._scratch = arena.data(scratch_bytes(len(process.neighbours)))
        self._groups: dict[tuple[int, ...], TorchGroup] = {}

    def lane(self, job: Job) -> Lane | None:
        """This rank's part of a job. Collective."""
        lanes = self._shared(job) if job.wire == "shm" else self._sockets(job)
        self._everyone.local.barrier()  # flags are clear before anyone raises one
        return lanes

    def _sockets(self, job: Job) -> Lane | None:
        mine = None
        for members in job.groups:
            if members not in self._groups:
                self._everyone.look(members)
                self._groups[members] = TorchGroup(members, timeout_s=self._group_timeout_s)
            if self._process.rank in members:
                place = members.index(self._process.rank)
                group, timeout_s = self._groups[members], self._timeout_s
                mine = Lane(group, members, place, self._device, job.words, timeout_s)
        return mine

    def _shared(self, job: Job) -> Lane | None:
        arena, mine = Arena(self._scratch, clear=self._everyone.is_first), None
        rank, crowded = self._process.rank, self._process.crowded
        for members in job.groups:
            if not set(members) <= set(self._process.neighbours):
                continue
            place = members.index(rank) if rank in members else 0
            group = ShmGroup(
                arena,
                size=len(members),
                rank=place,
                slot_bytes=SLOT_BYTES if job.op != "send_recv" else 64,
                crowded=crowded,
                name=job.words,
                members=members,
                deadline_s=self._timeout_s,
            )
            boxes = None
            if job.op == "send_recv":
                there, back = (self._box(arena, job, crowded) for _ in range(2))
                boxes = (there, back)
            if rank in members:
                timeout_s = self._timeout_s
                mine = Lane(group, members, place, self._device, job.words, timeout_s, boxes)
        return mine

    def _box(self, arena: Arena, job: Job, crowded: bool) -> Mailbox:
        box = Mailbox(
            arena,
            readers=1,
            slot_bytes=SLOT_BYTES,
            depth=MAILBOX_DEPTH,
            crowded=crowded,
            name=job.words,
        )
        box.deadline_s = self._timeout_s
        return box
