"""What is wrong with a machine's wires, said so that a person can act on it.

    diagnose_gpus(snapshot)                  # links trained low, NVLinks down, P2P refused
    diagnose_host(read_host(), num_ranks=4)  # /dev/shm, cgroup limits, network cards

Pure functions of facts: what was seen against what was expected, and what to do. What shows only
when measured is in `compare` (slower than its like) and `traffic` (left by the wrong card).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from wirecut.fabric.fabric import Finding
from wirecut.fabric.host import HostFacts, show_gbits
from wirecut.fabric.nvml import NvmlGpu, NvmlPair, NvmlSnapshot
from wirecut.units import GIB, MIB, show_bytes, show_rate

SLOWER = 0.15  # below its like by more than this share: worth a word
# NCCL's segment of one connection is 9.6 MB (its 4 MiB buffer and the low-latency ones); a ring on
# 2 channels has 4 of them a rank, and as much again for trees. Assumed; NVIDIA advises 1 GiB.
SHM_BYTES_PER_RANK = 80 * MIB

_P2P_ADVICE = {
    "chipset not supported": "the chipset passes no PCIe traffic between these slots: put both "
    "below one PCIe switch or root complex",
    "GPU not supported": "GeForce drivers refuse it: only an NVLink bridge (up to the RTX 3090) or "
    "professional cards avoid the way through host memory",
    "topology not supported": "the PCIe paths do not meet: turn off the IOMMU (amd_iommu=off or "
    "intel_iommu=off, or iommu=pt) and ACS on the PCIe bridges, or move the GPUs to one socket",
    "disabled by registry key": "the driver was told to: remove NVreg_RegistryDwords (P2P) from "
    "/etc/modprobe.d and load the driver again",
}


def diagnose_gpus(snapshot: NvmlSnapshot) -> tuple[Finding, ...]:
    """From what NVML says. Devices are places in `snapshot.gpus`."""
    found: list[Finding] = []
    for i, gpu in enumerate(snapshot.gpus):
        found += _slot(i, gpu)
        found += _nvlinks(i, gpu)
        found += _power_and_clocks(i, gpu)
    mig = [i for i, gpu in enumerate(snapshot.gpus) if gpu.mig]
    if mig:
        found.append(mig_is_on({i: f"GPU{snapshot.gpus[i].index}" for i in mig}))
    found += _refused(snapshot)
    return tuple(found)


def mig_is_on(names: Mapping[int, str]) -> Finding:
    """MIG at these devices, by place."""
    return Finding(
        "wrong",
        f"MIG is on at {', '.join(names.values())}: instances reach no other GPU over NVLink or "
        "peer-to-peer, and a process sees one instance; expected whole GPUs",
        "`nvidia-smi -i N -mig 0` as root turns it off, once no process uses that GPU",
        tuple(names),
    )


def _slot(i: int, gpu: NvmlGpu) -> Iterator[Finding]:
    name = f"GPU{gpu.index}"
    if gpu.pcie_width and gpu.pcie_width_max and gpu.pcie_width < gpu.pcie_width_max:
        yield Finding(
            "wrong",
            f"{name}: PCIe link trained at x{gpu.pcie_width}, expected x{gpu.pcie_width_max}",
            "look whether the slot has all its lanes (the board's manual: slots that share lanes), "
            "reseat card and riser, clean the contacts",
            (i,),
        )
    now, best, own = gpu.pcie_generation, gpu.pcie_generation_max, gpu.pcie_generation_gpu
    if now and best and now < best:
        yield Finding(
            "note" if gpu.idle else "wrong",
            f"{name}: PCIe link at generation {now}, expected {best}"
            + (" under load; idle GPUs lower it to save power" if gpu.idle else ""),
            "look again while it works"
            if gpu.idle
            else "set the slot's generation in the BIOS, try without riser: a bad one trains low",
            (i,),
        )
    if best and own and best < own:
        yield Finding(
            "note",
            f"{name}: its slot does PCIe generation {best}, the GPU {own}",
            "a board of the GPU's generation, or a BIOS setting that limits the slot",
            (i,),
        )


def _nvlinks(i: int, gpu: NvmlGpu) -> Iterator[Finding]:
    name = f"GPU{gpu.index}"
    down = [link.link for link in gpu.nvlinks if not link.active]
    active = len(gpu.nvlinks) - len(down)
    if down and active:
        yield Finding(
            "wrong",
            f"{name}: NVLink {', '.join(map(str, down))} down, {active} of {len(gpu.nvlinks)} up",
            "`nvidia-smi nvlink -s` and `-e` show states and errors, `dmesg` the reason (Xid 74); "
            "reset the GPU or reseat the bridge",
            (i,),
        )
    elif down and not gpu.mig:
        yield Finding(
            "note",
            f"{name}: none of its {len(down)} NVLinks is up; expected so only without a bridge",
            "fit a bridge, or on an NVSwitch box start nvidia-fabricmanager",
            (i,),
        )
    speeds = [link.bytes_per_s for link in gpu.nvlinks if link.active and link.bytes_per_s]
    slow = [s for s in speeds if s < (1 - SLOWER) * max(speeds)]
    if slow:
        yield Finding(
            "wrong",
            f"{name}: {len(slow)} NVLinks at {show_rate(min(slow))}, its others at "
            f"{show_rate(max(speeds))}",
            "`nvidia-smi nvlink -s`; reset the GPU",
            (i,),
        )
    if gpu.domain and gpu.domain.state in ("not started", "in progress"):
        yield Finding(
            "wrong",
            f"{name}: its NVLink domain is {gpu.domain.state}, expected completed",
            "start nvidia-fabricmanager (a rack: nvidia-imex too) and look at its log",
            (i,),
        )


def _power_and_clocks(i: int, gpu: NvmlGpu) -> Iterator[Finding]:
    name = f"GPU{gpu.index}"
    limit, usual = gpu.power_limit, gpu.power_default
    if limit and usual and limit < 0.99 * usual:
        yield Finding(
            "slow",
            f"{name}: power cap {limit:.0f} W, expected {usual:.0f} W as delivered",
            f"`nvidia-smi -i {gpu.index} -pl {usual:.0f}` as root, if cooling and supply allow",
            (i,),
        )
    if gpu.slowed_by:
        yield Finding(
            "slow",
            f"{name}: clocks held down by {', '.join(gpu.slowed_by)}: {gpu.sm_clock} MHz, "
            f"up to {gpu.sm_clock_max} MHz expected",
            "look at cooling, supply and power cap; `nvidia-smi -rgc` and `-rac` as root lift "
            "settings; `nvidia-smi -q -d PERFORMANCE` tells more",
            (i,),
        )
    memory, memory_best = gpu.memory_clock, gpu.memory_clock_max
    if memory and memory_best and not gpu.idle and memory < 0.95 * memory_best:
        yield Finding(
            "slow",
            f"{name}: memory clock {memory} MHz at work, expected {memory_best} MHz",
            f"`nvidia-smi -i {gpu.index} -rmc` as root lifts a lock on it",
            (i,),
        )


def _refused(snapshot: NvmlSnapshot) -> Iterator[Finding]:
    """One finding for each reason, over all pairs that have it."""
    by_reason: dict[str, list[NvmlPair]] = defaultdict(list)
    for pair in snapshot.pairs:
        in_range = min(pair.a, pair.b) >= 0 and max(pair.a, pair.b) < len(snapshot.gpus)
        if in_range and not (snapshot.gpus[pair.a].mig or snapshot.gpus[pair.b].mig):
            reason = pair.p2p.get("read", "ok")
            if reason == "ok":
                reason = pair.p2p.get("write", "ok")
            if reason != "ok":
                by_reason[reason].append(pair)
    for reason, pairs in by_reason.items():
        names = ", ".join(
            f"{snapshot.gpus[p.a].index}-{snapshot.gpus[p.b].index}" for p in pairs[:8]
        ) + (f" and {len(pairs) - 8} more" if len(pairs) > 8 else "")
        yield Finding(
            "slow",
            f"peer-to-peer refused between GPUs {names}: {reason}; every byte goes through host "
            "memory, expected straight over PCIe",
            _P2P_ADVICE.get(reason, "`nvidia-smi topo -p2p r` shows it; look at IOMMU and ACS"),
            tuple(sorted({i for p in pairs for i in (p.a, p.b)})),
        )


def diagnose_host(facts: HostFacts, num_gpus: int) -> tuple[Finding, ...]:
    """From the host's facts, for `num_gpus` GPUs that NCCL joins on it (0: ranks on cores)."""
    found: list[Finding] = []
    need = num_gpus * SHM_BYTES_PER_RANK
    if num_gpus > 1 and facts.shm_bytes is not None and facts.shm_bytes < need:
        found.append(
            Finding(
                "wrong",
                f"{facts.host}: /dev/shm has {show_bytes(facts.shm_bytes)}, expected "
                f"{show_bytes(need)}: {num_gpus} GPUs x {show_bytes(SHM_BYTES_PER_RANK)} for "
                "NCCL's connections through host memory",
                f"start the container with --shm-size={max(1, -(-need // GIB))}g or --ipc=host; "
                "Kubernetes: an emptyDir of medium Memory at /dev/shm",
            )
        )
    cores = len(facts.cores)
    if facts.cpu_limit is not None and cores and facts.cpu_limit < cores:
        found.append(
            Finding(
                "slow",
                f"{facts.host}: a cgroup allows {facts.cpu_limit:.3g} cores' worth of time, "
                f"expected {cores} cores: ranks are stopped whenever it is used up",
                "raise the container's CPU limit (--cpus, limits.cpu), or run as many ranks as it "
                "allows",
            )
        )
    total = facts.total_memory_bytes
    if total and facts.memory_bytes < total:
        found.append(
            Finding(
                "note",
                f"{facts.host}: a cgroup allows {show_bytes(facts.memory_bytes)} of "
                f"{show_bytes(total)}",
                "raise the container's memory limit (--memory, limits.memory) if more is needed",
            )
        )
    return (*found, *_cards(facts))


