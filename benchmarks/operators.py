"""How long kernels take: fit the constants to measured operators, score them, print both.

    python benchmarks/operators.py DATA_DIR > benchmarks/operators.md       # fit, then score
    python benchmarks/operators.py DATA_DIR --fitted > src/wirecut/cost/kernels_fitted.py

DATA_DIR is `aiconfigurator_core/systems/data` of the unpacked wheel aiconfigurator-core 0.12.0
(`pip download --no-deps`); needs `pip install pyarrow`. Three minutes.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median

from operators_fit import as_module, fit
from operators_rows import OPERATORS, Case, gpus, load

from wirecut.cost.kernels import Gpu
from wirecut.cost.kernels_fitted import FITTED
from wirecut.version import __version__

PER_GROUP = 400  # cases of every operator, system and format
Priced = tuple[Case, float]

HEAD = """# Kernels, priced and measured

{date}, wirecut {version}, `python benchmarks/operators.py DATA_DIR > benchmarks/operators.md`;
DATA_DIR is `aiconfigurator_core/systems/data` of the wheel aiconfigurator-core 0.12.0 (NVIDIA,
Apache-2.0). Errors are of seconds, relative to what was measured: at most {most} cases of every
operator, system and format, the lower median of vLLM, SGLang and TensorRT-LLM, without those that a
cache served. Bias is the median of the signed error.
"""

NOTES = """
## What is missed, and why

- int8 and int4 products were measured outside of CUDA graphs; their starts are taken from bf16, so
  small ones are priced 8 to 40 % below what the table says.
- Prefill: "others" are heads of 64 and 256 and windows, which run other kernels on some systems;
  fp8 is TensorRT-LLM's, whose table has rotary embedding and the cache's writing in it. The bf16
  rows of TensorRT-LLM are left out for that: 1.1 to 1.4 times the others on long prompts.
- Experts: tables without expert parallelism. Collectors deal tokens evenly or by a power law;
  the formulas follow both. How uneven real routers are (`SKEW`) serving runs say (serving.md).
- MLA on A100, L40S and RTX PRO 6000 runs fallback kernels. A short convolution in prefill
  reads its input more than once.
- Kernels of generations without a table (Turing, Ampere's and Ada's cards without ECC, CDNA) are
  derived from the nearest one, and say `assumed`.
"""


def main() -> None:
    """Print the page, or the module of constants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fitted", action="store_true", help="print kernels_fitted.py")
    given = parser.parse_args()
    cases = [case for name in OPERATORS for case in load(given.data, name, PER_GROUP)]
    known = gpus()
    if given.fitted:
        print(as_module([fit(generation, cases, known) for generation in FITTED.values()]), end="")
        return
    print(HEAD.format(date=date.today(), version=__version__, most=PER_GROUP))
    for line in page(cases, known):
        print(line)
    print(NOTES, end="")


def page(cases: Sequence[Case], known: Mapping[str, Gpu]) -> Iterator[str]:
    """The tables, line by line."""
    priced = [(case, case.price(known[case.system])) for case in cases]
    yield from ("## By operator, with the shipped constants", "")
    yield from table(priced, "operator, format", lambda case: f"{case.operator}, {case.format}")
    yield from ("", "## By system", "")
    yield from table(priced, "operator, system", lambda case: f"{case.operator}, {case.system}")
    yield from ("", "## By size", "")
    yield from table(priced, "operator, size", lambda case: f"{case.operator}, {case.size}")
    left = list(left_out(cases, known))
    yield from ("", "## A system left out whole", "")
    yield "Constants refitted on the other systems of its generation, where there are any."
    yield ""
    yield from table(left, "operator, system", lambda case: f"{case.operator}, {case.system}")
    yield from ("", "## Frameworks", "", "Seconds over the case's, median and spread.", "")
    yield from frameworks(cases)
    yield from ("", "## Furthest off", "")
    yield from worst(priced)


def left_out(cases: Sequence[Case], known: Mapping[str, Gpu]) -> Iterator[Priced]:
    """Every case of a system priced by constants that saw only its generation's other systems."""
    for system, gpu in known.items():
        others = [
            case
            for case in cases
            if case.system != system and known[case.system].generation.name == gpu.generation.name
        ]
        if others:
            own = replace(gpu, generation=fit(gpu.generation, others, known))
            yield from ((case, case.price(own)) for case in cases if case.system == system)


def table(priced: Iterable[Priced], title: str, group: Callable[[Case], str]) -> Iterator[str]:
    """Errors by group."""
    errors: dict[str, list[float]] = {}
    for case, seconds in priced:
        errors.setdefault(group(case), []).append(seconds / case.seconds - 1)
    yield f"| {title} | cases | median error | p90 | bias |"
    yield "|---|---|---|---|---|"
    for name, found in errors.items():
        size = sorted(map(abs, found))
        tenth = size[int(0.9 * (len(size) - 1))]
        yield (
            f"| {name} | {len(size)} | {median(size):.0%} | {tenth:.0%} | {median(found):+.0%} |"
        )


def frameworks(cases: Sequence[Case]) -> Iterator[str]:
    """How far each framework lies from what is fitted, where there are two or more."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        if len(case.frameworks) > 1:
            for name, seconds in case.frameworks:
                ratios.setdefault((case.operator, name), []).append(seconds / case.seconds)
    yield "| operator, framework | cases | p10 | median | p90 |"
    yield "|---|---|---|---|---|"
    for (operator, name), found in sorted(ratios.items()):
        ordered = sorted(found)
        parts = [ordered[int(share * (len(ordered) - 1))] for share in (0.1, 0.5, 0.9)]
        yield (
            f"| {operator}, {name} | {len(found)} | " + " | ".join(f"{p:.2f}" for p in parts) + " |"
        )


def worst(priced: Sequence[Priced]) -> Iterator[str]:
    """The groups of an operator, system, format and size that are furthest off."""
    errors: dict[str, list[float]] = {}
    for case, seconds in priced:
        name = f"{case.operator}, {case.format}, {case.system}, {case.size}"
        errors.setdefault(name, []).append(seconds / case.seconds - 1)
    yield "| operator, format, system, size | cases | median error | bias |"
    yield "|---|---|---|---|"
    sized = {name: median(map(abs, found)) for name, found in errors.items() if len(found) >= 10}
    for name in sorted(sized, key=lambda name: -sized[name])[:25]:
        found = errors[name]
        yield f"| {name} | {len(found)} | {sized[name]:.0%} | {median(found):+.0%} |"


if __name__ == "__main__":
    main()
