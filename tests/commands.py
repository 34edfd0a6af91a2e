"""A wirecut command as a process of its own, its descendants, and what it leaves behind.

Every process that descends from the command carries a mark in its environment, by which `/proc`
finds it even when its parent is gone.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from wirecut.files import cache_dir
from wirecut.machine import native

MARK = "WIRECUT_TEST_COMMAND"
PATIENCE_S = 60.0  # a loaded machine takes seconds to import torch
GONE_S = 10.0
SHARED = Path("/dev/shm")

# pytest in the background of a shell ignores SIGINT, and so would its children.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from wirecut.cli.main import run
run()
"""


class Command:
    """`wirecut ...` running. A context manager: leaving it ends every process of it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._mark = f"{MARK}={uuid.uuid4()}"
        name, value = self._mark.split("=")
        self._segments = _segments()
        self._files = [(folder / name).open("w+b") for name in ("stdout", "stderr")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *words],
            stdin=subprocess.DEVNULL,
            stdout=self._files[0],
            stderr=self._files[1],
            cwd=folder,
            start_new_session=True,  # a process group of its own, as a shell gives it
            env=os.environ | {name: value, "XDG_CACHE_HOME": str(own_cache(folder))},
        )

    @property
    def stdout(self) -> str:
        return Path(self._files[0].name).read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return Path(self._files[1].name).read_text(errors="replace")

    def processes(self) -> dict[int, int]:
        """Every living process of this command, with its parent."""
        return marked(self._mark)

    def host(self) -> int | None:
        """The process that holds the ranks, once it has begun."""
        children = (pid for pid, parent in self.processes().items() if parent == self.process.pid)
        return next((pid for pid in children if "wirecut.machine.host" in _cmdline(pid)), None)

    def ranks(self) -> list[int]:
        """The rank processes, first to last: the host process forks them in order."""
        host = self.host()
        return sorted(pid for pid, parent in self.processes().items() if host and parent == host)

    def wait_until(self, come: Callable[[], object], what: str) -> None:
        """Return once `come()` is true; fail when the command ends before, or takes too long."""
        begin = time.monotonic()
        while not come():
            said = f"no {what}: {self.stdout!r} {self.stderr!r}"
            assert self.process.poll() is None, f"ended with {self.process.returncode}, {said}"
            assert time.monotonic() - begin < PATIENCE_S, said
            time.sleep(0.01)

    def end(self) -> int:
        """The exit code, once the command has ended."""
        return self.process.wait(PATIENCE_S)

    def left_behind(self) -> str:
        """Processes and segments of shared memory that are still there after a while; or empty."""
        begin = time.monotonic()
        while time.monotonic() - begin < GONE_S:
            alive = {pid: _cmdline(pid) for pid in self.processes()}
            segments = {name for name in _segments() - self._segments if not _in_use(name)}
            if not alive and not segments:
                return ""
            time.sleep(0.02)
        return f"processes {alive}, segments {segments}"

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for file in self._files:
            file.close()


def marked(mark: str) -> dict[int, int]:
    """Every living process with `mark` ("NAME=value") in its environment, with its parent."""
    found: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and mark in _read(place / "environ").split("\0"):
            stat = _read(place / "stat").rpartition(")")[2].split()
            if stat and stat[0] != "Z":
                found[int(place.name)] = int(stat[1])
    return found


def own_cache(folder: Path) -> Path:
    """A cache in `folder`, for XDG_CACHE_HOME, that holds nothing but kernels compiled before."""
    native.load()
    mine = folder / "cache" / "wirecut"
    mine.mkdir(parents=True, exist_ok=True)
    for kernels in cache_dir().glob("kernels-*.so"):
        (mine / kernels.name).symlink_to(kernels)
    return mine.parent


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it ended meanwhile
        return ""


def _cmdline(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def _segments() -> set[str]:
    return {path.name for path in SHARED.iterdir()} if SHARED.is_dir() else set()


def _in_use(segment: str) -> bool:
    """Whether a process of this machine maps it, under whatever name: then it is that one's."""
    try:
        inode = str((SHARED / segment).stat().st_ino)
    except FileNotFoundError:
        return True  # gone meanwhile
    lines = (line for path in Path("/proc").glob("[0-9]*/maps") for line in _read(path).split("\n"))
    return any(str(SHARED) in line and line.split()[4] == inode for line in lines)
