"""Rows of the ground truth, and the fabric that a person would type for each.

curves, left_out = load(Path("collectives.csv"))
curves[0].fabric(), curves[0].group, curves[0].points
"""

import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric, Op
from wirecut.fabric.typed import typed_fabric
from wirecut.fabric.wires import is_network

OPS: dict[str, Op] = {"alltoall": "all_to_all"}
LIBRARY_OF = {
    "eager": "custom_eager",
    "custom_graph": "custom_graph",
    "CustomAllReduce_graph": "custom_graph",
    "TRTLLM": "trtllm",
    "oneCCL": "oneccl",
}


@dataclass(frozen=True, slots=True)
class System:
    """Rows whose `system` begins so, and whose `interconnect` holds `where`, as typed: a device,
    its wires, the wires between nodes. `pair`: what was measured between two nodes, (latency in s,
    bytes/s).
    """

    name: str
    where: str
    device: str
    intra: str
    inter: str = ""
    pair: tuple[float, float] | None = None


# What the source does not say is set from its own sends: V100 between nodes reaches 1.1 GB/s, which
# is 10 GbE, and 4 GB/s inside one, which is a bounce; A100 DGX 7.8 GB/s between nodes.
SYSTEMS = (
    System("a100_sxm", "", "A100-SXM-80GB", "nvswitch"),
    System("h100_sxm", "", "H100-SXM", "nvswitch"),
    System("h200_sxm", "", "H200-SXM", "nvswitch"),
    System("b200_sxm", "", "B200-SXM", "nvswitch"),
    System("b300_sxm", "", "B300-SXM", "nvswitch"),
    System("gb200", "", "GB200", "nvswitch", "mnnvl"),
    System("gb300", "", "GB300", "nvswitch", "mnnvl"),
    System("l40s", "", "L40S", "pcie4"),
    System("rtx_pro_6000", "", "RTX-PRO-6000-Server", "pcie5"),
    System("b60", "", "Arc-Pro-B60", "pcie5"),
    System("A100-80GB pair", "", "A100-PCIe-80GB", "nvlink-pairs"),
    System("H100 pair", "", "H100-PCIe", "nvlink-pairs"),
    System("A40 pair", "", "A40", "nvlink-pairs"),
    System("A100-PCIE-40GB", "", "A100-PCIe-40GB", "pcie4"),
    System("A100-SXM4-40GB", "RoCE", "A100-SXM-40GB", "nvswitch", "roce-200x8"),
    System("A100-SXM4-80GB DGX", "", "A100-SXM-80GB", "nvswitch", "ib-200x8", (25e-6, 7.8e9)),
    System("A100-SXM", "IB HDR", "A100-SXM-80GB", "nvswitch", "ib-200x8"),
    System("A100-SXM", "nvswitch", "A100-SXM-80GB", "nvswitch"),
    System("Azure ND A100", "", "A100-SXM-80GB", "nvswitch"),
    System("Azure ND H100", "", "H100-SXM", "nvswitch"),
    System("Azure ND H200", "", "H200-SXM", "nvswitch"),
    System("DGX H100", "", "H100-SXM", "nvswitch", "ib-400x{gpus}"),
    System("GB10", "", "GB10", "pcie5", "roce-200"),
    System("GCP A3-Mega", "", "H100-SXM", "nvswitch", "200gbex8"),
    System("H100 PCIe + NVL", "", "H100-PCIe", "nvlink-pairs"),
    System("H100-SXM DGX", "", "H100-SXM", "nvswitch", "ib-400"),
    System("H100-SXM-80GB", "", "H100-SXM", "nvswitch"),
    System("H200-SXM-141GB", "", "H200-SXM", "nvswitch"),
    System("H20", "", "H20", "nvswitch", "ib-400x8"),
    System("RTX 2080 Ti", "", "RTX-2080-Ti", "pcie3-nop2p"),
    System("RTX 3090", "", "RTX-3090", "pcie4-nop2p", "3.6gbe"),
    System("RTX 4090", "", "RTX-4090", "pcie4-nop2p"),
    System("RTX 5090", "", "RTX-5090", "pcie5"),
    System("V100-PCIE-16GB", "Azure", "V100-PCIe-16GB", "pcie3"),
    System("V100-PCIE-16GB", "", "V100-PCIe-16GB", "pcie3-nop2p", "10gbe"),
    System("V100-PCIE-32GB", "", "V100-PCIe-32GB", "pcie3"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One curve of the ground truth: `points` are (bytes, seconds), smallest first."""

    system: System
    label: str
    op: Op
    library: str
    nodes: int
    gpus: int
    points: tuple[tuple[int, float], ...]

    @property
    def group(self) -> tuple[int, ...]:
        if self.op != "send_recv":
            return tuple(range(self.gpus))
        return (0, 1) if self.nodes == 1 else (0, self.gpus // self.nodes)

    def fabric(self) -> Fabric:
        """The fabric that a person types for it, with the pair that was measured where one was."""
        system, each = self.system, self.gpus // self.nodes
        text = f"{self.gpus}x{system.device}:{system.intra}"
        if self.nodes > 1:
            inter = system.inter.format(gpus=each)
            text = f"{self.nodes}x{each}x{system.device}:{system.intra}:{inter}"
        fabric = typed_fabric(text)
        if self.nodes == 1 or system.pair is None:
            return fabric
        latency_s, rate = system.pair
        links = (
            replace(k, latency_s=latency_s, bytes_per_s=rate, source="measured")
            if is_network(k.kind)
            else k
            for k in fabric.links
        )
        return replace(fabric, links=tuple(links))

    @property
    def kind(self) -> str:
        """The kind of wires it runs over."""
        if self.nodes > 1 and self.system.inter != "mnnvl":
            return "between nodes"
        if self.system.intra == "nvswitch":
            raw = find_device(self.system.device).link_bytes_per_s
            return f"NVSwitch, NVLink {5 if raw > 8e11 else 4 if raw > 3.5e11 else 3}"
        if self.system.intra == "nvlink-pairs":
            return "NVLink pairs"
        return "PCIe, no P2P" if "nop2p" in self.system.intra else "PCIe, P2P"


def load(path: Path) -> tuple[list[Measured], int]:
    """Curves of the ground truth, and how many rows no typed fabric stands for."""
    found: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
    systems: dict[tuple[str, ...], System] = {}
    left_out = 0
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            system = next(
                s
                for s in SYSTEMS
                if row["system"].startswith(s.name) and s.where in row["interconnect"]
            )
            faster = "node1->node0" in row["note"]  # the typed NIC is the slow one
            if faster or (int(row["n_nodes"]) > 1 and not system.inter):
                left_out += 1
                continue
            names = ("system", "interconnect", "source_file", "impl", "op", "dtype")
            key = (*(row[name] for name in names), row["n_nodes"], row["n_gpus"])
            systems[key] = system
            found[key].append((int(float(row["bytes"])), float(row["time_us"]) * 1e-6))
    curves: list[Measured] = []
    for key, points in found.items():
        library = next((name for part, name in LIBRARY_OF.items() if part in key[3]), "nccl")
        op: Op = OPS.get(key[4], key[4])  # type: ignore[assignment]
        nodes, gpus = int(key[6]), int(key[7])
        if nodes > 1 and op == "send_recv" and systems[key].pair:
            left_out += len(points)  # it is the measured pair
            continue
        merged = {size: statistics.median(s for b, s in points if b == size) for size, _ in points}
        label = f"{key[0]} ({key[1]})"
        points = tuple(sorted(merged.items()))
        curves.append(Measured(systems[key], label, op, library, nodes, gpus, points))
    return curves, left_out
