"""`wirecut probe`: start a rank on every device, let them measure, and put the numbers onto the
fabric.

    fabric = probe(num_ranks=2, progress=print)

Imports no torch; the ranks do. Needs the extra `engine`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations

import msgspec

from wirecut.errors import MissingExtra
from wirecut.fabric.discover import host_devices, now
from wirecut.fabric.fabric import Curve, Device, Fabric, Link, Made, MatrixPoint
from wirecut.fabric.probing import (
    WIRES,
    Arithmetic,
    Progress,
    Said,
    WirePoints,
    plan_probe,
)
from wirecut.machine.ranks import start_ranks
from wirecut.units import DTYPE_BYTES
from wirecut.version import __version__


def probe(
    num_ranks: int | None = None,
    *,
    progress: Callable[[int, int, str], None] = lambda done, of, what: None,
) -> Fabric:
    """Measure this host with `num_ranks` ranks (default: one per core). Raises WirecutError."""
    devices = host_devices(num_ranks)
    if find_spec("torch") is None:
        raise MissingExtra("engine", "measuring")
    task = plan_probe(len(devices))
    payload = msgspec.msgpack.encode(task)
    cpus = [device.cpus for device in devices]
    wires: list[WirePoints] = []
    arithmetic: dict[int, Arithmetic] = {}
    with start_ranks(
        "wirecut.fabric.measure", [payload] * len(devices), cpus, accepts=Said
    ) as ranks:
        while len(arithmetic) < len(devices):
            rank, message = ranks.next_message()
            if isinstance(message, Progress):
                progress(message.done, message.of, message.what)
            elif isinstance(message, WirePoints):
                wires.append(message)
            else:
                arithmetic[rank] = message
    return assemble(devices, wires, [arithmetic[device.id] for device in devices])


def assemble(
    devices: Sequence[Device], wires: Sequence[WirePoints], arithmetic: Sequence[Arithmetic]
) -> Fabric:
    """The fabric that the measurements describe. Other pairs take their wire's median link."""
    links: list[Link] = []
    for wire in WIRES:
        measured = {
            (w.devices[0], w.devices[1]): fit_link(w)
            for w in wires
            if (w.op, w.wire) == ("send_recv", wire)
        }
        if not measured:
            continue
        typical = sorted(measured.values(), key=lambda link: link.bytes_per_s)[len(measured) // 2]
        for a, b in combinations(range(len(devices)), 2):
            links.append(measured.get((a, b)) or replace(typical, a=a, b=b))
    notes = [] if len(devices) <= 4 else ["pairs that are not neighbours take their wire's median"]
    made = Made(now(), "wirecut " + " ".join(sys.argv[1:]), __version__, tuple(notes))
    return Fabric(
        devices=tuple(
            _with_rates(device, each) for device, each in zip(devices, arithmetic, strict=True)
        ),
        links=tuple(links),
        islands=(tuple(device.id for device in devices),),
        made=made,
        curves=tuple(
            Curve(
                "all_reduce" if w.op == "all_reduce" else "send_recv",
                w.wire,
                w.devices,
                tuple((size, seconds) for size, seconds, _ in w.points),
            )
            for w in wires
        ),
    )


def fit_link(measured: WirePoints) -> Link:
    """Latency and bandwidth through (bytes, seconds): least squares of the relative error.

    Weighting each point by 1 / seconds makes 2 KiB count as much as 8 MiB. `spread` is the larger
    of the fit's root mean square and the median spread of the repetitions.
    """
    rows = [(1 / s, size / s) for size, s, _ in measured.points]  # latency x a + per_byte x b = 1
    aa = sum(a * a for a, _ in rows)
    ab = sum(a * b for a, b in rows)
    bb = sum(b * b for _, b in rows)
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    latency_s = max(0.0, (a1 * bb - b1 * ab) / determinant)
    per_byte_s = max(1e-15, (aa * b1 - ab * a1) / determinant)
    errors = [latency_s * a + per_byte_s * b - 1 for a, b in rows]
    rms = (sum(error * error for error in errors) / len(errors)) ** 0.5
    repeats = sorted(spread for _, _, spread in measured.points)[len(measured.points) // 2]
    return Link(
        measured.devices[0],
        measured.devices[1],
        measured.wire,
        latency_s,
        1 / per_byte_s,
        "measured",
        max(rms, repeats),
    )


def _with_rates(device: Device, measured: Arithmetic) -> Device:
    """The device with what it computed: rates are the best points; all are kept."""
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
        source="measured",
        points=points,
    )
