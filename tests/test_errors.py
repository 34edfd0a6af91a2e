"""Exit codes and units: what a script and a person see."""

import pytest

from wirecut import errors
from wirecut.units import show_bytes, show_flops, show_rate, show_seconds


def every_error(root=errors.WirecutError) -> set:
    return {root}.union(*(every_error(child) for child in root.__subclasses__()))


COULD_NOT = {errors.WirecutError, errors.NothingFits, errors.RankFailed, errors.MissingExtra}
BAD_INPUT = {
    errors.UsageError,
    errors.ModelError,
    errors.FabricError,
    errors.LayoutError,
    errors.PlanError,
}


@pytest.mark.parametrize("error", sorted(every_error(), key=lambda error: error.__name__))
def test_exit_codes(error):
    """Of a finer error that a room has for itself, those of its kind in `wirecut.errors`."""
    kind = next(base for base in error.__mro__ if base.__module__ == errors.__name__)
    assert kind in COULD_NOT | BAD_INPUT, "a new error needs its exit code here"
    assert error.exit_code == (2 if kind in BAD_INPUT else 1)
    assert kind.__name__ in errors.__doc__


def test_a_missing_extra_prints_the_install_line():
    error = errors.MissingExtra("engine", "`wirecut generate`")
    assert "pip install 'wirecut[engine]'" in str(error)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (show_bytes(0), "0 B"),
        (show_bytes(1023), "1023 B"),
        (show_bytes(1536), "1.50 KiB"),
        (show_bytes(80 * 2**30), "80.0 GiB"),
        (show_bytes(2**40), "1024 GiB"),
        (show_seconds(0), "0 s"),
        (show_seconds(0.0000123), "12.3 us"),
        (show_seconds(0.25), "250 ms"),
        (show_seconds(90), "90.0 s"),
        (show_seconds(3e-10), "0.30 ns"),
        (show_rate(2.5e9), "2.50 GB/s"),
        (show_rate(3.35e12), "3.35 TB/s"),
        (show_flops(1e11), "100 GFLOP/s"),
    ],
)
def test_numbers_as_a_person_reads_them(shown, text):
    assert shown == text