def _cards(facts: HostFacts) -> Iterator[Finding]:
    """Hardware cards that are down or slow beside others of their kind that are up."""
    for kind in ("ethernet", "infiniband", "roce"):
        cards = [nic for nic in facts.nics if nic.kind == kind and not nic.virtual]
        speeds = [nic.bytes_per_s for nic in cards if nic.up and nic.bytes_per_s]
        # A host has Ethernet ports to spare; RDMA ports are there to be used.
        down = [nic.name for nic in cards if not nic.up]
        if down and speeds:
            yield Finding(
                "note" if kind == "ethernet" else "wrong",
                f"{facts.host}: {kind} {', '.join(down)} down, {len(speeds)} like it up",
                "plug the cable, `ip link set NAME up`; InfiniBand: `ibstat` and a subnet manager",
            )
        # Most of a kind are alike; the odd management port is no rail that trained low.
        usual = max(set(speeds), key=lambda s: (speeds.count(s), s), default=0.0)
        if kind != "ethernet" and speeds.count(usual) >= 2:
            yield from (
                Finding(
                    "slow",
                    f"{facts.host}: {kind} {nic.name} trained at {show_gbits(nic.bytes_per_s)}, "
                    f"{speeds.count(usual)} like it at {show_gbits(usual)}",
                    "reseat or change its cable and transceiver; `ibstat`, `ethtool`",
                )
                for nic in cards
                if nic.up and nic.bytes_per_s and nic.bytes_per_s < usual
            )
