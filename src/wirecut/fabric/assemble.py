"""Puts measured numbers onto a fabric: links fitted through points, curves, rates of devices.

    fabric = assemble(measured)
    fit_link(points).bytes_per_s

Pure: what the ranks say goes in, a `Fabric` comes out.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median

from wirecut.fabric.compare import diagnose_measured
from wirecut.fabric.device import AttentionPoint, MatrixPoint
from wirecut.fabric.fabric import Curve, Device, Fabric, Finding, Link, Made, now
from wirecut.fabric.islands import find_islands
from wirecut.fabric.probing import (
    Arithmetic,
    Measured,
    ProbeTask,
    WirePoints,
    hosts_of,
    known_links,
    wires_between,
)
from wirecut.units import DTYPE_BYTES, show_bytes
from wirecut.version import __version__

REWEIGHTED = 30  # rounds until the line stands still
EXACT = 0.01  # a relative error below which a point is as good as on the line
Row = tuple[float, float]


def assemble(measured: Measured) -> Fabric:
    """The fabric that the measurements describe. Pairs not measured take their class's median."""
    tasks = measured.tasks
    wires = [points for report in measured.reports for points in report.wires]
    devices = [
        replace(task.device, id=rank)
        if report.arithmetic is None
        else with_rates(
            replace(task.device, id=rank),
            report.arithmetic,
            first=measured.reports[task.first].arithmetic,
        )
        for rank, (task, report) in enumerate(zip(tasks, measured.reports, strict=True))
    ]
    links = measured_links(tasks, wires)
    notes = (*measured.notes, *_stopped(wires))
    fabric = Fabric(
        devices=tuple(devices),
        links=links,
        islands=find_islands(len(devices), links),
        made=Made(now(), "wirecut " + " ".join(sys.argv[1:]), __version__, notes),
        curves=tuple(
            Curve(
                w.op,
                w.wire,
                w.devices,
                tuple((size, seconds) for size, seconds, _ in w.points),
                at_once=w.at_once,
            )
            for w in wires
            if len(w.points) > 1
        ),
        machines=tuple(task.machine for task in tasks if task.machine is not None),
    )
    findings = [
        *_wrong_bytes(wires),
        *(finding for report in measured.reports for finding in report.findings),
        *(finding for task in tasks for finding in task.findings),
        *diagnose_measured(fabric),
    ]
    return replace(fabric, findings=tuple(findings))


def measured_links(tasks: Sequence[ProbeTask], wires: Sequence[WirePoints]) -> tuple[Link, ...]:
    """A link for every pair and kind of wire; those not measured take the median of their class."""
    devices, known = [task.device for task in tasks], known_links(tasks)
    fitted = {
        (w.devices[0], w.devices[1], w.wire): fit_link(w)
        for w in wires
        if w.op == "send_recv" and w.at_once == 1
    }
    num_hosts = len(hosts_of(tasks))

    def class_of(a: int, b: int, wire: str) -> tuple[object, ...]:
        link = known.get((a, b))
        return (wire, devices[a].host == devices[b].host, link.path if link else "")

    by_class: dict[tuple[object, ...], list[Link]] = {}
    for (a, b, wire), link in fitted.items():
        by_class.setdefault(class_of(a, b, wire), []).append(link)
    found: list[Link] = []
    for a, b in combinations(range(len(devices)), 2):
        told = known.get((a, b))
        for wire in wires_between(devices[a], devices[b], told, num_hosts):
            link = fitted.get((a, b, wire)) or _typical(by_class.get(class_of(a, b, wire), ()))
            if link is not None:
                path, shares = (told.path, told.shares) if told else ("", "")
                found.append(replace(link, a=a, b=b, path=path, shares=shares))
            elif told is not None:
                found.append(told)
    return tuple(found)


