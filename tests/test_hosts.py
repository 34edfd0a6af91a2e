"""`wirecut probe` over several hosts, started by torchrun in namespaces with shaped links."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from wirecut.bench.testbed import Bed, shaped_hosts, why_no_bed
from wirecut.fabric.fabric import Fabric, load_fabric

pytestmark = pytest.mark.skipif(why_no_bed() is not None, reason=str(why_no_bed()))
BIN = Path(sys.executable).parent


@contextmanager
def torchrun(bed: Bed, ranks: int, out: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """`torchrun ... wirecut probe` on every host of the bed; killed at the end if still there."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                *host.prefix,
                *(str(BIN / "torchrun"), "--nnodes", str(len(bed.hosts)), "--node-rank", str(i)),
                *("--nproc-per-node", str(ranks), "--master-addr", bed.hosts[0].address),
                *("--master-port", str(port), "--no-python", str(BIN / "wirecut")),
                *("probe", "--out", str(out if i == 0 else out.with_suffix(".other"))),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, host in enumerate(bed.hosts)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def said(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """(exit code, standard output, errors) of each."""
    told = [process.communicate(timeout=150) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, told, strict=True)]


def across(fabric: Fabric) -> list[float]:
    """Mbit/s of every link between two hosts."""
    return [
        link.bytes_per_s * 8 / 1e6
        for link in fabric.links
        if fabric.devices[link.a].host != fabric.devices[link.b].host
    ]


def test_two_hosts_of_two_ranks_under_torchrun(tmp_path: Path) -> None:
    """Islands, bandwidth, one file from rank 0, and the faster card that nobody uses."""
    out = tmp_path / "fabric.json"
    with (
        shaped_hosts(["left", "right"], bits_per_s=300e6, second_bits_per_s=1e9) as bed,
        torchrun(bed, 2, out) as processes,
    ):
        (code, printed, errors), *others = said(processes)
    assert code == 0, errors
    assert [(other[0], other[1]) for other in others] == [(0, "")]
    assert [path.name for path in tmp_path.iterdir()] == ["fabric.json"]
    fabric = load_fabric(out)
    assert fabric.hosts == ("left", "right")
    assert fabric.islands == ((0, 1), (2, 3))
    assert len(across(fabric)) == 4
    assert across(fabric) == [pytest.approx(300, rel=0.1)] * 4
    groups = {(c.op, c.wire, c.devices, c.at_once) for c in fabric.curves}
    assert ("all_reduce", "shm", (2, 3), 1) in groups
    assert ("all_reduce", "shm", (2, 3), 2) in groups
    assert ("all_reduce", "tcp", (0, 1, 2, 3), 1) in groups
    assert ("all_to_all", "tcp", (0, 1, 2, 3), 1) in groups
    assert ("send_recv", "tcp", (0, 2), 2) in groups
    wrong = [finding.what for finding in fabric.findings if finding.severity == "wrong"]
    assert [what.split(":")[0] for what in wrong] == ["left", "right"]
    assert all("leaves by eth0" in what and "eth1 leads there too" in what for what in wrong)
    assert "eth1" in printed


def test_a_wire_that_is_cut_is_named_by_its_pair(tmp_path: Path) -> None:
    """Everyone else goes on talking: only the two know, and all three say it."""
    with shaped_hosts(["one", "two", "three"], bits_per_s=300e6) as bed:
        bed.cut("two", "three")
        begin = time.monotonic()
        with torchrun(bed, 1, tmp_path / "fabric.json") as processes:
            ends = said(processes)
        assert time.monotonic() - begin < 45  # three starts of torch on two cores, then seconds
    for code, _, errors in ends:
        assert code == 1
        assert "nothing comes through between rank 1 (host two) and rank 2 (host three)" in errors
    assert list(tmp_path.iterdir()) == []


def fake_ssh(bed: Bed, folder: Path) -> dict[str, str]:
    """An environment where `ssh ADDRESS COMMAND` enters the bed's host with that address."""
    cases = [f'{host.address}) exec {shlex.join(host.prefix)} sh -c "$1";;' for host in bed.hosts]
    script = ["#!/bin/sh", "shift 5", "host=$1; shift", "case $host in", *cases, "esac", "exit 255"]
    folder.mkdir()
    (folder / "ssh").write_text("\n".join(script))
    (folder / "ssh").chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{BIN}:{os.environ['PATH']}"}


def test_hosts_that_ssh_reaches(tmp_path: Path) -> None:
    with shaped_hosts(["one", "two"], bits_per_s=300e6) as bed:
        addresses = [host.address for host in bed.hosts]
        command = [*bed.hosts[0].prefix, str(BIN / "wirecut"), "probe"]
        options = ["--out", str(tmp_path / "fabric.json"), "--ranks", "1"]

        def probe(*hosts: str) -> subprocess.CompletedProcess[str]:
            words = [*command, *options, "--hosts", ",".join(hosts)]
            return subprocess.run(
                words, env=env, capture_output=True, text=True, timeout=100, check=False
            )

        env = fake_ssh(bed, tmp_path / "bin")
        done = probe(*addresses)
        assert done.returncode == 0, done.stderr
        fabric = load_fabric(tmp_path / "fabric.json")
        assert fabric.hosts == ("one", "two")
        assert across(fabric) == [pytest.approx(300, rel=0.1)]
        for hosts, words in (
            (reversed(addresses), "is not this host"),
            ([addresses[0], "10.77.0.99"], "ssh 10.77.0.99 `wirecut --version` ended with 255"),
            ([addresses[0]], "expected 2 to 256 different names"),
            ([addresses[0], "-oProxyCommand=x"], "expected 2 to 256 different names"),
        ):
            refused = probe(*hosts)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert words in refused.stderr
