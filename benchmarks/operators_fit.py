"""Constants of kernels fitted to measured operators, one family of one generation at a time.

    fitted = fit(GENERATIONS["hopper"], cases, gpus())
    print(as_module([fitted]))                # kernels_fitted.py, before formatting

The loss is the mean of |log(priced / measured)|, at most WORST a case: outliers are not fitted.
Coordinate descent with falling steps: a handful of constants a family, none a shape.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import Any, cast

from operators_rows import Case

from wirecut.cost.kernels import Gpu, format_on
from wirecut.cost.kernels_rates import Attention, Elementwise, Generation, Linear, Tiles

STEPS = (1.3, 1.12, 1.04, 1.015)
WORST = 1.0
MOST = {"memory": 0.97, "share": 0.97}  # of the datasheet: no constant promises more
LEAST = {"edge": 0.1, "start_s": 1e-6, "step_s": 1e-13}
BY_FORMAT = {"gemm": "products", "experts": "experts"}
DECODE = ("decode_start_s", "decode_memory", "decode_share", "decode_edge")
PREFILL = ("prefill_start_s", "prefill_share", "prefill_edge")
# Constants by operator and, where only some of them say something, formats. Most models have heads
# of 128 and no window: prefill is theirs in the end, only the softmax is from all.
OTHERS = (
    ("decode", (), "attention", DECODE),
    ("prefill", ("bf16", "bf16 others"), "attention", (*PREFILL, "prefill_softmax")),
    ("prefill", ("bf16",), "attention", PREFILL),
    ("prefill", ("fp8",), "attention", ("fp8_gain",)),
    ("latent decode", (), "attention", ("latent_start_s", "latent_share")),
    ("latent prefill", (), "attention", ("latent_prefill_share",)),
    ("recurrence", ("decode",), "linear", ("start_s", "memory")),
    ("recurrence", ("prefill",), "linear", ("chunk_start_s", "share")),
    ("elementwise", (), "elementwise", ("start_s", "memory")),
)
# Where every fit starts, so that it does not depend on the constants as they are.
PRODUCTS = Tiles(start_s=5e-6, memory=0.8, edge=5.0, step_s=1e-10, share=0.6)
EXPERTS = Tiles(start_s=2e-5, memory=0.8, edge=20.0, step_s=1e-11, share=0.5)
ATTENTION = Attention(
    decode_start_s=1e-5,
    decode_memory=0.85,
    decode_share=1.5,
    decode_edge=50.0,
    prefill_start_s=8e-6,
    prefill_share=0.8,
    prefill_edge=150.0,
    prefill_softmax=30.0,
    fp8_gain=1.0,
    latent_start_s=1.3e-5,
    latent_share=0.5,
    latent_prefill_share=0.55,
)
LINEAR = Linear(start_s=4e-6, chunk_start_s=1.2e-5, memory=0.8, share=0.25)
ELEMENTWISE = Elementwise(start_s=2e-6, memory=0.88)
# Measured outside of CUDA graphs: their starts are the launch's, and bf16's stand instead.
LAUNCHED = ("int8", "int8_wo", "int4")
MODULE = '''"""Constants of kernels by generation, as `benchmarks/operators.py` prints them.

    FITTED["hopper"].products["bf16"].share

