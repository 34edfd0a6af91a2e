"""Rank processes, started, watched and ended together. Imports no torch; they do.

The command starts one *host process* per host, which imports the heavy libraries once, maps the
memory that its ranks will share and forks them: eight ranks start as fast as one, and nothing that
could be left behind has a name on disk.

    with start_ranks("wirecut.engine.worker", payloads, cpus, accepts=Said) as ranks:
        rank, message = ranks.next_message()

Ends: a rank that dies is named (`RankFailed`) and its like are killed. If this process dies,
however it dies, the host process sees its socket close and kills the ranks; if the host process
dies, the kernel kills them.
"""

import contextlib
import platform
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from wirecut.errors import RankFailed
from wirecut.machine.channel import Channel, ChannelClosed
from wirecut.machine.world import RankHost, World

STOP_S = 1.0  # what a host process gets to end its ranks before it is killed, and they with it


class HostConfig(msgspec.Struct, frozen=True):
    """What a host process is told: the module that ranks run, and for each of its `ranks` the
    cores, socket and task. `crowded`: ranks share cores.
    """

    module: str
    ranks: list[int]
    num_ranks: int
    master: tuple[str, int] | None
    crowded: bool
    cpus: list[list[int]]
    fds: list[int]
    payloads: list[bytes]


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The host process saw a rank end. `code` is the exit code, or minus the signal."""

    rank: int
    code: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A rank, or the host process before it has any, says why it gives up before it ends."""

    reason: str


