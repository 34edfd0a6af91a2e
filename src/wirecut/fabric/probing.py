"""What `wirecut probe` measures, and in what words its ranks report. Imports no torch.

Pairs come first; islands are found from them; then every group that a layout may use is timed,
alone and beside its like. Every rank works out the same plan from what all of them shared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import msgspec

from wirecut.fabric.fabric import Device, Finding, Link, Op
from wirecut.fabric.host import HostFacts, Nic
from wirecut.fabric.physics import pair_wire
from wirecut.fabric.wires import is_network
from wirecut.machine.ranks import stores_are_ordered
from wirecut.units import KIB, MIB

PAIR_SIZES = (*(2 * KIB << i for i in range(10)), 4 * MIB, 16 * MIB, 64 * MIB)  # from 2 KiB
GROUP_SIZES = PAIR_SIZES
OTHER_SIZES = (*(8 * KIB << 2 * i for i in range(7)), 64 * MIB)  # of other collectives
TOGETHER_SIZES = (8 * KIB, 128 * KIB, 2 * MIB)  # when several groups do it at once
WIRES_S = 30.0  # what all jobs on wires may take together
JOB_S = 0.6  # what one takes when there are few
ALL_PAIRS = 8  # up to so many devices every pair is measured
PER_CLASS = 16  # of more devices, pairs of each class of wire
ASSUMED_NETWORK = 12.5e9  # bytes/s: 100 Gbit/s
Pair = tuple[int, ...]
LOOPBACK_PAIRS = 3  # of one host's pairs over TCP, which are all alike


class ProbeTask(msgspec.Struct, frozen=True):
    """What one rank of a probe is told: its device, how many ranks share its host's memory and the
    first of them; that one also has what joins them as far as the driver says, the host itself and
    what is wrong with it. Links and findings number devices by rank.
    `wires_s` is for all jobs on wires.
    """

    device: Device
    neighbours: int
    first: int = 0
    links: tuple[Link, ...] = ()
    machine: HostFacts | None = None
    findings: tuple[Finding, ...] = ()
    wires_s: float = WIRES_S
    arithmetic: bool = True


class Job(msgspec.Struct, frozen=True):
    """One collective over one kind of wire, timed in `groups` (of equal size) at the same time."""

    op: Op
    wire: str
    groups: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def words(self) -> str:
        """'all-reduce of 2 x 4 over tcp'."""
        if self.op == "send_recv" and len(self.groups) == 1:
            return f"send {' to '.join(map(str, self.groups[0]))} over {self.wire}"
        times = f"{len(self.groups)} x " if len(self.groups) > 1 else ""
        size = max(map(len, self.groups))
        return f"{self.op.replace('_', '-')} of {times}{size} over {self.wire}"


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Rank 0 has done so many of all steps, and what comes next."""

    done: int
    of: int
    what: str


class WirePoints(msgspec.Struct, frozen=True, tag="wire"):
    """Times of one collective over one wire, told by the first of `devices`.

    `points` are (bytes, median seconds, relative half-spread between the 10th and 90th percentile).
    `wrong` counts elements that came out other than they should.
    """

    op: Op
    wire: str
    devices: tuple[int, ...]
    points: tuple[tuple[int, float, float], ...]
    at_once: int = 1
    wrong: int = 0


class Arithmetic(msgspec.Struct, frozen=True, tag="arithmetic"):
    """What one rank's device computes: (dtype, rows, weight bytes, median seconds) of products,
    (dtype, queries, keys, width, kv width, seconds) of attention, a small operation, and half a
    layer beside its products. `alone` and `launch_alone_s` are of the first rank of a host while
    all others waited.
    """

    points: tuple[tuple[str, int, int, float], ...]
    attention: tuple[tuple[str, int, int, int, int, float], ...]
    launch_s: float
    alone: tuple[tuple[str, int, int, float], ...] = ()
    launch_alone_s: float = 0.0
    launch_cold_s: float = 0.0
    half_s: float = 0.0


class RankReport(msgspec.Struct, frozen=True):
    """All that one rank measured, and what it found wrong."""

    wires: tuple[WirePoints, ...]
    arithmetic: Arithmetic | None
    findings: tuple[Finding, ...] = ()


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """Rank 0's last words: what every rank was told and what it found."""

    tasks: tuple[ProbeTask, ...]
    reports: tuple[RankReport, ...]
    notes: tuple[str, ...]


Said = Progress | Measured


