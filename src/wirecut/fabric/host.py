"""What a host is made of besides its devices: cores, NUMA nodes, memory limits, network cards.

    facts = read_host()            # this host, from /proc and /sys
    facts.nics

`read_host` takes the root of the file system to read, so that a copied tree can be read too.
"""

import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from wirecut.facts import fact

MAX_NUMBER = 1 << 16  # of a core or NUMA node: Linux builds for 8192 cores and 1024 nodes
ROOT = Path("/")


@fact
class Nic:
    """A network card, or a port of an RDMA device. `kind`: "ethernet", "infiniband" or "roce", or
    "rdma" where only that much is known.

    `bytes_per_s` None: the kernel does not know (a virtual card). `netdev` is the network interface
    that an RDMA device belongs to. `virtual`: no hardware of its own (a bridge, a bond, a veth).
    `near` are the devices that have no nearer card.
    """

    name: str
    kind: str
    bytes_per_s: float | None
    up: bool
    address: str = ""
    numa: int | None = None
    netdev: str = ""
    virtual: bool = False
    near: tuple[int, ...] = ()


@fact
class HostFacts:
    """One host. `memory_bytes`, `cores` and `cpu_limit` (cores' worth of time) are what this
    process may use: a cgroup's where it has less. `shm_bytes` is the size of /dev/shm.

    `numa[n]` are the cores of NUMA node n. `total_memory_bytes` is what the machine has.
    `nvlink_domain` names the NVLink domain that its GPUs share with other hosts (NVL72).
    `memory_bytes` 0: unknown, as of a host known from a saved text.
    """

    host: str
    cpu: str
    cores: tuple[int, ...]
    memory_bytes: int
    numa: tuple[tuple[int, ...], ...] = ()
    cpu_limit: float | None = None
    shm_bytes: int | None = None
    nics: tuple[Nic, ...] = ()
    total_memory_bytes: int | None = None
    nvlink_domain: str = ""


def read_host(root: Path = ROOT, host: str | None = None) -> HostFacts:
    """The facts of the host whose file system is under `root`. What cannot be read is left out."""
    total = _memory_total(root)
    return HostFacts(
        host=host or socket.gethostname(),
        cpu=cpu_name(root),
        cores=_cores(root),
        memory_bytes=min(total, _memory_limit(root) or total),
        numa=_numa(root),
        cpu_limit=_cpu_limit(root),
        shm_bytes=_shm_bytes(root),
        nics=(*_net_cards(root), *_rdma_ports(root)),
        total_memory_bytes=total,
    )


def usable_cores() -> list[int]:
    """Cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0))


def host_memory_bytes() -> int:
    """Memory of this host, or of this process's cgroup where that is less."""
    total = _memory_total(ROOT)
    return min(total, _memory_limit(ROOT) or total)


def free_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process may still take, by what the host has left and what its cgroups do;
    None: unknown. What the kernel keeps of files counts as free.
    """
    available = _meminfo(root, "MemAvailable")
    left = [available] if available else []
    left += [limit - _memory_used(group) for group, limit in _memory_limits(root)]
    return max(0, min(left)) if left else None


def cpu_name(root: Path = ROOT) -> str:
    """The processor's name as the kernel tells it."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine() if root == ROOT else "unknown"


def number_list(text: str) -> tuple[int, ...]:
    """Of "0-3,8": (0, 1, 2, 3, 8), as the kernel and nvidia-smi write cores. Empty for anything
    else, and for numbers that no machine has.
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if match is None:
            return ()
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MAX_NUMBER:
            return ()
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def show_gbits(bytes_per_s: float) -> str:
    """A card's speed as it is sold: 50e9 -> '400 Gbit/s'."""
    return f"{bytes_per_s * 8 / 1e9:.4g} Gbit/s"


