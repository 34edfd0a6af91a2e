"""Compiling the C kernels: however it ends, no process and no folder of it is left."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import MARK, marked
from wirecut.machine.compile import OLD_S, PREFIX, run_compiler

# A compiler with a process of its own that writes where it may, and does not end.
SLOW = """#!/bin/sh
(sleep 1000; true) &
echo code > "$TMPDIR/half.s"
touch "$STARTED"
wait
"""
# pytest in the background of a shell ignores SIGINT, and so would its children.
LOAD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from wirecut.machine import native
native.load()
"""


@pytest.fixture
def cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `cc` this script; the folder for what it makes."""

    def make(script: str) -> Path:
        for name in ("bin", "cache/wirecut"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "bin" / "cc").write_text(script)
        (tmp_path / "bin" / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("STARTED", str(tmp_path / "started"))
        return tmp_path / "cache" / "wirecut"

    return make


def wait_for(come: Callable[[], object], most_s: float = 20) -> None:
    begin = time.monotonic()
    while not come():
        assert time.monotonic() - begin < most_s
        time.sleep(0.01)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_asker_is_killed(
    cc: Callable[[str], Path], tmp_path: Path, end: signal.Signals
) -> None:
    home, mark = cc(SLOW), str(uuid.uuid4())
    asker = subprocess.Popen(
        [sys.executable, "-c", LOAD], env=os.environ | {MARK: mark}, stderr=subprocess.DEVNULL
    )
    try:
        wait_for((tmp_path / "started").exists)
        assert len(list(home.glob(f"{PREFIX}*/half.s"))) == 1
        assert len(marked(f"{MARK}={mark}")) > 3
        asker.send_signal(end)
        asker.wait(5)
        wait_for(lambda: not marked(f"{MARK}={mark}"), 5)
        assert list(home.iterdir()) == []
    finally:
        asker.kill()
        for pid in marked(f"{MARK}={mark}"):
            os.kill(pid, signal.SIGKILL)


def test_a_compiler_that_takes_too_long_is_ended(
    cc: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, mark = cc(SLOW), str(uuid.uuid4())
    monkeypatch.setenv(MARK, mark)
    with pytest.raises(OSError, match="cc did not end within 1 s"):
        run_compiler(["cc"], home / "made.so", most_s=1)
    wait_for(lambda: not marked(f"{MARK}={mark}"), 5)
    assert list(home.iterdir()) == []


def test_what_a_compiler_says_is_told_and_what_it_makes_is_kept(cc: Callable[[str], Path]) -> None:
    home = cc('#!/bin/sh\ntest "$1" = good || { echo "no such thing" >&2; exit 3; }\necho x > "$3"')
    with pytest.raises(OSError, match=r"^no such thing$"):
        run_compiler(["cc", "bad"], home / "made.so", most_s=20)
    assert list(home.iterdir()) == []
    run_compiler(["cc", "good"], home / "made.so", most_s=20)
    assert [path.name for path in home.iterdir()] == ["made.so"]


def test_old_folders_of_killed_compiles_are_removed(cc: Callable[[str], Path]) -> None:
    home = cc('#!/bin/sh\necho x > "$2"')
    for name, age_s in (("old", 2 * OLD_S), ("new", 60)):
        folder = home / f"{PREFIX}{name}"
        folder.mkdir()
        (folder / "half.s").touch()
        os.utime(folder, (time.time() - age_s,) * 2)
    run_compiler(["cc"], home / "made.so", most_s=20)
    assert sorted(path.name for path in home.iterdir()) == [f"{PREFIX}new", "made.so"]


def test_where_nothing_can_be_written_the_reason_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^\[Errno 2\] No such file or directory: [^\n]*$"):
        run_compiler(["cc"], tmp_path / "nowhere" / "made.so", most_s=20)


def test_a_compiler_that_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^[^\n]*No such file or directory: 'no-such-cc'$"):
        run_compiler(["no-such-cc"], tmp_path / "made.so", most_s=20)


def test_an_asker_that_ended_is_no_compiler_that_took_too_long(
    cc: Callable[[str], Path], tmp_path: Path
) -> None:
    home = cc(SLOW)
    command = [sys.executable, "-m", "wirecut.machine.compile", str(home / "made.so"), "100", "cc"]
    asker_ended, asking = os.pipe()
    with subprocess.Popen(command, stdin=asker_ended, stdout=subprocess.PIPE) as process:
        os.close(asker_ended)
        wait_for((tmp_path / "started").exists)
        os.close(asking)
        assert process.communicate(timeout=5) == (b"", None)
    assert process.returncode == 1
