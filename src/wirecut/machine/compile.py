"""A compile that ends with whoever asked for it, and leaves nothing behind.

    run_compiler(["cc", "-shared", "a.c"], made=Path("a.so"), most_s=120)

The compiler starts processes and writes files of its own. So a process of ours stands between: it
hears the asker end, however that ends (Ctrl-C, a kill), by a pipe that closes, and then kills them
all and removes their folder. What it leaves when it is killed itself, a later compile removes.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

PREFIX = "compile-"  # of folders beside what is made
OLD_S = 3600.0  # nobody compiles in a folder of that age any more


def run_compiler(command: Sequence[str], made: Path, *, most_s: float) -> None:
    """Run `command` with `-o` and a place of its own; what it made is then moved to `made`, at once
    and whole. Raises OSError with what the compiler said.
    """
    ours = [sys.executable, "-m", "wirecut.machine.compile", str(made), str(most_s)]
    asker_ended, asking = os.pipe()
    try:
        process = subprocess.Popen(
            [*ours, *command],
            stdin=asker_ended,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the asker to act on
        )
    finally:
        os.close(asker_ended)
    with process:
        assert process.stdout
        try:
            said = process.stdout.read()
        finally:
            os.close(asking)
    if process.returncode:
        raise OSError(said.decode(errors="replace").strip() or f"exit code {process.returncode}")


def main(made: Path, most_s: float, command: Sequence[str]) -> int:
    """The process between. Returns the exit code. Raises OSError where nothing can be started or
    written.
    """
    _remove_old(made.parent)
    with TemporaryDirectory(dir=made.parent, prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        fresh = Path(folder) / made.name
        compiler = subprocess.Popen(
            [*command, "-o", str(fresh)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TMPDIR": folder},
        )
        ended = os.pidfd_open(compiler.pid)
        ready, _, _ = select.select([sys.stdin, ended], [], [], most_s)
        if ended not in ready:
            with suppress(ProcessLookupError):
                os.killpg(compiler.pid, signal.SIGKILL)
            if not ready:
                print(f"{command[0]} did not end within {most_s:.0f} s")
        code = compiler.wait()
        if code == 0:
            fresh.replace(made)  # another process may be doing the same
    return int(code != 0)


def _remove_old(home: Path) -> None:
    for folder in home.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD_S:
                rmtree(folder)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
    except OSError as error:
        sys.exit(str(error))  # one line, which the asker reads
