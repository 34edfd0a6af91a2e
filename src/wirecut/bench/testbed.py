"""A test bed on one machine: hosts as network namespaces, joined by links of a known speed.

    with shaped_hosts(["a", "b"], bits_per_s=100e6) as bed:
        fabric = probe(hosts=bed.hosts)

Root and Linux only; `why_no_bed()` says what is missing. Every host has an interface `eth0` on one
bridge, in a namespace of its own: the switch. Both directions of every port are shaped.

Nothing has a name that could be left behind. Each namespace is held open by a `cat` that reads from
this process: however this process ends, the pipe closes, `cat` ends, and the kernel takes the
namespace with its interfaces, bridge and mounts.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from wirecut.errors import RankFailed, UsageError
from wirecut.machine.world import RankHost

TOOLS = ("ip", "tc", "unshare", "nsenter", "taskset", "mount")
LEAST_BITS_PER_S, MOST_BITS_PER_S = 1e6, 1e10
MOST_HOSTS = 200
MTU_BYTES = 1500
# What a port may send at once after it was idle, a token bucket's size (tc-tbf(8)). Small, so that
# messages of some KiB are paced too; large enough for a packet, and for what comes due while the
# kernel's timer is late, which would be lost.
BURST_S = 110e-6
LEAST_BURST_BYTES = 2400
SWITCH_BURSTS = 4  # the switch only paces where several hosts send to one
BUFFER_S = 0.02  # what a port keeps before it drops, as switches have it
LEAST_BUFFER_BYTES = 256 << 10
NOWHERE = "02:00:00:00:00:00"  # a hardware address that no port leads to
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
# $0 is the host's name, $1 an /etc/hosts. A /sys of its own shows the namespace's interfaces and no
# others; cgroup limits stay in sight.
HOLD = """
set -e
hostname "$0"
exec 3</sys/fs/cgroup
mount -t tmpfs tmpfs /sys && echo "$1" >/sys/hosts
test ! -f /etc/hosts || mount --bind /sys/hosts /etc/hosts
mount -t sysfs sysfs /sys && mount --no-canonicalize --rbind /proc/self/fd/3 /sys/fs/cgroup
exec cat 3<&-
"""
TRY = """
ip link add name try0 type veth peer name try1 &&
ip link add name try2 type bridge &&
tc qdisc add dev try0 root tbf rate 1mbit burst 2400 limit 10000
"""


@dataclass(frozen=True, slots=True)
class Bed:
    """Hosts that stand. `second` are the same hosts, reached through their second interface
    `eth1`; empty when they have none.
    """

    hosts: tuple[RankHost, ...]
    second: tuple[RankHost, ...] = ()

    def cut(self, a: str, b: str) -> None:
        """Drop every packet between hosts `a` and `b`, as a broken wire does: nobody is told."""
        for here, there in self._pairs(a, b):
            for interface, other in there:
                _run(here, "ip", "neigh", "replace", other.address, "lladdr", NOWHERE,
                     "nud", "permanent", "dev", interface)  # fmt: skip

    def mend(self, a: str, b: str) -> None:
        """Undo `cut`."""
        for here, there in self._pairs(a, b):
            for interface, other in there:
                _run(here, "ip", "neigh", "del", other.address, "dev", interface)

    def _pairs(self, a: str, b: str) -> Iterator[tuple[RankHost, list[tuple[str, RankHost]]]]:
        """Either end, with the interfaces that lead to the other and its addresses there."""
        places = {host.name: i for i, host in enumerate(self.hosts)}
        for here, there in ((places[a], places[b]), (places[b], places[a])):
            ways = [("eth0", self.hosts[there])]
            ways += [("eth1", host) for host in self.second[there : there + 1]]
            yield self.hosts[here], ways


def why_no_bed() -> str | None:
    """Why hosts cannot be made here, in words that go after "because"; None when they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} is not installed (iproute2 and util-linux have them)"
    trial = ["unshare", "--net", "--mount", "--uts", "sh", "-c", TRY]
    tried = subprocess.run(trial, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if tried.returncode:
        said = tried.stderr.strip().partition("\n")[0]
        return f"this kernel or container does not allow namespaces with shaped links ({said})"
    return None


@contextmanager
def shaped_hosts(
    names: Sequence[str], *, bits_per_s: float, second_bits_per_s: float | None = None
) -> Iterator[Bed]:
    """Hosts of these names joined by a switch whose ports carry `bits_per_s` each way.

    This process's cores are dealt out among them. `second_bits_per_s` gives each a second
    interface on another switch. Raises UsageError for what cannot be, RankFailed when it fails.
    """
    _check(names, bits_per_s, second_bits_per_s)
    if reason := why_no_bed():
        raise UsageError(f"no hosts can be made here: {reason}")
    with ExitStack() as stack:
        cores = _deal_cores(len(names))
        addresses = [f"10.77.0.{i + 1}" for i in range(len(names))]
        known = "\n".join(
            f"{before}{address} {name}"
            for before in ("", "::ffff:")  # torch's store asks for the name in IPv6's form
            for address, name in zip(addresses, names, strict=True)
        )
        pids = [stack.enter_context(_namespace(name, known)) for name in names]
        hosts = tuple(
            RankHost(name, _inside(pid, each), address, tuple(each))
            for name, pid, each, address in zip(names, pids, cores, addresses, strict=True)
        )
        for host in hosts:
            _run(host, "ip", "link", "set", "lo", "up")
        switch = RankHost("switch", _inside(stack.enter_context(_namespace("switch"))))
        _lay(switch, hosts, pids, "eth0", bits_per_s)
        second: tuple[RankHost, ...] = ()
        if second_bits_per_s is not None:
            second = tuple(replace(h, address=f"10.78.0.{i + 1}") for i, h in enumerate(hosts))
            _lay(switch, second, pids, "eth1", second_bits_per_s)
        yield Bed(hosts, second)


def _check(names: Sequence[str], *rates: float | None) -> None:
    if not 1 <= len(names) <= MOST_HOSTS or len(set(names)) < len(names):
        raise UsageError(f"hosts are {list(names)}, expected 1 to {MOST_HOSTS} different names")
    for name in names:
        if not NAME.fullmatch(name):
            raise UsageError(f"host name {name!r}: expected letters, digits and hyphens")
    for rate in rates:
        if rate is not None and not LEAST_BITS_PER_S <= rate <= MOST_BITS_PER_S:
            raise UsageError(
                f"a link of {rate:g} bit/s: expected {LEAST_BITS_PER_S:g} to {MOST_BITS_PER_S:g}"
            )


@contextmanager
def _namespace(name: str, known: str = "") -> Iterator[int]:
    """A network, mount and host-name namespace, by the id of a process in it. `known` are further
    lines of its /etc/hosts.
    """
    names = f"127.0.0.1 localhost\n{known}"
    holder = subprocess.Popen(
        ["unshare", "--net", "--mount", "--uts", "sh", "-c", HOLD, name, names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is this process's to act on
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        with suppress(BrokenPipeError):  # it has ended already: what it said tells why
            holder.stdin.write(b"\n")
            holder.stdin.flush()
        if holder.stdout.readline() != b"\n":  # `cat` runs, so the namespace stands
            said = holder.stderr.read().decode(errors="replace").strip()
            raise RankFailed(f"no namespace for host {name}: {said}")
        yield holder.pid
    finally:
        for pipe in (holder.stdin, holder.stdout, holder.stderr):
            with suppress(BrokenPipeError):
                pipe.close()
        holder.wait()


def _inside(pid: int, cores: Sequence[int] = ()) -> tuple[str, ...]:
    """What to put before a command to run it in the namespaces of `pid`, on `cores` alone."""
    enter = ("nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--wd")
    return (*enter, "taskset", "--cpu-list", ",".join(map(str, cores))) if cores else enter


def _deal_cores(num_hosts: int) -> list[list[int]]:
    """This process's cores for each host: shared out, or one each in turn when there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // num_hosts
    if not each:
        return [[cores[i % len(cores)]] for i in range(num_hosts)]
    return [cores[i * each : (i + 1) * each] for i in range(num_hosts)]


def _lay(
    switch: RankHost, hosts: Sequence[RankHost], pids: Sequence[int], nic: str, bits_per_s: float
) -> None:
    """A bridge in the switch, and a shaped wire from it to interface `nic` of every host."""
    bridge = f"br-{nic}"
    _run(switch, "ip", "link", "add", bridge, "type", "bridge")
    _run(switch, "ip", "link", "set", bridge, "addrgenmode", "none", "up")
    for i, (host, pid) in enumerate(zip(hosts, pids, strict=True)):
        port = f"{nic}-{i}"
        _run(switch, "ip", "link", "add", port, "mtu", f"{MTU_BYTES}", "type", "veth", "peer",
             "name", nic, "mtu", f"{MTU_BYTES}", "netns", f"{pid}")  # fmt: skip
        for at, interface, bursts in ((host, nic, 1), (switch, port, SWITCH_BURSTS)):
            _run(at, "ip", "link", "set", interface, "addrgenmode", "none")
            _run(at, "tc", "qdisc", "add", "dev", interface, "root", *_tbf(bits_per_s, bursts))
        _run(switch, "ip", "link", "set", port, "master", bridge, "up")
        # Packets for an address that the bridge has not learned go nowhere, see `Bed.cut`.
        _run(switch, "ip", "link", "set", port, "type", "bridge_slave", "flood", "off")
        _run(host, "ip", "address", "add", f"{host.address}/24", "dev", nic)
        _run(host, "ip", "link", "set", nic, "up")


def _tbf(bits_per_s: float, bursts: int) -> list[str]:
    """A token bucket of this rate, as arguments of `tc qdisc add`."""
    burst = bursts * max(LEAST_BURST_BYTES, round(bits_per_s / 8 * BURST_S))
    limit = burst + max(LEAST_BUFFER_BYTES, round(bits_per_s / 8 * BUFFER_S))
    return ["tbf", "rate", f"{bits_per_s:.0f}bit", "burst", f"{burst}", "limit", f"{limit}"]


def _run(host: RankHost, *command: str) -> None:
    """Run a command on a host. Raises RankFailed with what it said when it fails."""
    done = subprocess.run(
        [*host.prefix, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RankFailed(f"`{' '.join(command)}` failed on host {host.name}: {done.stderr.strip()}")
