"""What is here: this host's cores as devices, before anything is measured. Numbers from here are
`assumed`.

    fabric = assumed_fabric()           # one device per core that this process may use
"""

import os
import platform
import socket
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from wirecut.errors import FabricError
from wirecut.fabric.fabric import Device, Fabric, Link, Made
from wirecut.version import __version__

# A server core of about 2023 with the machine's other cores busy; only used until `wirecut probe`.
ASSUMED_BYTES_PER_S = 12e9
ASSUMED_FLOPS_PER_S = {"bf16": 1.5e11, "fp32": 8e10, "fp16": 5e10}
ASSUMED_LAUNCH_S = 3e-6
ASSUMED_SHM = (5e-6, 5e9)  # seconds, bytes/s
ASSUMED_TCP = (60e-6, 2e9)


def assumed_fabric(num_ranks: int | None = None) -> Fabric:
    """This host with `num_ranks` devices (default: one per core), every rate assumed. Raises
    FabricError.
    """
    devices = host_devices(num_ranks)
    links = tuple(
        Link(a.id, b.id, kind, latency_s, bytes_per_s, "assumed")
        for a, b in combinations(devices, 2)
        for kind, (latency_s, bytes_per_s) in (("shm", ASSUMED_SHM), ("tcp", ASSUMED_TCP))
    )
    made = Made(now(), "assumed from the number of cores; `wirecut probe` measures", __version__)
    return Fabric(devices, links, (tuple(device.id for device in devices),), made)


def host_devices(num_ranks: int | None = None) -> tuple[Device, ...]:
    """Cores as devices: device i sits on core i, round and round when there are more devices than
    cores.
    """
    cores = usable_cores()
    count = len(cores) if num_ranks is None else num_ranks
    if not 1 <= count <= 64 * len(cores):
        raise FabricError(
            f"{count} ranks on {len(cores)} cores: expected 1 to {64 * len(cores)} (64 a core)"
        )
    sharing = max(1.0, count / len(cores))
    share = host_memory_bytes() // count
    return tuple(
        Device(
            id=i,
            host=socket.gethostname(),
            kind="cpu-core",
            name=cpu_name(),
            memory_bytes=share,
            bytes_per_s=ASSUMED_BYTES_PER_S / sharing,
            flops_per_s={dtype: rate / sharing for dtype, rate in ASSUMED_FLOPS_PER_S.items()},
            launch_s=ASSUMED_LAUNCH_S * sharing,
            source="assumed",
            cpus=(cores[i % len(cores)],),
        )
        for i in range(count)
    )


def usable_cores() -> list[int]:
    """Cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0))


def host_memory_bytes() -> int:
    """Memory of this host, or of this process's cgroup where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else "max"
        if text.isdigit():
            total = min(total, int(text))
    return total


def cpu_name() -> str:
    """The processor's name as the kernel tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
