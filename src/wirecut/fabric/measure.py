"""What one rank of `wirecut probe` does: meet the others, time the wires, then this device's
arithmetic with all ranks busy at once.

The kernels and collectives are the ones that the engine runs (`wirecut.machine`), not others like
them.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

import msgspec
import torch

from wirecut.errors import RankFailed
from wirecut.fabric.arithmetic import Bench, Found, arithmetic_jobs
from wirecut.fabric.assemble import measured_links
from wirecut.fabric.cards import try_cards
from wirecut.fabric.fabric import Finding
from wirecut.fabric.islands import find_islands
from wirecut.fabric.probing import (
    JOB_S,
    Job,
    Measured,
    ProbeTask,
    Progress,
    RankReport,
    WirePoints,
    distinct_hosts,
    group_jobs,
    hosts_of,
    pair_jobs,
)
from wirecut.fabric.timing import time_job
from wirecut.fabric.traffic import read_nic_counters, wrong_nic
from wirecut.fabric.transports import Everyone, Transports, scratch_bytes
from wirecut.machine.host import RankProcess
from wirecut.machine.nic import address_towards
from wirecut.machine.pipes import Pipes
from wirecut.machine.shm import Arena
from wirecut.machine.sockets import ANSWER_S, Line, Watch, WireCut, join, meet
from wirecut.machine.world import MEET_S

HANG_S = 5.0  # a collective that takes longer hangs: no job's messages are that slow
PATIENCE_S = 60.0  # what ranks that wait for others' jobs allow: those give up first
REPORT_S = 60.0
ALONE_HOSTS = 8  # hosts that take turns to compute alone; about a second each

_decode_task = msgspec.msgpack.Decoder(ProbeTask).decode
_decode_points = msgspec.msgpack.Decoder(tuple[WirePoints, ...]).decode
_decode_report = msgspec.msgpack.Decoder(RankReport).decode
_encode = msgspec.msgpack.Encoder().encode


def prepare(payload: bytes, ranks: Sequence[int]) -> int:
    """Shared memory that the ranks of this host take; most of it is touched only in large jobs."""
    neighbours = _decode_task(payload).neighbours
    return Everyone.bytes_for(neighbours) + scratch_bytes(neighbours)


def run(process: RankProcess) -> None:
    """Entry of a rank process; see `machine.ranks.start_ranks`."""
    torch.set_num_threads(max(1, len(process.cpus)))
    with torch.inference_mode():
        probing = _Probing(process)
        probing.pairs()
        probing.groups()
        probing.arithmetic()
        probing.report()


class _Probing:
    """One rank's way through a probe. Every rank takes the same steps in the same order."""

    def __init__(self, process: RankProcess) -> None:
        self.process, self.rank = process, process.rank
        self.task = _decode_task(process.payload)
        arena = Arena(process.shared)
        self.everyone = Everyone(arena, process, patience_s=PATIENCE_S)
        self.device = torch.device("cpu")
        if self.task.device.kind == "gpu":
            self.device = torch.device("cuda", self.task.device.index or 0)
            torch.cuda.set_device(self.device)
        self.wires: list[WirePoints] = []
        self.found = Found()
        self.notes: tuple[str, ...] = ()
        self.done, self.of = 0, 1
        self.counters = read_nic_counters()
        self.findings: tuple[Finding, ...] = ()
        self.tasks: Sequence[ProbeTask] = (self.task,)
        if process.num_ranks > 1:
            self._meet(arena)

    def _meet(self, arena: Arena) -> None:
        """Find the others, see that bytes come through to each host, and make the transports."""
        process, backend = self.process, "gloo"
        world = {"rank": self.rank, "num_ranks": process.num_ranks}
        store = meet(**world, port_box=self.everyone.port, master=process.master)
        names = [f"rank {rank}" for rank in range(process.num_ranks)]
        told = Line(store, names, self.rank).all_tell("task", process.payload, MEET_S)
        self.tasks = distinct_hosts([_decode_task(each) for each in told])
        names = [f"rank {rank} (host {task.device.host})" for rank, task in enumerate(self.tasks)]
        firsts = [ranks[0] for ranks in hosts_of(self.tasks).values()]
        address = address_towards(process.master[0]) if process.master else "127.0.0.1"
        self.line = Line(store, names, self.rank)
        first_of = [task.first for task in self.tasks]
        self.watch = Watch(self.line, first_of, address=address)
        self.watch.check()
        if process.master and self.rank in firsts:
            used = os.environ.get("GLOO_SOCKET_IFNAME")
            self.findings = try_cards(self.line, firsts, host=self.task.device.host, used=used)
        if self.device.type == "cuda":
            backend = "cpu:gloo,cuda:nccl"
        join(store, **world, backend=backend, timeout_s=PATIENCE_S)
        if process.master:
            self.everyone.connect(self.watch)
        pipes = Pipes(self.line, address=address)
        self.transports = Transports(
            arena, process, self.everyone, pipes, device=self.device, timeout_s=HANG_S
        )

    def _cards_in_use(self) -> Iterator[Finding]:
        """What the kernel's counters say, where trying the cards has found nothing."""
        yield from self.findings
        machine = self.tasks[self.rank].machine
        if machine is not None and not self.findings and len(hosts_of(self.tasks)) > 1:
            finding = wrong_nic(self.counters, read_nic_counters(), machine)
            if finding is not None:
                yield finding

    def pairs(self) -> None:
        """Time every pair that the plan has."""
        if self.process.num_ranks > 1:
            jobs, self.notes = pair_jobs(self.tasks)
            self.of = 2 * len(jobs) + 8
            self._run(jobs)

    def groups(self) -> None:
        """Find islands from what all pairs measured, and time the groups inside and across them."""
        if self.process.num_ranks == 1:
            return
        said = self.line.all_tell("pairs", _encode(tuple(self.wires)), REPORT_S)
        points = [one for each in said for one in _decode_points(each)]
        links = measured_links(self.tasks, points)
        jobs = group_jobs(self.tasks, find_islands(len(self.tasks), links))
        self.of = self.done + len(jobs) + 8
        self._run(jobs)

    def _run(self, jobs: Sequence[Job]) -> None:
        budget_s = min(JOB_S, self.task.wires_s / 2 / max(1, len(jobs)))
        for job in jobs:
            self._tell(job.words)
            self.everyone.barrier()
            with self._naming_the_wire(job):
                points = time_job(job, self.transports, budget_s=budget_s)
            if points is not None:
                self.wires.append(points)

    def _tell(self, what: str) -> None:
        if self.rank == 0:
            self.process.channel.send(Progress(self.done, self.of, what))
        self.done += 1

    @contextlib.contextmanager
    def _naming_the_wire(self, job: Job) -> Iterator[None]:
        """A collective that failed or hung names a group; asking each peer names the pair."""
        try:
            yield
        except RankFailed as error:
            group = next((group for group in job.groups if self.rank in group), ())
            others = [rank for rank in group if rank != self.rank]
            looked = isinstance(error, WireCut) or job.wire == "shm"
            broken = [] if looked else self.watch.broken(others)
            reason = f"{job.words}: {WireCut(broken) if broken else error}"
            if not broken:  # whoever sits at the cut wire is still asking, and will say so
                reason = self.line.others_reason(2 * ANSWER_S) or reason
            self.line.fail(reason)
            raise RankFailed(reason) from error

    def arithmetic(self) -> None:
        """Time this device's arithmetic, all ranks at once."""
        if not self.task.arithmetic:
            return
        barrier = self.everyone.barrier
        firsts = [ranks[0] for ranks in hosts_of(self.tasks).values()][:ALONE_HOSTS]
        bench = Bench(
            self.device,
            barrier,
            crowded=self.process.crowded,
            turn=firsts.index(self.rank) if self.rank in firsts else None,
            turns=len(firsts) if self.process.num_ranks > 1 else 0,
        )
        jobs = list(arithmetic_jobs(bench, self.found))
        self.of = self.done + len(jobs)
        for what, job in jobs:
            self._tell(what)
            barrier()
            job()

    def report(self) -> None:
        """Tell rank 0, which tells the command."""
        arithmetic = self.found.report() if self.found.points else None
        report = RankReport(tuple(self.wires), arithmetic, tuple(self._cards_in_use()))
        reports = [report]
        if self.process.num_ranks > 1:
            said = self.line.all_tell("report", _encode(report), REPORT_S)
            reports = [_decode_report(each) for each in said]
        if self.rank == 0:
            tasks = tuple(self.tasks)
            self.process.channel.send(Measured(tasks, tuple(reports), self.notes))
        if self.process.num_ranks > 1:  # the store may be in rank 0's process: it ends last
            self.line.tell("end", b"1")
            if self.rank == 0:
                self.line.hear_all("end", REPORT_S)
