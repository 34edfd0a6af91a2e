"""How a checkpoint says that its weights are quantised: `quantization_config` in `config.json`, or
ModelOpt's `hf_quant_config.json` beside it.

    found = read_quantization(fields)
    found.rule_of("model.layers.0.mlp.up_proj", "up").format     # "fp8-b128"
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Any

from wirecut.facts import fact
from wirecut.spec.fields import Fields
from wirecut.spec.tensor import Part

# ModelOpt's names for (how weights are stored, what inputs of a product are rounded to).
ALGORITHMS = {
    "FP8": ("fp8", "fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", "fp8"),
    "FP8_PB_WO": ("fp8-b128", "fp8"),
    "FP8_BLOCK_SCALES": ("fp8-b128", "fp8"),
    "NVFP4": ("nvfp4", "nvfp4"),
    "NVFP4_AWQ": ("nvfp4", "nvfp4"),
    "W4A16_NVFP4": ("nvfp4", ""),
    "MXFP8": ("mxfp8", "mxfp8"),
    "MXFP4": ("mxfp4", "mxfp4"),
    "W4A8_MXFP4_FP8": ("mxfp4", "fp8"),
    "W4A16_AWQ": ("int4-g128", ""),
    "W4A8_AWQ": ("int4-g128", "fp8"),
    "INT8_SQ": ("int8", "int8"),
    "W8A16": ("int8", ""),
}
# Never quantised by any method above: lookups, routers, and what is small and steers a state.
KEPT = frozenset(("embed", "norm", "bias", "small", "router", "decay", "compress"))


class Names:
    """Patterns of module names: exact, "re:" and a regular expression, or with "*". A pattern
    holds for all that lies within the module that it names.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        exact = set[str]()
        shapes: list[str] = []
        for pattern in patterns:
            if pattern.startswith("re:"):
                shapes.append(f"(?:{pattern[3:]})")
            elif "*" in pattern or "?" in pattern:
                shapes.append(f"(?:{translate(pattern)})")
            else:
                exact.add(pattern.removesuffix("."))
        self._exact = exact
        self._shape = re.compile("|".join(shapes)) if shapes else None

    def __contains__(self, module: str) -> bool:
        parents = module
        while parents:
            if parents in self._exact or parents.rpartition(".")[2] in self._exact:
                return True
            if self._shape and self._shape.match(parents):
                return True
            parents = parents.rpartition(".")[0]
        return False


@fact
class Rule:
    """Modules by their names, how their weights are stored, and what the inputs of their products
    are rounded to ("": the model's dtype).
    """

    modules: tuple[str, ...]
    format: str
    activations: str = ""


@dataclass(frozen=True)
class Quantization:
    """What is stored how: of `rules`, the first that holds counts, but not for the `ignored`.
    `head`: whether the LM head is among those that are not named.
    """

    method: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    head: bool = False
    kv_dtype: str | None = None

    @cached_property
    def _names(self) -> tuple[Names, list[tuple[Names, Rule]]]:
        return Names(self.ignored), [(Names(rule.modules), rule) for rule in self.rules]

    def rule_of(self, module: str, part: Part) -> Rule | None:
        """How a module's weight is stored, or None where it stays in the model's dtype."""
        if part in KEPT or module.endswith("weights_proj"):
            return None
        ignored, rules = self._names
        if module in ignored or (part == "head" and not self.head):
            return None
        return next((rule for names, rule in rules if module in names), None)


EVERYTHING = ("*",)
EXPERTS = ("*.experts", "*.experts.*")


def read_quantization(fields: Fields) -> Quantization | None:
    """What `quantization_config` says, or None where there is none. Raises ModelError for a method
    that is not known.
    """
    config = fields.inner("quantization_config")
    if not config.values:
        return None
    if config.has("quantization"):  # the layout of hf_quant_config.json
        return _modelopt(config.inner("quantization"), fields)
    method = config.text("quant_method", "modelopt" if config.has("quant_algo") else "")
    if config.has("quant_algo"):
        return _modelopt(config, fields, method)
    reader = METHODS.get(method)
    if reader is None:
        raise fields.error(
            f"quantization_config has quant_method {method!r}; "
            f"wirecut knows {', '.join(sorted(METHODS))}"
        )
    return reader(config, fields)


