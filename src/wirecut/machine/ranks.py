"""Rank processes of this host, started, watched and ended together. Imports no torch; they do.

The command starts one *host process*, which imports the heavy libraries once, maps the memory that
the ranks will share and forks them: eight ranks start as fast as one, and nothing that could be
left behind has a name on disk.

    with start_ranks("wirecut.engine.worker", payloads, cpus, accepts=Said) as ranks:
        rank, message = ranks.next_message()

Ends: a rank that dies is named (`RankFailed`) and its like are killed. If this process dies,
however it dies, the host process sees its socket close and kills the ranks; if the host process
dies, the kernel kills them.
"""

import contextlib
import platform
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from wirecut.errors import RankFailed
from wirecut.machine.channel import Channel, ChannelClosed

STOP_S = 1.0  # what a host process gets to end its ranks before it is killed, and they with it


class HostConfig(msgspec.Struct, frozen=True):
    """What the host process is told: the module that ranks run, and for each its cores, socket and
    task.
    """

    module: str
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

    def __init__(
        self, host: subprocess.Popen[bytes], control: Channel, channels: list[Channel]
    ) -> None:
        self.channels = channels
        self._host = host
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, None)
        for rank, channel in enumerate(channels):
            self._selector.register(channel, selectors.EVENT_READ, rank)
        self._done: set[int] = set()

    def next_message(self, timeout_s: float | None = None) -> tuple[int, Any]:
        """The next (rank, message). Raises RankFailed when a rank dies or gives up, TimeoutError
        when none says anything for `timeout_s`, ChannelClosed when every rank has ended in order.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._done) < len(self.channels):
            for rank, channel in enumerate(self.channels):
                if channel.buffered():
                    return rank, self._take(rank)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            ready = [key for key, _ in self._selector.select(left)]
            for key in sorted(ready, key=lambda key: key.data is None):
                if key.data is None:
                    self._hear_host()
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
        with contextlib.suppress(ChannelClosed, TimeoutError):
            while True:
                message = self._control.receive(timeout_s=STOP_S)
                if isinstance(message, Exited) and message.code < 0:
                    return f"rank {message.rank} died: {_how(message.code)}"
        return None

    def _hear_host(self) -> None:
        try:
            message = self._control.receive()
        except ChannelClosed:
            raise RankFailed(
                f"the process that holds the ranks ended ({_how(self._wait())}); all are gone"
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
        self._control.close()
        self._selector.close()
        self._wait()
        for channel in self.channels:
            channel.close()

    def _wait(self) -> int:
        """The host process's exit code, once it has ended."""
        try:
            return self._host.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._host.kill()
            return self._host.wait()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_ranks(
    module: str,
    payloads: Sequence[bytes],
    cpus: Sequence[Sequence[int]],
    *,
    accepts: Any,
) -> Ranks:
    """Start one rank per payload on this host, pinned to its `cpus`.

    Each calls `run(process)` of `module`; `shared_bytes(payload)` there says how much memory they
    share. `accepts` is the union of message types that ranks send, besides `Failed`.
    """
    ours, theirs = Channel.pair()
    ends = [Channel.pair() for _ in payloads]
    inherited = [theirs, *(end for _, end in ends)]
    config = HostConfig(
        module=module,
        cpus=[list(each) for each in cpus],
        fds=[end.fileno() for _, end in ends],
        payloads=list(payloads),
    )
    # Ctrl-C goes to a terminal's whole process group; in a session of its own, ending it is ours.
    host = subprocess.Popen(
        [sys.executable, "-m", "wirecut.machine.host", str(theirs.fileno())],
        pass_fds=[end.fileno() for end in inherited],
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,  # a command's standard output belongs to its answer
        start_new_session=True,
    )
    for end in inherited:
        end.close()
    control = Channel(ours, Exited | Failed)
    with contextlib.suppress(ChannelClosed):  # the first `next_message` says why
        control.send(config)
    return Ranks(host, control, [Channel(mine, accepts | Failed) for mine, _ in ends])


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