def read_text(path: Path) -> str:
    """What the file says, stripped; empty when it cannot be read, as sysfs files often cannot."""
    try:
        return path.read_bytes().decode(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroup and of those above it: of version 2 (""), or of one of
    version 1's controllers. A container sees its own cgroup as the topmost.
    """
    base = root / "sys/fs/cgroup" / controller
    found = [base]
    for line in read_text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        group = Path(path.strip("/"))
        if controller in controllers.split(",") and ".." not in group.parts:
            found += [base / parent for parent in (group, *group.parents)]
    return found


def _memory_limit(root: Path) -> int | None:
    return min((limit for _, limit in _memory_limits(root)), default=None)


def _memory_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """The groups that limit memory, and to what."""
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for group in _groups(root, controller):
            text = read_text(group / name)
            if re.fullmatch(r"[0-9]{1,20}", text) and int(text) > 0:
                yield group, int(text)


def _memory_used(group: Path) -> int:
    """By version 2 or 1, without what is kept of files."""
    used = read_text(group / "memory.current") or read_text(group / "memory.usage_in_bytes")
    stat = read_text(group / "memory.stat")
    files = {
        match[1]: int(match[2])
        for match in re.finditer(r"^(?:total_)?((?:in)?active_file) ([0-9]{1,20})$", stat, re.M)
    }  # of version 1 the total, which comes last, has the groups below
    return max(0, int(used) - sum(files.values())) if used.isdecimal() else 0


def _cpu_limit(root: Path) -> float | None:
    """Cores' worth of time: quota / period, both in microseconds; "max" or -1 is no limit."""
    texts = [read_text(group / "cpu.max") for group in _groups(root, "")]
    texts += [
        f"{read_text(group / 'cpu.cfs_quota_us')} {read_text(group / 'cpu.cfs_period_us')}"
        for group in _groups(root, "cpu")
    ]
    found = [re.fullmatch(r"([0-9]{1,15}) ([1-9][0-9]{0,14})", text) for text in texts]
    return min((int(m[1]) / int(m[2]) for m in found if m and int(m[1]) > 0), default=None)


def _memory_total(root: Path) -> int:
    return _meminfo(root, "MemTotal")


def _meminfo(root: Path, name: str) -> int:
    """Bytes; 0 where the kernel does not say."""
    text = read_text(root / "proc/meminfo")
    match = re.search(rf"^{name}:\s*([0-9]{{1,15}}) kB", text, re.M)
    return int(match[1]) * 1024 if match else 0


def _cores(root: Path) -> tuple[int, ...]:
    if root == ROOT:
        return tuple(usable_cores())
    online = number_list(read_text(root / "sys/devices/system/cpu/online"))
    if online:
        return online
    return tuple(
        sorted(
            int(number)
            for number in re.findall(
                r"^processor\s*:\s*([0-9]{1,6})$", read_text(root / "proc/cpuinfo"), re.M
            )
        )
    )


def _numa(root: Path) -> tuple[tuple[int, ...], ...]:
    """Nodes without cores (a GPU's own memory on Grace) stay, so that the place is the number."""
    nodes = {
        int(path.name[4:]): number_list(read_text(path / "cpulist"))
        for path in _entries(root / "sys/devices/system/node")
        if re.fullmatch(r"node[0-9]{1,4}", path.name)
    }
    return tuple(nodes.get(i, ()) for i in range(max(nodes, default=-1) + 1))


def _shm_bytes(root: Path) -> int | None:
    if root != ROOT:
        return None
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return None
    return status.f_blocks * status.f_frsize


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _net_cards(root: Path) -> Iterator[Nic]:
    """Network interfaces. ARPHRD types: 1 Ethernet, 32 InfiniBand (IP over it)."""
    for path in _entries(root / "sys/class/net"):
        kind = {"1": "ethernet", "32": "infiniband"}.get(read_text(path / "type"))
        if path.name == "lo" or kind is None:
            continue
        virtual = not (path / "device").exists()
        # A veth claims 10 Gbit/s whatever it does; a bond or a VLAN tells its cards' speed.
        told = not virtual or re.search(r"^DEVTYPE=(bond|vlan)$", read_text(path / "uevent"), re.M)
        speed = read_text(path / "speed") if told else ""
        mbits = int(speed) if re.fullmatch(r"[0-9]{1,8}", speed) else 0
        yield Nic(
            name=path.name,
            kind=kind,
            bytes_per_s=mbits * 1e6 / 8 if mbits else None,
            up=read_text(path / "operstate") == "up",
            address=read_text(path / "address"),
            numa=_node(path / "device/numa_node"),
            virtual=virtual,
        )


def _rdma_ports(root: Path) -> Iterator[Nic]:
    """Ports of RDMA devices: `rate` reads "400 Gb/sec (4X NDR)", `state` "4: ACTIVE"."""
    for device in _entries(root / "sys/class/infiniband"):
        ports = _entries(device / "ports")
        for port in ports:
            rate = re.match(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) Gb/sec", read_text(port / "rate"))
            netdevs = [path.name for path in _entries(device / "device/net")]
            yield Nic(
                name=device.name if len(ports) == 1 else f"{device.name}:{port.name}",
                kind="infiniband" if read_text(port / "link_layer") == "InfiniBand" else "roce",
                bytes_per_s=float(rate[1]) * 1e9 / 8 if rate and float(rate[1]) > 0 else None,
                up="ACTIVE" in read_text(port / "state"),
                address=read_text(port / "gids/0"),
                numa=_node(device / "device/numa_node"),
                netdev=read_text(port / "gid_attrs/ndevs/0") or (netdevs or [""])[0],
            )


def _node(path: Path) -> int | None:
    """A NUMA node; the kernel writes -1 where there is none."""
    text = read_text(path)
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None