def _patterns(config: Fields, *names: str) -> tuple[str, ...]:
    found = [one for name in names for one in config.items(name)]
    for one in found:
        if not isinstance(one, str):
            raise config.error(f"{one!r} is listed as a module, expected a name")
    try:
        Names(found)
    except (re.error, OverflowError) as error:
        raise config.error(f"{', '.join(names)} has no regular expressions: {error}") from error
    return tuple(found)


def _fp8(config: Fields, fields: Fields) -> Quantization:
    """Block or tensor scales as in DeepSeek's and Qwen's own checkpoints."""
    block = config.items("weight_block_size")
    if block and (type(block[0]) is not int or not 1 <= block[0] < 10**5):
        raise config.error(f"weight_block_size is {block!r}, expected sizes such as [128, 128]")
    format = f"fp8-b{block[0]}" if block else "fp8"
    ignored = _patterns(config, "modules_to_not_convert", "ignored_layers")
    rules = (Rule(EVERYTHING, format, "fp8"),)
    if fields.text("expert_dtype") == "fp4":  # DeepSeek-V4
        rules = (Rule(EXPERTS, "mxfp4", "fp8"), *rules)
    return Quantization("fp8", rules, ignored)


def _integers(config: Fields, _: Fields) -> Quantization:
    """AWQ, GPTQ and AutoRound: groups of integers; the product is in the model's dtype."""
    bits = config.count("bits", "w_bit", default=4)
    if bits not in (4, 8):
        raise config.error(f"bits is {bits}, wirecut knows 4 and 8")
    size = config.values.get("group_size", config.values.get("q_group_size", 128))
    grouped = type(size) is int and 0 < size < 10**6
    format = f"int{bits}" + (f"-g{size}" if grouped else "-row" if bits == 4 else "")
    ignored = _patterns(config, "modules_to_not_convert", "ignored_layers")
    extra = config.inner("extra_config").values  # AutoRound's exceptions, by module
    kept = tuple(
        name
        for name, own in extra.items()
        if isinstance(own, dict) and own.get("bits") == 16  # pyright: ignore[reportUnknownMemberType]
    )
    return Quantization(_packing(config), (Rule(EVERYTHING, format),), ignored + kept)


def _packing(config: Fields) -> str:
    """The method, with its packing where that is not the method's usual one."""
    method = config.text("quant_method")
    if method == "gptq" and config.text("checkpoint_format", "gptq") == "gptq_v2":
        return "gptq_v2"
    version = config.text("version", "gemm").lower() if method == "awq" else "gemm"
    return method if version == "gemm" else f"{method}_{version}"


def _mxfp4(config: Fields, _: Fields) -> Quantization:
    ignored = _patterns(config, "modules_to_not_convert")
    return Quantization("mxfp4", (Rule(EXPERTS, "mxfp4"),), ignored)


def _bitsandbytes(config: Fields, _: Fields) -> Quantization:
    """NF4 with one fp32 scale per 64, or LLM.int8()."""
    four = config.flag("load_in_4bit", config.text("bnb_4bit_quant_type") != "")
    format = "nf4" if four else "int8"
    ignored = _patterns(config, "llm_int8_skip_modules")
    rule = Rule(EVERYTHING, format, "" if four else "int8")
    return Quantization("bitsandbytes", (rule,), ignored)


def _compressed(config: Fields, _: Fields) -> Quantization:
    """compressed-tensors: groups of modules, each with formats of weights and inputs."""
    rules: list[Rule] = []
    groups = config.inner("config_groups")
    for name in groups.values:
        group = groups.inner(name)
        targets = _patterns(group, "targets") or ("Linear",)
        targets = EVERYTHING if "Linear" in targets else targets
        rules.append(Rule(targets, _scheme(group.inner("weights")), _rounded(group)))
    if not rules:
        raise config.error("config_groups names no group, expected what is quantised how")
    # Groups that name modules come before those for all others.
    rules.sort(key=lambda rule: rule.modules == EVERYTHING)
    ignored = _patterns(config, "ignore")
    return Quantization(
        "compressed-tensors", tuple(rules), ignored, head=True, kv_dtype=_kv_dtype(config)
    )


