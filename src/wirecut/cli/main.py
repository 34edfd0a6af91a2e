"""The entry point of the `wirecut` script: what is set before anything is loaded."""

import atexit
import gc
import os

# Containers made until the next look for cycles: more than a plan makes, and its pricing leaves no
# cycles. A fifth of a plan's time goes to looking otherwise.
CONTAINERS = 1_000_000


def run() -> None:
    """Run the command line."""
    _open_streams()
    gc.set_threshold(CONTAINERS)
    atexit.register(gc.freeze)  # what is left ends with the process, looked through or not
    from wirecut.cli.app import app

    app()


def _open_streams() -> None:
    """Open standard streams that are closed (`<&-`), else a socket would take their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
