"""The test bed: hosts joined by shaped links, one wire cut alone, and nothing of it left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wirecut.bench.testbed import Bed, shaped_hosts, why_no_bed
from wirecut.errors import RankFailed, UsageError
from wirecut.fabric.probe import probe
from wirecut.machine.world import RankHost

REASON = why_no_bed()
needs_bed = pytest.mark.skipif(REASON is not None, reason=f"no test bed: {REASON}")
BITS_PER_S = 200e6
PORT = 5000

ANSWER = """
import socket, sys
room = memoryview(bytearray(1 << 20))
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while size := int(connection.recv(8, socket.MSG_WAITALL) or 0):
                left = size
                while left:
                    left -= connection.recv_into(room[:left])
                connection.sendall(room[:size])
"""
ASK = """
import socket, sys, time
room = memoryview(bytearray(1 << 20))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for size in map(int, sys.argv[3:]):
        taken = []
        for _ in range(5):  # TCP finds its pace first, and others work on this machine too
            begin = time.perf_counter()
            connection.sendall(b"%8d" % size)
            connection.sendall(room[:size])
            left = size
            while left:
                left -= connection.recv_into(room[:left])
            taken.append((time.perf_counter() - begin) / 2)
        print(size, min(taken))
"""
HELLO = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.5).close()
except TimeoutError:
    sys.exit("silence")
"""
STAND = """
import sys, time
from pathlib import Path
from wirecut.bench.testbed import shaped_hosts
with shaped_hosts(["a", "b"], bits_per_s=1e8) as bed:
    print(*(part.split("=")[1] for host in bed.hosts for part in host.prefix if "target=" in part))
    sys.stdout.flush()
    time.sleep(60)
"""


def on(host: RankHost, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*host.prefix, *words], capture_output=True, text=True, timeout=30)


