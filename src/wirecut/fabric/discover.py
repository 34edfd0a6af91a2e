"""What is here, before anything is measured: this host's GPUs, or its cores as devices.

    fabric = discover()                 # GPUs when there are any; else assumed_fabric()
    fabric = assumed_fabric()           # one device per core that this process may use

Rates of GPUs are their datasheets', those of cores are assumed.
"""

import os
import shutil
import socket
import subprocess
from dataclasses import replace
from itertools import combinations

from wirecut.errors import FabricError
from wirecut.fabric.diagnose import diagnose_host
from wirecut.fabric.fabric import Device, Fabric, Link, Made, now
from wirecut.fabric.host import HostFacts, cpu_name, host_memory_bytes, read_host, usable_cores
from wirecut.fabric.islands import find_islands
from wirecut.fabric.nvml import read_nvml
from wirecut.fabric.physics import ASSUMED_LAUNCH_S
from wirecut.version import __version__

TOOL_TIMEOUT_S = 30

# A server core of about 2023 with the machine's other cores busy; only used until `wirecut probe`.
ASSUMED_BYTES_PER_S = 12e9
ASSUMED_FLOPS_PER_S = {"bf16": 1.5e11, "fp32": 8e10, "fp16": 5e10}
ASSUMED_SHM = (5e-6, 5e9)  # seconds, bytes/s
ASSUMED_TCP = (60e-6, 2e9)


def discover(num_ranks: int | None = None) -> Fabric:
    """This host, its first `num_ranks` devices (default: all): NVIDIA GPUs by NVML, those of
    `CUDA_VISIBLE_DEVICES` where it is set; AMD GPUs by rocm-smi; else cores. Raises FabricError.
    """
    facts = read_host()
    fabric = _nvidia_fabric(facts) or _amd_fabric(facts)
    if fabric is None:
        fabric = replace(assumed_fabric(num_ranks), machines=(facts,))
    count = len(fabric.devices) if num_ranks is None else num_ranks
    gpus = count if fabric.devices[0].kind == "gpu" else 0
    findings = (*fabric.findings, *diagnose_host(facts, gpus))
    return first_devices(replace(fabric, findings=findings), count)


def first_devices(fabric: Fabric, count: int) -> Fabric:
    """The first `count` devices of the fabric and what is between them. Raises FabricError."""
    if not 1 <= count <= len(fabric.devices):
        raise FabricError(f"{count} ranks on {len(fabric.devices)} GPUs: expected one each at most")
    if count == len(fabric.devices):
        return fabric
    links = tuple(link for link in fabric.links if max(link.a, link.b) < count)
    return replace(
        fabric,
        devices=fabric.devices[:count],
        links=links,
        islands=find_islands(count, links),
        curves=tuple(c for c in fabric.curves if max(c.devices) < count),
        findings=tuple(f for f in fabric.findings if max(f.devices, default=0) < count),
    )


def _nvidia_fabric(facts: HostFacts) -> Fabric | None:
    """None without NVIDIA's driver, and when no GPU may be used."""
    snapshot = read_nvml(facts.host)
    if snapshot is None:
        return None
    from wirecut.fabric.nvml_fabric import fabric_from_nvml, visible_gpus

    snapshot = visible_gpus(snapshot, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return fabric_from_nvml(snapshot, facts, when=now()) if snapshot.gpus else None


def _amd_fabric(facts: HostFacts) -> Fabric | None:
    """None without AMD's tool, and when it finds no GPU."""
    if shutil.which("rocm-smi") is None:
        return None
    from wirecut.fabric.amd_topo import parse_amd_topo
    from wirecut.fabric.topology import topology_to_fabric

    command = ["rocm-smi", "--showproductname", "--showtopo"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TOOL_TIMEOUT_S, check=True, text=True
        )
        topology = parse_amd_topo(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError, FabricError):
        return None
    return topology_to_fabric(topology, host=facts, when=now())


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


def cores_for(device: Device) -> list[int]:
    """Cores that a rank on this device is pinned to: its own, else one of this process's, dealt
    round: a fabric may have been probed on a machine with more, and a GPU's rank needs one.
    """
    here = usable_cores()
    return [core for core in device.cpus if core in here] or [here[device.id % len(here)]]
