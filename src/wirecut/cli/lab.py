"""`wirecut lab`: see TP, PP and DP cross over on this machine's own wires."""

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from wirecut.cli.options import JsonOpt, check_out
from wirecut.cli.progress import Bar
from wirecut.errors import MissingExtra, UsageError

SHAPED = "shm,1gbit,200mbit,100mbit"
UNSHAPED = "shm,loopback"


def lab(
    wires: Annotated[
        str | None,
        typer.Option(
            help="shm, loopback, and speeds of links between two hosts made for it "
            f"(root and Linux only).  [{SHAPED}]",
        ),
    ] = None,
    users: Annotated[str, typer.Option(help="How many ask at once.")] = "1,8",
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model folder or id.  [98 M random weights]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture: png, svg or pdf.")] = Path("lab.png"),
    as_json: JsonOpt = False,
) -> None:
    """See for yourself: TP, PP and DP on wires of several speeds, predicted and then run."""
    import msgspec

    _check(out)
    from wirecut.bench.lab import experiment, parse_users, parse_wires
    from wirecut.bench.lab_page import lab_page
    from wirecut.bench.picture import draw
    from wirecut.explain.page import show

    asked, counts = parse_wires(wires or _default_wires()), parse_users(users)
    _check_bed(shaped=[wire.name for wire in asked if wire.bits_per_s is not None])
    with ExitStack() as stack:
        folder = _model_folder(model, stack)
        bar = stack.enter_context(Bar("Lab"))
        found = experiment(asked, users=counts, folder=folder, progress=bar.update)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        show(lab_page(found))
    draw(found, out)  # last: a full disk costs the picture only
    if not as_json:
        print(f"\nDrawn in {out}.")


def _check(out: Path) -> None:
    """Raise MissingExtra or UsageError before any work is done."""
    for module, because in (("torch", "running a model"), ("matplotlib", "drawing the picture")):
        if find_spec(module) is None:
            raise MissingExtra("engine", because)
    from wirecut.bench.picture import ENDINGS

    if out.suffix.lower().removeprefix(".") not in ENDINGS:
        raise UsageError(f"--out is {out}, expected a name that ends in .{', .'.join(ENDINGS)}")
    check_out(out)


def _default_wires() -> str:
    """All that this machine can do; says so when that is not all there is."""
    import sys

    from wirecut.bench.testbed import why_no_bed

    reason = why_no_bed()
    if reason is None:
        return SHAPED
    print(f"No links between hosts here: {reason}. Taking {UNSHAPED}.", file=sys.stderr)
    return UNSHAPED


def _check_bed(shaped: list[str]) -> None:
    from wirecut.bench.testbed import why_no_bed

    if shaped and (reason := why_no_bed()):
        raise UsageError(
            f"{', '.join(shaped)} takes links between hosts, and there can be none: {reason}. "
            f"Try --wires {UNSHAPED}"
        )


def _model_folder(model: str | None, stack: ExitStack) -> Path:
    """The model asked for, or random weights in a folder that goes with `stack`."""
    if model is not None:
        from wirecut.spec.find import find_model

        return find_model(model)[0]
    from wirecut.bench.model import write_random_model
    from wirecut.bench.scratch import folder_that_vanishes

    folder = stack.enter_context(folder_that_vanishes()) / "random-98m"
    folder.mkdir()
    return write_random_model(folder)