def pair_jobs(tasks: Sequence[ProbeTask]) -> tuple[tuple[Job, ...], tuple[str, ...]]:
    """A send in every pair, or in some of each class of wire when there are many; and what to say
    of that.
    """
    devices = [task.device for task in tasks]
    found: list[Job] = []
    notes: list[str] = []
    classes: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    known = known_links(tasks)
    num_hosts = len(hosts_of(tasks))
    for a, b in combinations(range(len(devices)), 2):
        for wire in wires_between(devices[a], devices[b], known.get((a, b)), num_hosts):
            link = known.get((a, b))
            path = link.path if link else ""
            same = devices[a].host == devices[b].host
            classes.setdefault((wire, same, path), []).append((a, b))
    for (wire, same, path), pairs in classes.items():
        loopback = wire == "tcp" and same is True and len(classes) > 1
        most = LOOPBACK_PAIRS if loopback else max(PER_CLASS, 2 * num_hosts)
        if loopback or len(devices) > ALL_PAIRS:
            chosen = _spread(sorted(pairs, key=lambda pair: (pair[1] - pair[0], pair)), most)
        else:
            chosen = pairs
        if len(chosen) < len(pairs):
            name = " ".join(filter(None, (str(wire), str(path))))
            notes.append(
                f"{len(chosen)} of {len(pairs)} pairs over {name} were measured; the others take "
                "their median"
            )
        found += [Job("send_recv", str(wire), (pair,), PAIR_SIZES) for pair in chosen]
    return tuple(found), tuple(notes)


def group_jobs(tasks: Sequence[ProbeTask], islands: Iterable[Sequence[int]]) -> tuple[Job, ...]:
    """Collectives in every group that a layout may use: blocks of 2, 4, 8, ... devices of each
    island, of each host, of one device per host and of all; alone, and all blocks of one size at
    the same time.
    """
    devices, known = [task.device for task in tasks], known_links(tasks)
    hosts = hosts_of(tasks)
    everyone = tuple(range(len(devices)))
    twins = list(zip(*hosts.values(), strict=False)) if len(hosts) > 1 else []
    places = [*map(tuple, islands), *hosts.values(), *twins, everyone]
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for place in dict.fromkeys(places):
        for block in _blocks(place):
            if block not in by_size.setdefault(len(block), []):
                by_size[len(block)].append(block)
    jobs: list[Job] = []
    for size in sorted(by_size):
        blocks = by_size[size]
        for wire, groups in _by_wire(blocks, devices, known, len(hosts)).items():
            alone = groups if len(devices) <= ALL_PAIRS else _spread(groups, 2)
            if wire == "tcp" and len(hosts) == 1:
                alone = groups[:1]
            for group in alone:
                jobs.append(Job("all_reduce", wire, (group,), GROUP_SIZES))
            ops: tuple[Op, ...] = ("all_gather", "all_to_all")
            jobs += [Job(op, wire, (alone[0],), OTHER_SIZES) for op in ops]
            if len(beside := _disjoint(groups)) > 1:
                jobs.append(Job("all_reduce", wire, beside, TOGETHER_SIZES))
    return (*jobs, *_crossing(hosts, devices, known))


def wires_between(a: Device, b: Device, known: Link | None, num_hosts: int) -> tuple[str, ...]:
    """Kinds of wire to measure between two devices: the driver's between GPUs, shared memory (and
    loopback, when there is no other host) between cores, a network between hosts.
    """
    if known is not None:
        return (known.kind,)
    if a.host != b.host or not stores_are_ordered():
        return ("tcp",)
    return ("shm", "tcp") if num_hosts == 1 else ("shm",)


def hosts_of(tasks: Sequence[ProbeTask]) -> dict[str, tuple[int, ...]]:
    """The ranks of each host, by its name."""
    found: dict[str, list[int]] = {}
    for rank, task in enumerate(tasks):
        found.setdefault(task.device.host, []).append(rank)
    return {host: tuple(ranks) for host, ranks in found.items()}


def distinct_hosts(tasks: Sequence[ProbeTask]) -> list[ProbeTask]:
    """The same with another name for hosts that have one name and share no memory."""
    firsts: dict[str, list[int]] = {}
    for task in tasks:
        if task.first not in firsts.setdefault(task.device.host, []):
            firsts[task.device.host].append(task.first)
    found: list[ProbeTask] = []
    for task in tasks:
        name, alike = task.device.host, firsts[task.device.host]
        if len(alike) > 1:
            name = f"{name}-{alike.index(task.first)}"
        machine = task.machine and replace(task.machine, host=name)
        device = replace(task.device, host=name)
        found.append(msgspec.structs.replace(task, device=device, machine=machine))
    return found


