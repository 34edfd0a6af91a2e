#!/usr/bin/env python3
"""Collectives as priced beside collectives as measured: a Markdown table.

    python benchmarks/collectives.py GROUND_TRUTH_DIR > benchmarks/collectives.md

GROUND_TRUTH_DIR holds collectives.csv. Every system becomes the fabric that a person would type.
Physics: no curve in the fabric; each kind of device is priced with constants refitted without any
row of it. Measured: every other size of a curve is in the fabric, the rest is priced.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from collectives_fit import Case, fit, installed, parameters_of

from wirecut.cost.collectives import collective_price
from wirecut.cost.lanes import wiring_of
from wirecut.cost.libraries import LIBRARIES
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Curve, Fabric, Op
from wirecut.fabric.physics import NVLINK_SHARE
from wirecut.fabric.typed import typed_fabric
from wirecut.fabric.wires import is_network
from wirecut.units import show_bytes, show_seconds
from wirecut.version import __version__

DATE = "2026-11-21"
FITTED_POINTS = 6  # of each curve
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


def case_of(curve: Measured) -> Case:
    """The curve as the fit takes it, thinned."""
    fabric = curve.fabric()
    wiring = wiring_of(fabric, curve.group)
    first = fabric.link(0, 1)
    raw = first.bytes_per_s / NVLINK_SHARE if first.kind in ("nvswitch", "nvlink") else 0.0
    lane = wiring.inside
    crowded = lane is not None and lane.kind.startswith("pcie") and curve.gpus > 2
    crowded = crowded and curve.system.intra != "nvlink-pairs"
    given = curve.nodes > 1 and curve.system.pair is not None
    thin = max(1, len(curve.points) // FITTED_POINTS)
    points = tuple((float(b), s) for b, s in curve.points[::thin])
    return Case(curve.system.device, curve.op, curve.library, wiring, raw, crowded, given, points)


@dataclass(frozen=True, slots=True)
class Error:
    """One row: relative error of its price."""

    curve: Measured
    size: int
    measured_s: float
    priced_s: float

    @property
    def error(self) -> float:
        return self.priced_s / self.measured_s - 1


def physics_errors(curves: Sequence[Measured]) -> list[Error]:
    """Every row priced from the wires alone."""
    errors: list[Error] = []
    fabrics: dict[tuple[object, ...], Fabric] = {}
    for curve in curves:
        key = (curve.system, curve.nodes, curve.gpus)
        fabric = fabrics.setdefault(key, curve.fabric()) if key not in fabrics else fabrics[key]
        for size, measured_s in curve.points:
            price = collective_price(fabric, curve.op, curve.group, size, library=curve.library)
            errors.append(Error(curve, size, measured_s, price.seconds))
    return errors


def without_each(curves: Sequence[Measured]) -> list[Error]:
    """The same, each kind of device with constants that were fitted without it."""
    cases, errors = [case_of(curve) for curve in curves], list[Error]()
    for device in dict.fromkeys(curve.system.device for curve in curves):
        own = [curve for curve in curves if curve.system.device == device]
        names = parameters_of([case for case in cases if case.owner == device])
        others = [case for case in cases if case.owner != device]
        touched = [case for case in others if set(parameters_of([case])) & set(names)]
        found = fit(touched, names)
        if not any(case.library == "oneccl" for case in others):
            found["oneccl start"] = 1 / LIBRARIES["oneccl"].start  # nobody else says: as NCCL's
        with installed(found):
            errors += physics_errors(own)
        changed = ", ".join(f"{k} {v:.2f}" for k, v in found.items() if abs(v - 1) > 0.05)
        print(f"without {device}: {changed or 'nothing moves'}", file=sys.stderr, flush=True)
    return errors


def curve_errors(curves: Sequence[Measured]) -> list[Error]:
    """Every size priced from a curve of the sizes on both sides of it, or beyond the last."""
    errors: list[Error] = []
    for curve in curves:
        if len(curve.points) < 4:
            continue
        fabric, group = curve.fabric(), curve.group
        wire = fabric.slowest_link(group).kind
        for first in (0, 1):
            known = Curve(curve.op, wire, group, curve.points[first::2])
            with_curve = replace(fabric, curves=(known,))
            for size, measured_s in curve.points[1 - first :: 2]:
                if size < known.points[0][0]:
                    continue
                price = collective_price(with_curve, curve.op, group, size)
                errors.append(Error(curve, size, measured_s, price.seconds))
    return errors


def size_errors(curves: Sequence[Measured]) -> list[Error]:
    """Groups of 4 priced from curves of 2 and 8 of the same machine."""
    errors: list[Error] = []
    alike: dict[tuple[object, ...], dict[int, Measured]] = defaultdict(dict)
    for curve in curves:
        if curve.nodes == 1 and curve.library == "nccl" and curve.op != "send_recv":
            alike[curve.label, curve.op, curve.library, curve.points[0][0]][curve.gpus] = curve
    for sizes in alike.values():
        if not {2, 4, 8} <= sizes.keys():
            continue
        fabric = sizes[8].fabric()
        wire = fabric.link(0, 1).kind
        known = tuple(Curve(sizes[n].op, wire, tuple(range(n)), sizes[n].points) for n in (2, 8))
        with_curves, four = replace(fabric, curves=known), sizes[4]
        for size, measured_s in four.points:
            price = collective_price(with_curves, four.op, four.group, size, library=four.library)
            errors.append(Error(four, size, measured_s, price.seconds))
    return errors


def row(name: str, errors: Sequence[Error]) -> str:
    """| name | rows | median | p90 | bias |."""
    sizes = sorted(abs(e.error) for e in errors)
    bias = statistics.median(e.error for e in errors)
    p90 = sizes[int(0.9 * (len(sizes) - 1))]
    return f"| {name} | {len(sizes)} | {statistics.median(sizes):.0%} | {p90:.0%} | {bias:+.0%} |"


def table(title: str, errors: Sequence[Error], names: Iterable[tuple[str, Error]]) -> list[str]:
    """Rows of `errors` by a name each, and all of them."""
    groups: dict[str, list[Error]] = defaultdict(list)
    for name, error in names:
        groups[name].append(error)
    lines = [f"| {title} | rows | median error | p90 | bias |", "|---|---|---|---|---|"]
    lines += [row(name, groups[name]) for name in sorted(groups)]
    return [*lines, row("**all**", errors), ""]


def misses(errors: Sequence[Error]) -> list[str]:
    """Groups that are off by more than 40 % in the median."""
    groups: dict[str, list[Error]] = defaultdict(list)
    for e in errors:
        where = f"{e.curve.label}, {e.curve.nodes} x {e.curve.gpus // e.curve.nodes}"
        groups[f"{where}, {e.curve.op}, {e.curve.library}"].append(e)
    bad = {
        name: found
        for name, found in groups.items()
        if statistics.median(abs(e.error) for e in found) > 0.4
    }
    lines = ["| group | rows | median error | bias | largest message: measured, priced |"]
    lines += ["|---|---|---|---|---|"]
    for name, found in sorted(bad.items()):
        last = found[-1]
        median = statistics.median(abs(e.error) for e in found)
        bias = statistics.median(e.error for e in found)
        times = f"{show_seconds(last.measured_s)}, {show_seconds(last.priced_s)}"
        lines.append(
            f"| {name} | {len(found)} | {median:.0%} | {bias:+.0%} "
            f"| {show_bytes(last.size)}: {times} |"
        )
    return [*lines, ""]


def report(directory: Path) -> list[str]:
    """The whole page."""
    curves, left_out = load(directory / "collectives.csv")
    lines = [
        "# Collectives, priced and measured",
        "",
        f"{DATE}, wirecut {__version__}, "
        f"`python benchmarks/collectives.py GROUND_TRUTH_DIR > benchmarks/collectives.md`.",
        "Errors are of seconds, relative to what was measured. "
        f"{left_out} rows are left out: their"
        " network is not stated, or they are the pair that others are typed by.",
        "",
        "## A system left out whole, priced by its wires' physics",
        "",
        "Fabrics as typed, constants refitted without any row of the device in question.",
        "",
    ]
    left = without_each(curves)
    lines += table("kind of wires", left, ((e.curve.kind, e) for e in left))
    lines += table(
        "library, operation", left, ((f"{e.curve.library}, {e.curve.op}", e) for e in left)
    )
    lines += table("system", left, ((e.curve.label, e) for e in left))
    shipped = physics_errors(curves)
    lines += ["With the shipped constants, fitted to all:", ""]
    lines += table("kind of wires", shipped, ((e.curve.kind, e) for e in shipped))
    between = curve_errors(curves)
    lines += ["## A measured curve, every other size left out", ""]
    lines += table("kind of wires", between, ((e.curve.kind, e) for e in between))
    lines += table("operation", between, ((e.curve.op, e) for e in between))
    others = size_errors(curves)
    lines += ["## Groups of 4, from curves of 2 and of 8", ""]
    lines += table("kind of wires", others, ((e.curve.kind, e) for e in others))
    lines += ["## Misses: off by more than 40 % in the median, left out whole", ""]
    return lines + misses(left)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("ground_truth", type=Path)
    print("\n".join(report(parser.parse_args().ground_truth)))


if __name__ == "__main__":
    main()