def python_on(host: RankHost, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return on(host, sys.executable, "-c", code, *words)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Three hosts that answer on PORT, each with a slow second interface."""
    with shaped_hosts(["a", "b", "c"], bits_per_s=BITS_PER_S, second_bits_per_s=20e6) as made:
        servers = [
            subprocess.Popen(
                [*host.prefix, sys.executable, "-c", ANSWER, str(PORT)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for host in made.hosts
        ]
        try:
            for server in servers:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
            yield made
        finally:
            for server in servers:
                server.kill()
                server.communicate()


def ask(host: RankHost, other: RankHost, *sizes: int) -> dict[int, float]:
    """Bits per second one way, by message size, as `host` sees them."""
    asked = python_on(host, ASK, other.address, str(PORT), *map(str, sizes))
    assert asked.returncode == 0, asked.stderr
    lines = (line.split() for line in asked.stdout.splitlines())
    return {int(size): int(size) * 8 / float(seconds) for size, seconds in lines}


def talks(host: RankHost, other: RankHost) -> bool:
    hello = python_on(host, HELLO, other.address, str(PORT))
    assert hello.returncode == 0 or "silence" in hello.stderr, hello.stderr
    return hello.returncode == 0


@needs_bed
def test_a_link_carries_what_it_is_shaped_to(bed: Bed) -> None:
    rates = ask(bed.hosts[0], bed.hosts[1], 8 << 10, 64 << 10, 1 << 20)
    assert rates[1 << 20] == pytest.approx(BITS_PER_S, rel=0.1)
    assert rates[64 << 10] == pytest.approx(BITS_PER_S, rel=0.1)
    assert rates[8 << 10] < 1.4 * BITS_PER_S  # a burst helps a small message, and not much


@needs_bed
def test_the_second_interface_is_another_link(bed: Bed) -> None:
    assert ask(bed.hosts[0], bed.second[1], 64 << 10)[64 << 10] == pytest.approx(20e6, rel=0.1)


@needs_bed
def test_one_wire_is_cut_and_mended_and_the_others_go_on(bed: Bed) -> None:
    a, b, c = bed.hosts
    bed.cut("a", "b")
    try:
        assert not talks(a, b)
        assert not talks(b, a)
        assert not talks(a, bed.second[1])
        assert talks(a, c)
        assert talks(b, c)
    finally:
        bed.mend("a", "b")
    assert talks(a, b)


@needs_bed
def test_a_host_sees_its_own_name_and_interfaces(bed: Bed) -> None:
    ours = Path("/etc/hosts").read_text()
    assert "10.77.0.3" not in ours
    seen = on(bed.hosts[1], "sh", "-c", "hostname; ls /sys/class/net; pwd")
    assert seen.stdout.split() == ["b", "eth0", "eth1", "lo", str(Path.cwd())]
    limits = [sorted(p.name for p in Path("/sys/fs/cgroup").iterdir())]
    assert on(bed.hosts[1], "getent", "ahostsv4", "c").stdout.split()[0] == "10.77.0.3"
    assert Path("/etc/hosts").read_text() == ours
    assert on(bed.hosts[1], "ls", "/sys/fs/cgroup").stdout.split() == limits[0]


@needs_bed
def test_cores_are_dealt_out(bed: Bed) -> None:
    code = "import os; print(*os.sched_getaffinity(0))"
    dealt = [set(python_on(host, code).stdout.split()) for host in bed.hosts]
    ours = {str(core) for core in os.sched_getaffinity(0)}
    assert all(dealt)
    assert set.union(*dealt) <= ours
    if len(ours) >= len(bed.hosts):
        assert sum(map(len, dealt)) == len(set.union(*dealt))


def namespaces_of(pids: list[str]) -> set[str]:
    return {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}


def holders(namespaces: set[str]) -> list[str]:
    """Processes that are in one of these namespaces."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if os.readlink(place / "ns" / "net") in namespaces:
                    found.append(place.name)
            except OSError:
                continue  # gone meanwhile
    return found


def wait_until_empty(namespaces: set[str]) -> list[str]:
    deadline = time.monotonic() + 5
    while (left := holders(namespaces)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@needs_bed
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_its_process_is_killed(end: signal.Signals) -> None:
    standing = subprocess.Popen(
        [sys.executable, "-c", STAND], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert standing.stdout is not None
    pids = standing.stdout.readline().split()
    namespaces = namespaces_of(pids)
    assert len(namespaces) == 2
    standing.send_signal(end)
    standing.communicate()
    assert wait_until_empty(namespaces) == []


@needs_bed
def test_nothing_is_left_after_an_error_inside() -> None:
    before = set(Path("/sys/class/net").iterdir())
    namespaces: set[str] = set()

    def stumble() -> None:
        with shaped_hosts(["a", "b"], bits_per_s=1e8) as bed:
            prefixes = [part for host in bed.hosts for part in host.prefix]
            targets = [part.split("=")[1] for part in prefixes if "target" in part]
            namespaces.update(namespaces_of(targets))
            raise KeyError

    with pytest.raises(KeyError):
        stumble()
    assert len(namespaces) == 2
    assert wait_until_empty(namespaces) == []
    assert set(Path("/sys/class/net").iterdir()) == before


@needs_bed
def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with (
        shaped_hosts(["a", "b"], bits_per_s=1e8) as bed,
        pytest.raises(RankFailed, match=r"ip neigh del .* failed on host a"),
    ):
        bed.mend("a", "b")  # nothing is cut


@needs_bed
def test_a_probe_finds_hosts_and_what_joins_them() -> None:
    """The six beds of benchmarks/bed.py are for a quiet machine; a slow wire bears other load."""
    with shaped_hosts(["a", "b"], bits_per_s=100e6) as bed:
        fabric = probe(2, hosts=bed.hosts, arithmetic=False, wires_s=2.0)
    assert fabric is not None
    assert [device.host for device in fabric.devices] == ["a", "a", "b", "b"]
    assert set(fabric.islands) == {(0, 1), (2, 3)}
    between = [link for link in fabric.links if (link.a < 2) != (link.b < 2)]
    assert {(link.a, link.b, link.kind) for link in between} == {
        (a, b, "tcp") for a in (0, 1) for b in (2, 3)
    }
    for link in between:
        assert 8 * link.bytes_per_s == pytest.approx(100e6, rel=0.1)


@pytest.mark.parametrize(
    ("names", "bits_per_s", "said"),
    [
        (["a", "a"], 1e8, "different names"),
        ([], 1e8, "1 to 200"),
        (["a", "b c"], 1e8, "host name 'b c'"),
        (["a", "b"], 10.0, "10 bit/s"),
        (["a", "b"], float("nan"), "nan"),
    ],
)
def test_hosts_that_cannot_be_are_refused(names: list[str], bits_per_s: float, said: str) -> None:
    with pytest.raises(UsageError, match=said), shaped_hosts(names, bits_per_s=bits_per_s):
        pass


def test_the_reason_for_having_no_bed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_no_bed() == "making network namespaces takes root"
    with (
        pytest.raises(UsageError, match="takes root"),
        shaped_hosts(["a", "b"], bits_per_s=1e8),
    ):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
    assert "tc is not installed" in str(why_no_bed())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in str(why_no_bed())
