"""`wirecut probe`: look at the wires, and print them so that a person sees which are fast."""

from pathlib import Path
from typing import Annotated

import typer

from wirecut.cli.progress import Bar
from wirecut.errors import UsageError
from wirecut.fabric.fabric import WIRES, Curve, Fabric, save_fabric
from wirecut.files import cache_dir
from wirecut.units import KIB, MIB, show_bytes, show_flops, show_rate, show_seconds

SHOWN_SIZES = (2 * KIB, 128 * KIB, 8 * MIB)


def probe(
    out: Annotated[Path, typer.Option(help="Where to write what was measured.")] = Path(
        "fabric.json"
    ),
    ranks: Annotated[
        int | None, typer.Option(help="Ranks to measure with (default: one per core).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fabric as JSON.")] = False,
) -> None:
    """Look at the wires: discover this machine, measure it, write fabric.json."""
    from wirecut.fabric.probe import probe as measure

    if not out.resolve().parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.resolve().parent}")
    if out.is_dir():
        raise UsageError(f"cannot write {out}: it is a folder, expected a file name")
    with Bar("Measuring") as bar:
        fabric = measure(ranks, progress=bar.update)
    save_fabric(fabric, out)
    cache_dir().mkdir(parents=True, exist_ok=True)
    save_fabric(fabric, cache_dir() / "fabric.json")
    if as_json:
        print(out.read_text(), end="")
    else:
        show(fabric)
        print(f"\nWritten to {out}; `wirecut plan MODEL` uses it from now on.")


def show(fabric: Fabric) -> None:
    """Two tables: what joins the devices, and what each computes."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    first = fabric.devices[0]
    console.print(
        f"[bold]{len(fabric.devices)} x {first.name} core[/bold] on {', '.join(fabric.hosts)}, "
        f"{show_bytes(first.memory_bytes)} of memory each"
    )
    wires = Table(title="Wires", title_justify="left", title_style="bold")
    for name in ("wire", "latency", "bandwidth", "ranks"):
        wires.add_column(name, justify="left" if name == "wire" else "right", no_wrap=True)
    for size in SHOWN_SIZES:
        wires.add_column(f"all-reduce\n{show_bytes(size)}", justify="right", no_wrap=True)
    for kind, name in WIRES.items():
        for i, curve in enumerate(c for c in fabric.curves if _is_sum(c, kind)):
            link = next(link for link in fabric.links if link.kind == kind)
            wires.add_row(
                name if i == 0 else "",
                show_seconds(link.latency_s) if i == 0 else "",
                show_rate(link.bytes_per_s) if i == 0 else "",
                str(len(curve.devices)),
                *(show_seconds(curve.seconds(size)) for size in SHOWN_SIZES),
            )
    if wires.row_count:
        console.print(wires)
    console.print(_devices(fabric))


def _is_sum(curve: Curve, wire: str) -> bool:
    return curve.op == "all_reduce" and curve.wire == wire


def _devices(fabric: Fabric):
    from rich.table import Table

    table = Table(title="Each device, all of them busy", title_justify="left", title_style="bold")
    table.add_column("device")
    for name in ("cores", "weights read", "bf16", "fp32", "small operation"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in fabric.devices:
        table.add_row(
            str(device.id),
            ",".join(map(str, device.cpus)),
            show_rate(device.bytes_per_s),
            *(show_flops(device.flops_per_s[dtype]) for dtype in ("bf16", "fp32")),
            show_seconds(device.launch_s),
        )
    return table