def known_links(tasks: Sequence[ProbeTask]) -> dict[tuple[int, int], Link]:
    """What drivers say of pairs, by pair of ranks; of GPUs on two hosts, what may join them: the
    NVLink domain that both are in, else the fastest kind of network card that both have.
    """
    found = {(link.a, link.b): link for task in tasks for link in task.links}
    machines = {task.device.host: task.machine for task in tasks if task.machine is not None}
    inside = {tasks[a].device.host: link for (a, _), link in found.items()}
    for a, b in combinations(range(len(tasks)), 2):
        first, second = tasks[a].device, tasks[b].device
        if first.host == second.host or "gpu" not in (first.kind, second.kind):
            continue
        here, there = machines.get(first.host), machines.get(second.host)
        link = _network(a, b, here, there)
        if here and there and here.nvlink_domain and here.nvlink_domain == there.nvlink_domain:
            link = replace(inside.get(first.host, link), a=a, b=b, kind="nvswitch")
        found[a, b] = link
    return found


def _network(a: int, b: int, here: HostFacts | None, there: HostFacts | None) -> Link:
    """A link of the fastest kind of card that both hosts have up, which all devices of the first
    share; Ethernet where nothing is known.
    """
    for nic_kind, kind in (("infiniband", "ib"), ("roce", "roce")):
        mine, theirs = _fastest(here, nic_kind), _fastest(there, nic_kind)
        if here and mine and theirs:
            speed = min(mine.bytes_per_s or 0.0, theirs.bytes_per_s or 0.0)
            shares = f"nic of {here.host}, {mine.name}"
            return Link(a, b, kind, *pair_wire(kind, speed), "assumed", shares=shares)
    shares = f"nic of {here.host}" if here else ""
    ethernet = pair_wire("ethernet", ASSUMED_NETWORK)
    return Link(a, b, "ethernet", *ethernet, "assumed", shares=shares)


def _fastest(host: HostFacts | None, kind: str) -> Nic | None:
    """The fastest card of a kind that is up and whose speed is known."""
    cards = [n for n in host.nics if n.kind == kind and n.up and n.bytes_per_s] if host else []
    return max(cards, key=lambda nic: nic.bytes_per_s or 0.0, default=None)


def _blocks(place: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Consecutive aligned blocks of 2, 4, 8, ... and the whole; of few devices, the first block of
    every other size, since TP may be 3, 5, 6 or 7.
    """
    size = 2
    while size < len(place):
        for start in range(0, len(place) - size + 1, size):
            yield place[start : start + size]
        size *= 2
    for size in range(3, len(place) if len(place) <= ALL_PAIRS else 0):
        yield place[:size]
    if len(place) > 1:
        yield place


def _by_wire(
    blocks: Sequence[tuple[int, ...]],
    devices: Sequence[Device],
    known: dict[tuple[int, int], Link],
    num_hosts: int,
) -> dict[str, list[tuple[int, ...]]]:
    """Groups by what carries them: the network if any pair needs it, else what joins the pairs."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for block in blocks:
        kinds = [
            wires_between(devices[a], devices[b], known.get((min(a, b), max(a, b))), num_hosts)
            for a, b in combinations(block, 2)
        ]
        apart = next((each for each in kinds if is_network(each[0])), kinds[0])
        for wire in apart:
            found.setdefault(wire, []).append(block)
    return found


def _disjoint(groups: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """As many groups as have no device in common, the first ones first."""
    taken: set[int] = set()
    chosen: list[tuple[int, ...]] = []
    for group in groups:
        if taken.isdisjoint(group):
            taken.update(group)
            chosen.append(group)
    return tuple(chosen)


def _crossing(
    hosts: dict[str, tuple[int, ...]],
    devices: Sequence[Device],
    known: dict[tuple[int, int], Link],
) -> Iterator[Job]:
    """Every device of one host sending to its twin on the next at the same time: they share a
    network card.
    """
    if len(hosts) < 2:
        return
    first, second = list(hosts.values())[:2]
    twins = tuple(zip(first, second, strict=False))
    if len(twins) > 1:
        link = known.get((first[0], second[0]))
        wires = wires_between(devices[first[0]], devices[second[0]], link, len(hosts))
        yield Job("send_recv", wires[0], twins, TOGETHER_SIZES)


def _spread(items: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many, the first ones and then evenly through the rest."""
    if len(items) <= most:
        return list(items)
    head = most // 2
    rest, left = items[head:], most - head
    return [*items[:head], *(rest[i * len(rest) // left] for i in range(left))]
