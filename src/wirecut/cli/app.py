"""The command `wirecut`: one thin typed function per command, errors as one line and an exit code.

Knows no command's inside; each module loads what is heavy in its own function.
"""

import functools
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from wirecut.cli.estimate import estimate
from wirecut.cli.explain import explain
from wirecut.cli.generate import generate
from wirecut.cli.lab import lab
from wirecut.cli.plan import plan
from wirecut.cli.probe import probe
from wirecut.errors import UsageError, WirecutError
from wirecut.version import __version__

COMMANDS: list[Callable[..., None]] = [probe, plan, estimate, explain, generate, lab]
COULD_NOT = WirecutError.exit_code
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

app = typer.Typer(
    help="Look at the wires, decide how to cut a language model across them, say why, and run it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"wirecut {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Look at the wires, decide how to cut a language model across them, say why, and run it."""


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """The command with errors told on standard error and Ctrl-C as an exit code."""

    @functools.wraps(command)
    def run_command(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except WirecutError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            raise  # typer ends quietly: whoever read the output has read enough
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            bad_path = error.filename is not None
            raise typer.Exit(UsageError.exit_code if bad_path else COULD_NOT) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run_command


for one in COMMANDS:
    app.command()(_told(one))