Fitted on operators that NVIDIA measured in vLLM, SGLang and TensorRT-LLM (the wheel
aiconfigurator-core 0.12.0, Apache-2.0). Tiles are (start_s, memory, edge, step_s, share).
"""

from collections.abc import Mapping

from wirecut.cost.kernels_rates import Attention, Elementwise, Generation, Linear, Tiles

_ALL = (
{generations},
)

FITTED: Mapping[str, Generation] = {{generation.name: generation for generation in _ALL}}
'''
Path = tuple[str, ...]


def get(where: Any, path: Path) -> Any:
    """What lies at a path of fields and keys."""
    for step in path:
        where = where[step] if isinstance(where, Mapping) else getattr(where, step)
    return where


def put(where: Any, path: Path, value: Any) -> Any:
    """The same with another value at the path."""
    if not path:
        return value
    if isinstance(where, Mapping):
        known = cast(Mapping[str, Any], where)
        return {**known, path[0]: put(known.get(path[0]), path[1:], value)}
    return replace(where, **{path[0]: put(getattr(where, path[0]), path[1:], value)})


def loss(cases: Sequence[Case], gpus: Mapping[str, Gpu], generation: Generation) -> float:
    """Mean |log error| of cases of one generation."""
    own = {name: replace(gpu, generation=generation) for name, gpu in gpus.items()}
    errors = (abs(math.log(case.price(own[case.system]) / case.seconds)) for case in cases)
    return sum(min(error, WORST) for error in errors) / len(cases)


def descend(
    generation: Generation, cases: Sequence[Case], gpus: Mapping[str, Gpu], paths: Sequence[Path]
) -> Generation:
    """The generation with the constants at `paths` where no step of one or of two of them makes
    the loss smaller.
    """
    best = loss(cases, gpus, generation)
    for step in STEPS:
        for _ in range(4):
            before = best
            for move in _moves(paths, step):
                while (tried := _moved(generation, move)) is not None:
                    found = loss(cases, gpus, tried)
                    if found > best - 1e-6:
                        break
                    generation, best = tried, found
            if before - best < 1e-4:
                break
    return generation


def _moves(paths: Sequence[Path], step: float) -> list[dict[Path, float]]:
    singles = [{path: factor} for path in paths for factor in (step, 1 / step)]
    pairs = [
        {a: step**i, b: step**j}
        for a, b in combinations(paths, 2)
        for i in (1, -1)
        for j in (1, -1)
    ]
    return singles + pairs


def _moved(generation: Generation, move: Mapping[Path, float]) -> Generation | None:
    for path, factor in move.items():
        value = get(generation, path) * factor
        word = path[-1].rsplit("_", 1)[-1] if path[-1][-2:] != "_s" else path[-1]
        least = LEAST.get(path[-1], LEAST.get(word, 0.0))
        if not least <= value <= MOST.get(word, math.inf):
            return None
        generation = put(generation, path, value)
    return generation


def fit(generation: Generation, cases: Sequence[Case], gpus: Mapping[str, Gpu]) -> Generation:
    """All constants that `cases` of this generation's systems say something of."""
    own = [case for case in cases if gpus[case.system].generation.name == generation.name]
    own = [
        replace(c, format=format_on(gpus[c.system], c.format))
        for c in own
        if c.operator in BY_FORMAT
    ] + [c for c in own if c.operator not in BY_FORMAT]
    generation = _neutral(generation, own)
    for operator, family in BY_FORMAT.items():
        for format in sorted({case.format for case in own if case.operator == operator}):
            some = [case for case in own if (case.operator, case.format) == (operator, format)]
            paths = [(family, format, field.name) for field in fields(Tiles)]
            generation = descend(generation, some, gpus, paths)
            if operator == "gemm" and format in LAUNCHED:
                start_s = generation.products["bf16"].start_s
                generation = put(generation, (family, format, "start_s"), start_s)
    for operator, formats, family, names in OTHERS:
        some = [c for c in own if c.operator == operator and (not formats or c.format in formats)]
        if some:
            paths = [(family, name) for name in names]
            generation = descend(generation, some, gpus, paths)
    return generation


def _neutral(generation: Generation, cases: Sequence[Case]) -> Generation:
    formats = {
        operator: dict.fromkeys(sorted({c.format for c in cases if c.operator == operator}))
        for operator in BY_FORMAT
    }
    return replace(
        generation,
        products=dict.fromkeys(formats["gemm"], PRODUCTS),
        experts=dict.fromkeys(formats["experts"], EXPERTS),
        attention=ATTENTION,
        linear=LINEAR,
        elementwise=ELEMENTWISE,
    )


def as_module(generations: Iterable[Generation]) -> str:
    """The text of `kernels_fitted.py`, before formatting."""
    return MODULE.format(generations=",\n".join(map(as_source, generations)))


def as_source(value: Any) -> str:
    """A constant as Python, three digits."""
    if isinstance(value, Mapping):
        known = cast(Mapping[str, Any], value)
        inner = ", ".join(f'"{name}": {as_source(each)}' for name, each in known.items())
        return f"{{{inner}}}"
    if is_dataclass(value):
        named = type(value).__name__ != "Tiles"
        parts = ((field.name, as_source(getattr(value, field.name))) for field in fields(value))
        inner = ", ".join(f"{name}={text}" if named else text for name, text in parts)
        return f"{type(value).__name__}({inner})"
    return f"{value:.3g}" if isinstance(value, float) else f'"{value}"'
