#!/usr/bin/env python3
"""Collectives as priced beside collectives as measured: a Markdown table.

    python benchmarks/collectives.py GROUND_TRUTH_DIR > benchmarks/collectives.md

GROUND_TRUTH_DIR holds collectives.csv. Every system becomes the fabric that a person would type.
Physics: no curve in the fabric; each kind of device is priced with constants refitted without any
row of it. Measured: every other size of a curve is in the fabric, the rest is priced.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from collectives_fit import Case, fit, installed, parameters_of
from collectives_rows import Measured, load

from wirecut.cost.collectives import collective_price
from wirecut.cost.lanes import wiring_of
from wirecut.cost.libraries import LIBRARIES
from wirecut.fabric.fabric import Curve, Fabric
from wirecut.fabric.physics import NVLINK_SHARE
from wirecut.units import show_bytes, show_seconds
from wirecut.version import __version__

FITTED_POINTS = 6  # of each curve


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
        f"{date.today()}, wirecut {__version__}, "
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
