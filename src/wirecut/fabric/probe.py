"""`wirecut probe`: start a rank on every device, let them measure, and put the numbers onto the
fabric.

    fabric = probe(num_ranks=2, progress=print)

Imports no torch; the ranks do. Needs the extra `engine`.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import msgspec

from wirecut.errors import FabricError, MissingExtra, RankFailed
from wirecut.fabric.assemble import assemble
from wirecut.fabric.discover import cores_for, discover, host_devices
from wirecut.fabric.fabric import Device, Fabric
from wirecut.fabric.host import usable_cores
from wirecut.fabric.probing import WIRES_S, Measured, ProbeTask, Progress, Said
from wirecut.machine.channel import ChannelClosed
from wirecut.machine.ranks import start_ranks
from wirecut.machine.world import Launched, RankHost, World, launched


def probe(
    num_ranks: int | None = None,
    *,
    hosts: Sequence[RankHost] = (),
    arithmetic: bool = True,
    wires_s: float = WIRES_S,
    progress: Callable[[int, int, str], None] = lambda done, of, what: None,
) -> Fabric | None:
    """Measure this host with `num_ranks` ranks (default: one per GPU, else per core), or `hosts`
    with so many each (default: one). Raises WirecutError.

    Under torchrun, or a launcher that sets its variables, every host's processes call this: the one
    with rank 0 gets the fabric of all hosts, the others None.
    """
    if find_spec("torch") is None:
        raise MissingExtra("engine", "measuring")
    place = launched(os.environ)
    if place is None:
        tasks, places = _local_tasks(num_ranks, hosts)
        world = None
    elif num_ranks is not None and num_ranks != place.local_size:
        raise FabricError(
            f"--ranks {num_ranks} under a launcher that started {place.local_size} processes on "
            "this host: leave out --ranks"
        )
    elif place.local_rank:
        return None  # the first process of a host starts all of its ranks
    else:
        tasks, places, world = _launched_tasks(place), [], place.world
    tasks = [
        msgspec.structs.replace(task, wires_s=wires_s, arithmetic=arithmetic) for task in tasks
    ]
    return _measure(tasks, places, world, progress)


def _measure(
    tasks: Sequence[ProbeTask],
    places: Sequence[RankHost],
    world: World | None,
    progress: Callable[[int, int, str], None],
) -> Fabric | None:
    payloads = [msgspec.msgpack.encode(task) for task in tasks]
    cpus = [cores_for(task.device) for task in tasks]
    with start_ranks(
        "wirecut.fabric.measure", payloads, cpus, accepts=Said, hosts=places, world=world
    ) as ranks:
        while True:
            try:
                _, message = ranks.next_message()
            except ChannelClosed:
                return None  # rank 0 is on another host, and has all that was measured
            if isinstance(message, Progress):
                progress(message.done, message.of, message.what)
            else:
                assert isinstance(message, Measured)
                fabric = assemble(message)
                if world is not None:
                    _let_end(ranks.next_message)
                return fabric


def _let_end(next_message: Callable[[], object]) -> None:
    """Hosts that others reach through this one's store end before it does."""
    with suppress(ChannelClosed, RankFailed):  # what they measured is here already
        next_message()


def _local_tasks(
    num_ranks: int | None, hosts: Sequence[RankHost]
) -> tuple[list[ProbeTask], list[RankHost]]:
    """Ranks that this process starts: all on this host, or the same number on each of `hosts`."""
    if not hosts:
        return _tasks_of(discover(num_ranks), 0), []
    each = num_ranks or 1
    places = [host for host in hosts for _ in range(each)]
    tasks: list[ProbeTask] = []
    for device, host in zip(host_devices(len(places)), places, strict=True):
        first = device.id // each * each
        cpus = (
            host.cores[(device.id - first) % len(host.cores) :][:1] if host.cores else device.cpus
        )
        tasks.append(ProbeTask(replace(device, host=host.name, cpus=cpus), each, first))
    return tasks, places


def _launched_tasks(place: Launched) -> list[ProbeTask]:
    """Ranks of this host under a launcher: its cores are shared out among them."""
    fabric = discover(place.local_size)
    devices = tuple(_with_share(device, place.local_size) for device in fabric.devices)
    return _tasks_of(replace(fabric, devices=devices), place.world.first)


def _tasks_of(here: Fabric, first: int) -> list[ProbeTask]:
    """One per device of this host, numbered by rank. Between cores nothing is known beforehand."""
    count = len(here.devices)
    tasks = [ProbeTask(replace(each, id=first + each.id), count, first) for each in here.devices]
    links = here.links if here.devices[0].kind == "gpu" else ()
    tasks[0] = msgspec.structs.replace(
        tasks[0],
        links=tuple(replace(link, a=first + link.a, b=first + link.b) for link in links),
        machine=here.machines[0] if here.machines else None,
        findings=tuple(
            replace(each, devices=tuple(first + device for device in each.devices))
            for each in here.findings
        ),
    )
    return tasks


def _with_share(device: Device, count: int) -> Device:
    """Every `count`-th core from the device's own: a process that a launcher starts has the run of
    its share.
    """
    if device.kind == "gpu":
        return device
    cores = usable_cores()
    return replace(device, cpus=tuple(cores[device.id :: count]) or device.cpus)
