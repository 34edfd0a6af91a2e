"""`wirecut probe --hosts a,b`: the same command on other hosts, over ssh.

    with started_on(["a", "b"], ranks=2) as environ:
        os.environ.update(environ)         # this host is the first one
        fabric = probe()

What torchrun does for several hosts, for people who have ssh and nothing else. wirecut must be
installed on each, and found by a login shell there.
"""

import random
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from wirecut.errors import RankFailed, UsageError
from wirecut.machine.nic import address_towards
from wirecut.version import __version__

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
FIRST_PORT, LAST_PORT = 20_000, 30_000
CHECK_S, END_S = 30.0, 10.0
MOST_HOSTS = 256
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@-]*")
# ssh without a terminal does not end what it started: the remote side watches its standard input.
WATCHED = "exec 3<&0; (cat <&3; kill $$) >/dev/null 2>&1 & exec env {} wirecut probe"


@contextmanager
def started_on(hosts: Sequence[str], *, ranks: int) -> Generator[dict[str, str]]:
    """Start `ranks` ranks on every host but the first, which is this one; yield the variables that
    make this process its first. Raises UsageError before anything starts, RankFailed.
    """
    _check(hosts)
    port = random.randrange(FIRST_PORT, LAST_PORT)
    started = [
        subprocess.Popen(
            [*SSH, "--", host, WATCHED.format(shlex.join(_variables(hosts, i, ranks, port)))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, host in enumerate(hosts)
        if i
    ]
    try:
        yield dict(each.split("=", 1) for each in _variables(hosts, 0, ranks, port))
    except RankFailed as error:
        raise RankFailed(_with_their_words(error, hosts[1:], started)) from error
    finally:
        for process in started:
            if process.stdin:
                process.stdin.close()
        end = time.monotonic() + END_S
        for process in started:
            _end(process, end)


def _variables(hosts: Sequence[str], number: int, ranks: int, port: int) -> list[str]:
    """What torchrun would set for the first process of a host."""
    values = {
        "RANK": number * ranks,
        "WORLD_SIZE": len(hosts) * ranks,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": port,
    }
    return [f"{name}={value}" for name, value in values.items()]


def _check(hosts: Sequence[str]) -> None:
    """Every host is named once, the first is this one, and the others have this wirecut."""
    plain = all(NAME.fullmatch(host) for host in hosts)
    if not plain or len(set(hosts)) < len(hosts) or not 2 <= len(hosts) <= MOST_HOSTS:
        raise UsageError(
            f"--hosts is {','.join(hosts)!r}, expected 2 to {MOST_HOSTS} different names: a,b"
        )
    try:
        here = address_towards(hosts[0])
        theirs = {info[4][0] for info in socket.getaddrinfo(hosts[0], None)}
    except OSError as error:
        raise UsageError(f"--hosts: {hosts[0]} is not known here: {error.strerror}") from error
    if any(str(address).startswith("127.") for address in theirs):
        raise UsageError(
            f"--hosts: {hosts[0]} is a loopback address here, which others do not reach: name this "
            f"host by {here}"
        )
    if here not in theirs:
        raise UsageError(
            f"--hosts: the first one, {hosts[0]}, is not this host (which reaches it from {here}): "
            "run this command on it"
        )
    with ThreadPoolExecutor(32) as pool:
        reasons = [reason for reason in pool.map(_why_not, hosts[1:]) if reason]
    if reasons:
        raise UsageError("; ".join(reasons))


def _why_not(host: str) -> str | None:
    """Why `host` cannot be measured; None when it can."""
    try:
        done = subprocess.run(
            [*SSH, "--", host, "wirecut --version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"ssh {host}: {error}"
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return f"ssh {host} `wirecut --version` ended with {done.returncode}: {said[-1:]}"
    if __version__ not in done.stdout:
        return f"{host} has {done.stdout.strip()}, this host {__version__}: install the same"
    return None


def _with_their_words(
    error: RankFailed, hosts: Sequence[str], started: Sequence["subprocess.Popen[str]"]
) -> str:
    """The error, with what hosts said that ended before."""
    words = [str(error)]
    for host, process in zip(hosts, started, strict=True):
        if process.poll():
            said = [line for line in _end(process, 0.0).splitlines() if line.startswith("error:")]
            words += [f"{host}: {line.removeprefix('error:').strip()}" for line in said[-1:]]
    return "\n  ".join(words)


def _end(process: "subprocess.Popen[str]", deadline: float) -> str:
    """Let it end by itself until the deadline. What it said on the way."""
    process.stdin = None
    try:
        return process.communicate(timeout=max(0.1, deadline - time.monotonic()))[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]
    except ValueError:
        return ""  # heard already