def _scheme(weights: Fields) -> str:
    bits, kind = weights.count("num_bits", default=8), weights.text("type", "int")
    size, strategy = weights.optional("group_size"), weights.text("strategy")
    block = weights.items("block_structure")
    if (bits, kind) == (8, "float"):
        square = strategy == "block" or bool(block)
        return "fp8-b128" if square else f"mxfp8-g{size}" if size else "fp8"
    if (bits, kind) == (4, "float"):
        return "nvfp4" if size in (None, 16) else "mxfp4" if size == 32 else f"mxfp4-g{size}"
    if kind == "int" and bits in (4, 8):
        shape = "s" if weights.flag("symmetric") else "g"
        return f"int{bits}" + (f"-{shape}{size}" if size else "-row" if bits == 4 else "")
    raise weights.error(f"{bits}-bit {kind} weights are not known")


def _rounded(group: Fields) -> str:
    inputs = group.inner("input_activations")
    if not inputs.values:
        return ""
    bits, kind = inputs.count("num_bits", default=8), inputs.text("type", "int")
    if kind == "int":
        return "int8" if bits == 8 else ""
    return (
        "fp8" if bits == 8 else "nvfp4" if inputs.optional("group_size") in (None, 16) else "mxfp4"
    )


def _kv_dtype(config: Fields) -> str | None:
    """The cache's dtype from `kv_cache_scheme`, an object or a name, or `kv_cache_quant_algo`."""
    scheme: Any = config.values.get("kv_cache_scheme") or config.values.get("kv_cache_quant_algo")
    if isinstance(scheme, dict):
        kind = config.inner("kv_cache_scheme")
        eight = kind.count("num_bits", default=8) == 8
        return ("fp8" if kind.text("type", "float") == "float" else "int8") if eight else None
    return {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}.get(str(scheme).upper())


def _modelopt(config: Fields, fields: Fields, method: str = "modelopt") -> Quantization:
    name = config.text("quant_algo").upper()
    ignored = _patterns(config, "exclude_modules", "ignore")
    kv_dtype = _kv_dtype(config)
    if name != "MIXED_PRECISION":
        if name not in ALGORITHMS:
            raise config.error(
                f"quant_algo is {name!r}; wirecut knows MIXED_PRECISION, {', '.join(ALGORITHMS)}"
            )
        format, activations = ALGORITHMS[name]
        if name.endswith("_AWQ") and (size := config.optional("group_size")):
            format = f"int4-g{size}" if format.startswith("int4") else format
        rule = Rule(EVERYTHING, format, activations)
        return Quantization("modelopt", (rule,), ignored, kv_dtype=kv_dtype)
    rules = _mixed(config)
    if method == "fp8":  # a block-quantised checkpoint with some layers done again by ModelOpt
        rules += _fp8(config, fields).rules
    return Quantization("modelopt", rules, head=method != "fp8", kv_dtype=kv_dtype)


def _mixed(config: Fields) -> tuple[Rule, ...]:
    """The rules of `quantized_layers`, by algorithm."""
    layers = config.inner("quantized_layers")
    _patterns(Fields({"names": list(layers.values)}, layers.where), "names")
    by_algorithm: dict[str, set[str]] = {}
    for module in layers.values:
        name = layers.inner(module).text("quant_algo").upper()
        if name not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise layers.error(f"{module} has quant_algo {name!r}; wirecut knows {known}")
        # One expert stands for all: they are one tensor here.
        by_algorithm.setdefault(name, set()).add(re.sub(r"\.experts\.\d+\.", ".experts.0.", module))
    if not by_algorithm:
        raise config.error("quant_algo is MIXED_PRECISION, and quantized_layers names nothing")
    return tuple(Rule(tuple(modules), *ALGORITHMS[name]) for name, modules in by_algorithm.items())


METHODS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "awq": _integers,
    "gptq": _integers,
    "auto-round": _integers,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
}
