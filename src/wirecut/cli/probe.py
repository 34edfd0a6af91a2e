"""`wirecut probe`: look at the wires, and print them so that a person sees which are fast."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from wirecut.cli.options import DeviceOpt, FabricOpt, check_out
from wirecut.cli.progress import Bar
from wirecut.errors import UsageError
from wirecut.files import cache_dir

DEFAULT_OUT = Path("fabric.json")


def probe(
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write what was measured.  [fabric.json]", show_default=False),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Ranks to measure with (default: one per GPU, else core).")
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="This host and others that ssh reaches, together."),
    ] = None,
    fabric: FabricOpt = None,
    device: DeviceOpt = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fabric as JSON.")] = False,
) -> None:
    """Look at the wires: discover this machine, measure it, write fabric.json.

    Under torchrun (or a launcher that sets its variables) all hosts are measured together, and the
    process with rank 0 writes; so they are with --hosts, --ranks on each. With --fabric, a saved or
    typed fabric is shown, not measured.
    """
    from wirecut.explain.fabric import page
    from wirecut.explain.page import show
    from wirecut.fabric.fabric import save_fabric
    from wirecut.fabric.find import find_fabric
    from wirecut.fabric.probe import probe as measure
    from wirecut.machine.world import launched

    if fabric is not None:
        if ranks is not None or hosts is not None:
            raise UsageError("--ranks and --hosts are for measuring, --fabric shows one")
        seen, file = find_fabric(fabric, device), out
    else:
        if device is not None:
            raise UsageError("--device names the GPUs of a saved topology: give it with --fabric")
        file = out or DEFAULT_OUT
        place = launched(os.environ)
        if place is None or place.rank == 0:
            check_out(file)
        with Bar("Measuring") as bar, _together(hosts, ranks):
            seen = measure(None if hosts else ranks, progress=bar.update)
        if seen is None:
            return  # a launcher started this one too: the process with rank 0 has the fabric
    if file is not None:
        check_out(file)
        save_fabric(seen, file)
    kept = fabric is None and ranks is None and hosts is None and launched(os.environ) is None
    if kept:
        cache_dir().mkdir(parents=True, exist_ok=True)
        save_fabric(seen, cache_dir() / "fabric.json")
    if as_json:
        import msgspec

        print(msgspec.json.encode(seen).decode())
        return
    show(page(seen))
    if file is not None:
        print(f"\nWritten to {file}; {_use(file, kept)}.")


@contextmanager
def _together(hosts: str | None, ranks: int | None) -> Generator[None]:
    """The same command on other hosts, when there are any, for as long as this one measures."""
    if hosts is None:
        yield
        return
    from wirecut.fabric.remote import started_on

    if ranks is None:
        raise UsageError("--hosts needs --ranks: how many on each host, one per GPU or core")
    with started_on(hosts.split(","), ranks=ranks) as variables:
        os.environ.update(variables)
        yield


def _use(out: Path, kept: bool) -> str:
    """How the measurement is used: one of the whole machine is what `plan` takes by itself."""
    if kept:
        return f"kept in {cache_dir()} too, where `wirecut plan MODEL` finds it from now on"
    return f"`wirecut plan MODEL --fabric {out}` uses it"