def _typical(links: Sequence[Link]) -> Link | None:
    """What a pair that was not measured is taken to be: assumed, though from measured ones."""
    middle = sorted(links, key=lambda link: link.bytes_per_s)[len(links) // 2 :]
    return replace(middle[0], source="assumed") if middle else None


def fit_link(measured: WirePoints) -> Link:
    """Latency and bandwidth through (bytes, seconds): the least sum of relative errors.

    Weighting each point by 1 / seconds makes 2 KiB count as much as 64 MiB; taking errors and not
    their squares (by least squares, reweighted) keeps a point that the host was busy in from
    bending the line. `spread` is the larger of the fit's median error and the repetitions'.
    """
    rows = [(1 / s, size / s) for size, s, _ in measured.points]  # latency x a + per_byte x b = 1
    weights = [1.0] * len(rows)
    latency_s = per_byte_s = 0.0
    for _ in range(REWEIGHTED):
        latency_s, per_byte_s = _least_squares(rows, weights)
        errors = [latency_s * a + per_byte_s * b - 1 for a, b in rows]
        weights = [1 / max(abs(error), EXACT) for error in errors]
    errors = [abs(latency_s * a + per_byte_s * b - 1) for a, b in rows]
    repeats = median(spread for _, _, spread in measured.points)
    return Link(
        measured.devices[0],
        measured.devices[1],
        measured.wire,
        latency_s,
        1 / per_byte_s,
        "measured",
        max(median(errors), repeats),
    )


def _least_squares(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    """(latency, seconds per byte), neither below zero, with the least weighted squared error."""
    both = list(zip(rows, weights, strict=True))
    aa, bb = sum(w * a * a for (a, _), w in both), sum(w * b * b for (_, b), w in both)
    ab = sum(w * a * b for (a, b), w in both)
    a1, b1 = sum(w * a for (a, _), w in both), sum(w * b for (_, b), w in both)
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        latency_s, per_byte_s = (a1 * bb - b1 * ab) / determinant, (aa * b1 - ab * a1) / determinant
        if latency_s >= 0 and per_byte_s > 0:
            return latency_s, per_byte_s
    return 0.0, max(1e-15, b1 / bb)


def with_rates(device: Device, measured: Arithmetic, *, first: Arithmetic | None) -> Device:
    """The device with what it computed: rates are the best points; all are kept. What the `first`
    device of its host computed alone goes for every one of the host.
    """
    first = first or measured
    points = tuple(MatrixPoint(*point) for point in measured.points)
    in_memory = max(point.weight_bytes for point in points)
    return replace(
        device,
        bytes_per_s=max(
            p.weight_bytes / p.seconds
            for p in points
            if p.rows == 1 and p.weight_bytes == in_memory
        ),
        flops_per_s={
            dtype: max(
                2 * p.rows * p.weight_bytes / DTYPE_BYTES[dtype] / p.seconds
                for p in points
                if p.dtype == dtype
            )
            for dtype in dict.fromkeys(p.dtype for p in points)
        },
        launch_s=measured.launch_s,
        launch_cold_s=measured.launch_cold_s,
        half_s=measured.half_s,
        source="measured",
        points=points,
        attention=tuple(AttentionPoint(*point) for point in measured.attention),
        alone=tuple(MatrixPoint(*point) for point in first.alone),
        launch_alone_s=first.launch_alone_s,
    )


def _wrong_bytes(wires: Sequence[WirePoints]) -> list[Finding]:
    return [
        Finding(
            "wrong",
            f"{w.op.replace('_', '-')} over {w.wire} among devices "
            f"{', '.join(map(str, w.devices))} gave wrong results in {w.wrong} elements",
            "do not serve over this wire. Between GPUs this is what PCIe access control (ACS) or "
            "an IOMMU does to peer-to-peer copies: turn them off, or set NCCL_P2P_DISABLE=1",
            w.devices,
        )
        for w in wires
        if w.wrong
    ]


def _stopped(wires: Sequence[WirePoints]) -> list[str]:
    """Which wires were too slow for the largest messages."""
    largest: dict[str, int] = {}
    for w in wires:
        if w.op in ("send_recv", "all_reduce") and w.at_once == 1 and w.points:
            last = w.points[-1][0]
            largest[w.wire] = min(last, largest.get(w.wire, last))
    return [
        f"messages over {wire} were measured up to {show_bytes(size)}: larger ones would take too "
        "long, and are priced in proportion"
        for wire, size in largest.items()
        if size < 64 * 2**20
    ]