class Ranks:
    """Running rank processes: their channels, and the watch over them. Use as a context manager."""

    def __init__(self, hosts: list["HostProcess"], channels: dict[int, Channel]) -> None:
        self.channels = channels
        self._hosts = hosts
        self._selector = selectors.DefaultSelector()
        for host in hosts:
            self._selector.register(host.control, selectors.EVENT_READ, host)
        for rank, channel in channels.items():
            self._selector.register(channel, selectors.EVENT_READ, rank)
        self._done: set[int] = set()

    def next_message(self, timeout_s: float | None = None) -> tuple[int, Any]:
        """The next (rank, message). Raises RankFailed when a rank dies or gives up, TimeoutError
        when none says anything for `timeout_s`, ChannelClosed when every rank has ended in order.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._done) < len(self.channels):
            for rank, channel in self.channels.items():
                if channel.buffered():
                    return rank, self._take(rank)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            ready = [key for key, _ in self._selector.select(left)]
            for key in sorted(ready, key=lambda key: isinstance(key.data, HostProcess)):
                if isinstance(key.data, HostProcess):
                    self._hear_host(key.data)
                    continue
                try:
                    return key.data, self._take(key.data)
                except ChannelClosed:
                    self._selector.unregister(key.fileobj)
        raise ChannelClosed("every rank has ended")

    def send(self, rank: int, message: msgspec.Struct) -> None:
        """Tell a rank. One that is gone hears nothing; the next `next_message` raises for it."""
        with contextlib.suppress(ChannelClosed):
            self.channels[rank].send(message)

    def _take(self, rank: int, timeout_s: float | None = None) -> Any:
        message = self.channels[rank].receive(timeout_s)
        if isinstance(message, Failed):
            raise RankFailed(self._killed() or f"rank {rank}: {message.reason}")
        return message

    def _killed(self) -> str | None:
        """Which rank was killed, if one was: others give up for that, and may be heard first."""
        deadline = time.monotonic() + STOP_S
        for host in self._hosts:
            with contextlib.suppress(ChannelClosed, TimeoutError):
                while True:
                    message = host.control.receive(max(0.0, deadline - time.monotonic()))
                    if isinstance(message, Exited) and message.code < 0:
                        return f"rank {message.rank} died: {_how(message.code)}"
        return None

    def _hear_host(self, host: "HostProcess") -> None:
        try:
            message = host.control.receive()
        except ChannelClosed:
            if self._done.issuperset(host.ranks):
                self._selector.unregister(host.control)
                return
            raise RankFailed(
                f"the process that holds the ranks of {host.name} ended ({_how(host.wait())}); "
                "all are gone"
            ) from None
        if isinstance(message, Failed):
            raise RankFailed(f"the ranks cannot start: {message.reason}")
        if message.code:
            self._drain_reason(message.rank)
            raise RankFailed(f"rank {message.rank} died: {_how(message.code)}")
        self._done.add(message.rank)

    def _drain_reason(self, rank: int) -> None:
        """A rank that gives up says why on its channel before it ends: the better message."""
        with contextlib.suppress(ChannelClosed, TimeoutError):
            while True:
                self._take(rank, timeout_s=0)

    def stop(self) -> None:
        """End every rank. Closing the control socket is the order; a host process that does not
        obey is killed.
        """
        self._selector.close()
        for host in self._hosts:
            host.control.close()
        for host in self._hosts:
            host.wait()
        for channel in self.channels.values():
            channel.close()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True, eq=False)
class HostProcess:
    """A running host process, the ranks that it holds, and the line to it."""

    name: str
    ranks: tuple[int, ...]
    process: subprocess.Popen[bytes]
    control: Channel

    def wait(self) -> int:
        """The exit code, once it has ended; one that does not end is killed."""
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_ranks(
    module: str,
    payloads: Sequence[bytes],
    cpus: Sequence[Sequence[int]],
    *,
    accepts: Any,
    hosts: Sequence[RankHost] = (),
    world: World | None = None,
) -> Ranks:
    """Start one rank per payload, pinned to its `cpus`: all here, or rank i on `hosts[i]`.

    Each calls `run(process)` of `module`; before, `prepare(payload, ranks)` there says how much
    memory these ranks of a host share, in bytes, or raises why they cannot start. `accepts` is the
    union of message types that ranks send, besides `Failed`. `world` says which ranks these are
    when other processes start more (torchrun).
    """
    places = list(hosts) or [RankHost("this host")] * len(payloads)
    if world is None:
        apart = len(set(places)) > 1
        meet = (places[0].address, random.randrange(20_000, 30_000)) if apart else None
        world = World(0, len(payloads), len(payloads), meet)
    crowded = len({core for each in cpus for core in each}) < len(cpus)
    started: list[HostProcess] = []
    channels: dict[int, Channel] = {}
    try:
        for place in dict.fromkeys(places):
            here = [i for i, each in enumerate(places) if each == place]
            ends = [Channel.pair() for _ in here]
            config = HostConfig(
                module=module,
                ranks=[world.first + i for i in here],
                num_ranks=world.size,
                master=world.master,
                crowded=crowded,
                cpus=[list(cpus[i]) for i in here],
                fds=[end.fileno() for _, end in ends],
                payloads=[payloads[i] for i in here],
            )
            started.append(_start_host(place, config, [end for _, end in ends]))
            for i, (mine, _) in zip(here, ends, strict=True):
                channels[world.first + i] = Channel(mine, accepts | Failed)
    except BaseException:
        Ranks(started, channels).stop()
        raise
    return Ranks(started, channels)


def _start_host(place: RankHost, config: HostConfig, ends: list[socket.socket]) -> HostProcess:
    ours, theirs = Channel.pair()
    # Ctrl-C goes to a terminal's whole process group; in a session of its own, ending it is ours.
    process = subprocess.Popen(
        [*place.prefix, sys.executable, "-m", "wirecut.machine.host", str(theirs.fileno())],
        pass_fds=[end.fileno() for end in (theirs, *ends)],
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,  # a command's standard output belongs to its answer
        start_new_session=True,
    )
    for end in (theirs, *ends):
        end.close()
    control = Channel(ours, Exited | Failed)
    with contextlib.suppress(ChannelClosed):  # the first `next_message` says why
        control.send(config)
    return HostProcess(place.name, tuple(config.ranks), process, control)


def stores_are_ordered() -> bool:
    """Whether this processor orders stores as shared-memory flags need (total store order)."""
    return platform.machine() in ("x86_64", "AMD64")


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    killed = signal.Signals(-code).name
    hint = " (out of memory? see dmesg)" if killed == "SIGKILL" else ""
    return f"killed by {killed}{hint}"


def socket_from(fd: int) -> socket.socket:
    """The socket behind an inherited descriptor."""
    return socket.socket(fileno=fd)
