"""The error tree. Every error that wirecut raises on purpose is one of these.

    WirecutError          exit code 1: could not do it
      NothingFits           no layout fits the devices
      RankFailed            a rank died or did not arrive
      MissingExtra          an optional dependency is not installed
      UsageError          exit code 2: wrong use or bad input
        ModelError          a checkpoint or config.json that cannot be used
        FabricError         a fabric file or text that cannot be used
        LayoutError         a layout that the model or the devices do not allow
        PlanError           a plan file that cannot be used

A message says what happened, what was measured against what was needed, and what to try.
"""

from collections.abc import Generator
from contextlib import contextmanager


class WirecutError(Exception):
    """Anything that wirecut could not do. `exit_code` is what the command line returns."""

    exit_code = 1


class NothingFits(WirecutError):
    """Every layout was rejected; the message holds the reasons."""


class RankFailed(WirecutError):
    """A rank died, hung or ran out of memory; the message names it, and the step where known."""


@contextmanager
def during(what: str) -> Generator[None]:
    """A rank that fails inside says during what, as in "step 3: rank 1 (...) did not come"."""
    try:
        yield
    except RankFailed as error:
        raise RankFailed(f"{what}: {error}") from error


class MissingExtra(WirecutError):
    """An optional dependency is missing; the message holds the install line."""

    def __init__(self, extra: str, because: str) -> None:
        super().__init__(f"{because} needs the extra `{extra}`: pip install 'wirecut[{extra}]'")


class UsageError(WirecutError):
    """Wrong use or bad input: nothing was started, nothing was written."""

    exit_code = 2


class ModelError(UsageError):
    """A model that is not there, damaged, contradicting itself or of an unknown architecture."""


class FabricError(UsageError):
    """A fabric that cannot be read or makes no sense."""


class LayoutError(UsageError):
    """A layout that cannot be parsed, or that the model or the fabric does not allow."""


class PlanError(UsageError):
    """A plan file that is damaged, foreign, or of another version."""
