"""The host process: `python -m wirecut.machine.host FD`. Forks the ranks of one host and watches
them.

It imports what the ranks need before it forks, runs nothing of it, and ends with its parent: the
control socket closing is the order to stop. See `machine.ranks` for the other side.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import mmap
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from wirecut.errors import RankFailed, WirecutError
from wirecut.machine.channel import Channel, ChannelClosed
from wirecut.machine.ranks import Exited, Failed, HostConfig, socket_from
from wirecut.units import show_bytes

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


@dataclass(frozen=True)
class RankProcess:
    """What a rank starts with: who it is, its line to the parent, and the memory shared with the
    host's other ranks, `neighbours` (itself among them). `master` is where rank 0's store listens
    when not all ranks are neighbours.
    """

    rank: int
    num_ranks: int
    neighbours: tuple[int, ...]
    master: tuple[str, int] | None
    cpus: list[int]
    crowded: bool
    shared: mmap.mmap
    channel: Channel
    payload: bytes


def main(fd: int) -> int:
    """Serve one `HostConfig`. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what fails is told, without a stack
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts
    control = Channel(socket_from(fd), HostConfig)
    try:
        config = control.receive()
        module, shared = _prepare(config)
    except ChannelClosed:
        return 1
    except Exception as error:
        _tell(control, _reason(error))
        return 1
    if control.waiting():
        return 1  # the parent went while the libraries were imported
    children = {
        _fork(config, index, module.run, shared, control): rank
        for index, rank in enumerate(config.ranks)
    }
    for other in config.fds:
        os.close(other)
    return _watch(control, children)


def _prepare(config: HostConfig) -> tuple[ModuleType, mmap.mmap]:
    """The module that the ranks run, imported, and the memory that they share."""
    module = _load(config.module)
    num_bytes = max(module.prepare(config.payloads[0], config.ranks), mmap.PAGESIZE)
    try:
        return module, mmap.mmap(-1, num_bytes)
    except (OSError, OverflowError) as error:
        raise RankFailed(f"no room for {show_bytes(num_bytes)} of shared memory") from error


def _load(name: str) -> ModuleType:
    if not name.startswith("wirecut."):
        raise ValueError(f"module {name!r} is not wirecut's")
    return importlib.import_module(name)


def _fork(
    config: HostConfig,
    index: int,
    entry: Callable[[RankProcess], None],
    shared: mmap.mmap,
    control: Channel,
) -> int:
    host = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _die_with(host)
    control.close()
    for other in config.fds[:index] + config.fds[index + 1 :]:
        os.close(other)
    process = RankProcess(
        rank=config.ranks[index],
        num_ranks=config.num_ranks,
        neighbours=tuple(config.ranks),
        master=config.master,
        cpus=config.cpus[index],
        crowded=config.crowded,
        shared=shared,
        channel=Channel(socket_from(config.fds[index]), Any),
        payload=config.payloads[index],
    )
    _run(entry, process)


def _run(entry: Callable[[RankProcess], None], process: RankProcess) -> NoReturn:
    """Run a rank to its end; a reason to give up goes to the parent before the process ends."""
    faulthandler.enable()
    code = 1
    try:
        os.sched_setaffinity(0, process.cpus)
        # Gloo's thread shares the rank's core: woken by a packet, it must not push aside the rank
        # that holds the lock it needs (2 KiB all-reduce over 1 Gbit/s: 2.2 ms so, 0.2 ms batched).
        with contextlib.suppress(OSError):  # some sandboxes refuse it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        entry(process)
        code = 0
    except ChannelClosed:
        pass  # the parent is gone, and so is the reason to live
    except BaseException as error:
        _tell(process.channel, _reason(error))
        if os.environ.get("WIRECUT_LOG"):
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reason(error: BaseException) -> str:
    """Our own errors as they are; of others their name and where they came from."""
    if isinstance(error, WirecutError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    said = str(error).partition("\n")[0]  # torch may add a stack of its own
    return f"{type(error).__name__}: {said} (at {where})"


def _tell(channel: Channel, reason: str) -> None:
    with contextlib.suppress(ChannelClosed):
        channel.send(Failed(reason))


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` dies, and check that it did not die
    meanwhile.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch(control: Channel, children: dict[int, int]) -> int:
    """Report each rank's end; kill the rest when the parent closes the line, or when one fails."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    pidfds = {os.pidfd_open(pid): pid for pid in children}
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    failed = False
    while pidfds and not failed:
        for fd, _ in poll.poll():
            if fd == control.fileno():
                failed = True  # the parent closed the line or is gone: it never writes again
                continue
            pid = pidfds.pop(fd)
            poll.unregister(fd)
            os.close(fd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(ChannelClosed):
                control.send(Exited(children[pid], code))
            failed = failed or code != 0
    for pid in pidfds.values():
        os.kill(pid, signal.SIGKILL)
    for pid in pidfds.values():
        os.waitpid(pid, 0)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
