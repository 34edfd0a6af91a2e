"""The fabric of a host's NVIDIA GPUs, from what NVML says of them.

fabric = fabric_from_nvml(snapshot, read_host())
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from msgspec import structs

from wirecut.errors import FabricError
from wirecut.fabric.catalogue import DeviceSpec, find_device
from wirecut.fabric.diagnose import diagnose_gpus
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.host import HostFacts
from wirecut.fabric.nvml import NvmlGpu, NvmlPair, NvmlSnapshot
from wirecut.fabric.topology import Pair, TopoDevice, Topology, topology_to_fabric

# For a GPU that the catalogue does not know: tensor cores over fp32, as on Ada; an estimate only.
TENSOR_OVER_FP32 = 4
ASSUMED_BYTES_PER_S = 300e9
ASSUMED_FP32_PER_S = 10e12


def fabric_from_nvml(
    snapshot: NvmlSnapshot,
    host: HostFacts,
    device: DeviceSpec | None = None,
    when: str = "",
) -> Fabric:
    """The host's GPUs and the wires between them, rates from the catalogue. Raises FabricError.

    A GPU that the catalogue does not know gets rates from its clocks, marked `assumed`. `device`
    says that all GPUs are of this kind, whatever NVML calls them.
    """
    if not snapshot.gpus:
        raise FabricError("no GPU in this snapshot: was it taken on a machine with an NVIDIA GPU?")
    known = [device or _known(gpu) for gpu in snapshot.gpus]
    specs = [spec or _estimated(g) for spec, g in zip(known, snapshot.gpus, strict=True)]
    topology = snapshot_topology(snapshot)
    facts = replace(host, nvlink_domain=nvlink_domain(snapshot))
    fabric = topology_to_fabric(topology, specs, facts, when)
    devices = tuple(
        replace(d, memory_bytes=gpu.memory_bytes or d.memory_bytes, source=source)
        for d, gpu, source in zip(
            fabric.devices,
            snapshot.gpus,
            [
                d.source if spec else "assumed"
                for d, spec in zip(fabric.devices, known, strict=True)
            ],
            strict=True,
        )
    )
    return replace(fabric, devices=devices, findings=diagnose_gpus(snapshot))


def visible_gpus(snapshot: NvmlSnapshot, setting: str | None) -> NvmlSnapshot:
    """The GPUs that CUDA sees under this `CUDA_VISIBLE_DEVICES`, in its order; None: all.

    CUDA takes numbers and (the beginnings of) UUIDs, and stops at the first that it does not know.
    """
    if setting is None:
        return snapshot
    chosen: list[int] = []
    for word in (part.strip() for part in setting.split(",")):
        matches = [
            place
            for place, gpu in enumerate(snapshot.gpus)
            if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen += matches
    said = {frozenset((pair.a, pair.b)): pair for pair in snapshot.pairs}
    pairs = [
        structs.replace(said[frozenset((chosen[a], chosen[b]))], a=a, b=b)
        for a, b in combinations(range(len(chosen)), 2)
        if frozenset((chosen[a], chosen[b])) in said
    ]
    gpus = tuple(snapshot.gpus[place] for place in chosen)
    return structs.replace(snapshot, gpus=gpus, pairs=tuple(pairs))


def nvlink_domain(snapshot: NvmlSnapshot) -> str:
    """Name of the NVLink domain and clique that all GPUs are in, over all hosts; "" for none. Hosts
    of one name reach each other's GPUs over NVLink.
    """
    domains = {gpu.domain for gpu in snapshot.gpus}
    domain = next(iter(domains)) if len(domains) == 1 else None
    if domain is None or domain.state != "completed" or not domain.cluster.strip("0"):
        return ""  # boxes with an NVSwitch of their own have an all-zero cluster
    return f"{domain.cluster}.{domain.clique}"


def snapshot_topology(snapshot: NvmlSnapshot) -> Topology:
    """The same facts as `nvidia-smi topo -m`, and more: PCIe lanes, peer-to-peer, MIG."""
    gpus = snapshot.gpus
    said = {(min(pair.a, pair.b), max(pair.a, pair.b)): pair for pair in snapshot.pairs}
    notes = [f"NVIDIA driver {snapshot.driver}"] if snapshot.driver else []
    domain = nvlink_domain(snapshot)
    if domain:
        notes.append(f"NVLink domain {domain}: hosts of the same domain are joined by NVLink")
    return Topology(
        tool="NVML",
        devices=tuple(
            TopoDevice(
                name=f"GPU{gpu.index}",
                model=gpu.name,
                cpus=gpu.cpus,
                numa=gpu.numa,
                pcie=_lanes(gpu),
                mig=bool(gpu.mig),
                index=place,
            )
            for place, gpu in enumerate(gpus)
        ),
        pairs=tuple(
            _pair(gpus, said.get((a, b), NvmlPair(a, b)))
            for a, b in combinations(range(len(gpus)), 2)
        ),
        notes=tuple(notes),
    )


def _lanes(gpu: NvmlGpu) -> tuple[int, int] | None:
    """Lanes as trained now, generation as it can be: an idle GPU lowers the generation alone."""
    lanes = gpu.pcie_width or gpu.pcie_width_max
    generation = gpu.pcie_generation_max or gpu.pcie_generation
    return (generation, lanes) if generation and lanes else None


def _pair(gpus: Sequence[NvmlGpu], said: NvmlPair) -> Pair:
    a, b = min(said.a, said.b), max(said.a, said.b)
    crosses = said.ancestor or "SYS"
    status = said.p2p.get("nvlink")
    if status in (None, "ok") and not (gpus[a].mig or gpus[b].mig):
        direct = sum(
            1
            for link in gpus[a].nvlinks
            if link.active and link.remote == "gpu" and link.remote_bus == gpus[b].bus
        )
        if direct:
            return Pair(a, b, f"NV{direct}", "nvlink", direct, crosses=crosses, switched=False)
        # A virtual machine hides the switch: links to something unknown that reach another GPU.
        remotes = ("switch", "unknown") if status == "ok" else ("switch",)
        through = min(
            sum(1 for link in gpus[i].nvlinks if link.active and link.remote in remotes)
            for i in (a, b)
        )
        if through:
            return Pair(a, b, f"NV{through}", "nvlink", through, crosses=crosses, switched=True)
    statuses = [said.p2p[way] for way in ("read", "write") if way in said.p2p]
    p2p = all(status == "ok" for status in statuses) if statuses else None
    return Pair(a, b, crosses, "pcie", crosses=crosses, p2p=p2p)


def _known(gpu: NvmlGpu) -> DeviceSpec | None:
    try:
        return find_device(gpu.name)
    except FabricError:
        return None


def _estimated(gpu: NvmlGpu) -> DeviceSpec:
    """From clocks: 2 FLOP per core and cycle, 2 transfers per memory cycle and bit."""
    memory = 2e6 * (gpu.memory_clock_max or 0) * (gpu.memory_bus_bits or 0) / 8
    fp32 = 2e6 * (gpu.num_cores or 0) * (gpu.sm_clock_max or 0) or ASSUMED_FP32_PER_S
    tensor = fp32 * (TENSOR_OVER_FP32 if gpu.compute and gpu.compute >= (7, 0) else 1)
    speeds = [link.bytes_per_s for link in gpu.nvlinks if link.bytes_per_s]
    return DeviceSpec(
        name=gpu.name,
        vendor="NVIDIA",
        architecture="",
        memory_bytes=gpu.memory_bytes,
        bytes_per_s=memory or ASSUMED_BYTES_PER_S,
        flops_per_s={"fp32": fp32, "bf16": tensor, "fp16": tensor},
        usual_wire="nvlink-mesh" if speeds else "pcie4",
        pcie=f"pcie{min(5, max(2, gpu.pcie_generation_max or 4))}",
        p2p=False,
        source="clocks that NVML tells; tensor rates assumed",
        link_bytes_per_s=sum(speeds),
        num_links=len(speeds),
    )
