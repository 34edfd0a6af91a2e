"""`wirecut probe`: look at the wires, and print them so that a person sees which are fast."""

from pathlib import Path
from typing import Annotated

import typer

from wirecut.cli.options import check_out
from wirecut.cli.progress import Bar
from wirecut.files import cache_dir


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
    from wirecut.explain.fabric import page
    from wirecut.explain.page import show
    from wirecut.fabric.fabric import save_fabric
    from wirecut.fabric.probe import probe as measure

    check_out(out)
    with Bar("Measuring") as bar:
        fabric = measure(ranks, progress=bar.update)
    if fabric is None:
        return  # a launcher started this one too: the process with rank 0 has the fabric
    save_fabric(fabric, out)
    if ranks is None:
        cache_dir().mkdir(parents=True, exist_ok=True)
        save_fabric(fabric, cache_dir() / "fabric.json")
    if as_json:
        print(out.read_text(), end="")
    else:
        show(page(fabric))
        print(f"\nWritten to {out}; {_use(out, ranks)}.")


def _use(out: Path, ranks: int | None) -> str:
    """How the measurement is used: one of the whole machine is what `plan` takes by itself."""
    if ranks is None:
        return f"kept in {cache_dir()} too, where `wirecut plan MODEL` finds it from now on"
    return f"`wirecut plan MODEL --fabric {out}` uses it"
