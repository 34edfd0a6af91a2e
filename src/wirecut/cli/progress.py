"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

QUIET_S = 2.0  # shorter work needs no progress


class Bar:
    """A progress bar that costs nothing until it is needed. Use as a context manager."""

    def __init__(self, what: str) -> None:
        self._what, self._begin, self._told = what, time.monotonic(), time.monotonic()
        self._width = 0

    def update(self, done: int, of: int, note: str = "") -> None:
        """`done` of `of` steps are done; `note` says what comes next."""
        share = done / of if of else 1.0
        if sys.stderr.isatty():
            filled = round(24 * share)
            line = f"{self._what} {'━' * filled}{'╌' * (24 - filled)} {share:4.0%} {note}"
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
        elif time.monotonic() - self._told > QUIET_S:
            self._told = time.monotonic()
            print(f"{self._what}: {share:.0%} {note}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar off the screen."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
