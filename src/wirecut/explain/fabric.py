"""A fabric in words: what joins its devices, and what each of them computes. Computes nothing."""

from wirecut.explain.page import Block, Grid, Heading
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.wires import WIRES
from wirecut.units import KIB, MIB, show_bytes, show_flops, show_rate, show_seconds

SHOWN_SIZES = (2 * KIB, 128 * KIB, 8 * MIB)


def page(fabric: Fabric) -> list[Block]:
    """Two tables: what joins the devices, and what each computes."""
    first = fabric.devices[0]
    where = f"{len(fabric.devices)} x {first.name} ({first.kind}) on {', '.join(fabric.hosts)}"
    return [
        Heading(f"{where}, {show_bytes(first.memory_bytes)} of memory each"),
        *_wires(fabric),
        Heading("What each device computes, all of them busy"),
        Grid(
            ("device", ">core", ">weights read", ">bf16", ">fp32", ">small operation"),
            [
                (
                    str(device.id),
                    ",".join(map(str, device.cpus)),
                    show_rate(device.bytes_per_s),
                    *(show_flops(device.flops_per_s[dtype]) for dtype in ("bf16", "fp32")),
                    show_seconds(device.launch_s),
                )
                for device in fabric.devices
            ],
        ),
    ]


def _wires(fabric: Fabric) -> list[Block]:
    rows: list[tuple[str, ...]] = []
    for kind, wire in WIRES.items():
        sums = [c for c in fabric.curves if (c.op, c.wire) == ("all_reduce", kind)]
        for i, curve in enumerate(sums):
            link = next(link for link in fabric.links if link.kind == kind)
            both = (wire.words, show_seconds(link.latency_s), show_rate(link.bytes_per_s))
            times = (show_seconds(curve.seconds(size)) for size in SHOWN_SIZES)
            rows.append((*(both if i == 0 else ("", "", "")), str(len(curve.devices)), *times))
    if not rows:
        return []
    sizes = (f">{show_bytes(size)}" for size in SHOWN_SIZES)
    columns = ("wire", ">latency", ">bandwidth", ">all-reduce of", *sizes)
    return [Heading("Wires between two devices"), Grid(columns, rows)]
