"""However a command ends (Ctrl-C, a death, a kill): its exit code, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from commands import Command
from models import write_model
from wirecut.errors import RankFailed
from wirecut.fabric.discover import assumed_fabric, host_devices
from wirecut.fabric.fabric import save_fabric
from wirecut.fabric.probing import ProbeTask, Said
from wirecut.machine.channel import Channel
from wirecut.machine.ranks import Exited, Failed, HostProcess, Ranks, start_ranks

INTERRUPTED = 130
SOON_S = 5.0  # from a signal to the end of the command
HELLO = "hello"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose window leaves room for a long answer, and fabrics of two devices, by wire."""
    folder = tmp_path_factory.mktemp("bench")
    write_model(folder / "model", positions=2**17)
    for wire in ("shm", "tcp"):
        save_fabric(assumed_fabric(2).only(wire), folder / f"{wire}.json")
    return folder


Generate = Callable[..., Command]


@pytest.fixture
def generate(bench: Path, tmp_path: Path) -> Generate:
    def start(layout: str = "tp2", wire: str = "shm") -> Command:
        words = ["--prompt", HELLO, "--max-tokens", "100000", "--layout", layout]
        fabric = str(bench / f"{wire}.json")
        return Command(tmp_path, "generate", str(bench / "model"), "--fabric", fabric, *words)

    return start


def until_writing(command: Command) -> None:
    """Until the answer is being written, by two ranks."""
    command.wait_until(lambda: len(command.stdout) > len(HELLO) + 10, "text")
    assert len(command.ranks()) == 2


def end_of(command: Command, send: int, to: int) -> int:
    """The exit code of a command that ends soon after a signal to a process, or to a group (-)."""
    begin = time.monotonic()
    os.kill(to, send)
    code = command.end()
    assert time.monotonic() - begin < SOON_S
    assert command.left_behind() == ""
    return code


def ctrl_c(command: Command) -> int:
    """As a terminal does it: the signal goes to the whole process group."""
    return end_of(command, signal.SIGINT, -command.process.pid)


def test_ctrl_c_while_libraries_are_imported(generate: Generate) -> None:
    with generate() as command:
        command.wait_until(command.host, "host process")
        assert ctrl_c(command) == INTERRUPTED
        assert (command.stdout, command.stderr) == ("", "")


def test_ctrl_c_while_loading(generate: Generate) -> None:
    with generate() as command:
        command.wait_until(lambda: len(command.ranks()) == 2, "ranks")
        assert ctrl_c(command) == INTERRUPTED
        assert "Traceback" not in command.stderr


@pytest.mark.parametrize(("layout", "wire"), [("tp2", "shm"), ("pp2", "tcp")])
def test_ctrl_c_while_generating(generate: Generate, layout: str, wire: str) -> None:
    with generate(layout, wire) as command:
        until_writing(command)
        assert ctrl_c(command) == INTERRUPTED
        assert "Traceback" not in command.stderr


def test_ctrl_c_again_and_again(generate: Generate) -> None:
    with generate() as command:
        until_writing(command)
        while command.process.poll() is None:
            os.kill(-command.process.pid, signal.SIGINT)
            time.sleep(0.005)
        assert command.end() != 0
        assert command.left_behind() == ""


@pytest.mark.parametrize("after_s", [0.0, 1.5])
def test_ctrl_c_while_probing(tmp_path: Path, after_s: float) -> None:
    with Command(tmp_path, "probe", "--ranks", "2") as command:
        command.wait_until(lambda: len(command.ranks()) == 2, "ranks")
        time.sleep(after_s)
        assert ctrl_c(command) == INTERRUPTED
        assert not (tmp_path / "fabric.json").exists()
        assert "Traceback" not in command.stderr


@pytest.mark.parametrize(
    ("layout", "wire", "victim"),
    [("tp2", "shm", 1), ("pp2", "shm", 0), ("pp2", "tcp", 1), ("dp2", "shm", 1)],
)
def test_a_rank_that_dies_is_named(generate: Generate, layout: str, wire: str, victim: int) -> None:
    with generate(layout, wire) as command:
        until_writing(command)
        assert end_of(command, signal.SIGKILL, command.ranks()[victim]) == 1
        said = command.stderr.splitlines()[-1]
        assert re.fullmatch(r"error: .*\branks? (\d)\b.*", said)
        assert f"rank {victim} died: killed by SIGKILL" in said


def test_a_rank_that_dies_while_loading_is_named(generate: Generate) -> None:
    with generate() as command:
        command.wait_until(lambda: len(command.ranks()) == 2, "ranks")
        assert end_of(command, signal.SIGKILL, command.ranks()[0]) == 1
        assert "rank 0 died: killed by SIGKILL" in command.stderr


def test_a_rank_that_dies_while_probing_is_named(tmp_path: Path) -> None:
    with Command(tmp_path, "probe", "--ranks", "2") as command:
        command.wait_until(lambda: len(command.ranks()) == 2, "ranks")
        assert end_of(command, signal.SIGKILL, command.ranks()[1]) == 1
        assert "rank 1 died: killed by SIGKILL" in command.stderr


@pytest.mark.parametrize("with_ranks", [False, True])
def test_the_host_process_dies(generate: Generate, with_ranks: bool) -> None:
    with generate() as command:
        if with_ranks:
            until_writing(command)
        command.wait_until(command.host, "host process")
        host = command.host()
        assert host
        assert end_of(command, signal.SIGKILL, host) == 1
        said = command.stderr.splitlines()[-1]
        assert said.startswith(
            "error: the process that holds the ranks of this host ended (killed by SIGKILL"
        )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_command_itself_dies(generate: Generate, how: signal.Signals) -> None:
    with generate() as command:
        until_writing(command)
        assert end_of(command, how, command.process.pid) == -how


def test_the_command_itself_dies_while_libraries_are_imported(generate: Generate) -> None:
    with generate() as command:
        command.wait_until(command.host, "host process")
        assert end_of(command, signal.SIGKILL, command.process.pid) == -signal.SIGKILL


def test_a_killed_rank_is_named_though_another_gives_up_first() -> None:
    """Its neighbour notices the broken wire, says so, and is heard before the death is."""
    host, (ours, theirs) = subprocess.Popen([sys.executable, "-c", ""]), Channel.pair()
    lines = [Channel.pair() for _ in range(2)]
    channels = [Channel(mine, Failed) for mine, _ in lines]
    held = HostProcess("here", (0, 1), host, Channel(ours, Exited | Failed))
    with Ranks([held], dict(enumerate(channels))) as ranks:
        Channel(lines[0][1]).send(Failed("receive from rank 1 failed"))
        watch = Channel(theirs)
        watch.send(Exited(0, 1))
        watch.send(Exited(1, -signal.SIGKILL))
        with pytest.raises(RankFailed, match="rank 1 died: killed by SIGKILL"):
            ranks.next_message()
    for end in (theirs, *(end for _, end in lines)):
        end.close()


def test_a_core_that_is_not_there_is_said_by_the_rank() -> None:
    task = msgspec.msgpack.encode(ProbeTask(host_devices(1)[0], 1))
    with (
        start_ranks("wirecut.fabric.measure", [task], [[10**5]], accepts=Said) as ranks,
        pytest.raises(RankFailed, match=r"rank 0: OSError: .*Invalid argument"),
    ):
        ranks.next_message(timeout_s=30)
