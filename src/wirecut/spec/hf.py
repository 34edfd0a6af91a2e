"""Reads a Hugging Face `config.json` into a `ModelSpec`.

Knows names of configuration fields, nothing of tensors' bytes. What is particular to an
architecture is in `spec.families`.

    spec = read_config(Path("examples/demo-model/config.json"))
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from wirecut.errors import ModelError
from wirecut.spec.families.dense import DENSE
from wirecut.spec.families.experts import EXPERTS
from wirecut.spec.families.hybrid import HYBRID
from wirecut.spec.families.latent import LATENT
from wirecut.spec.families.older import OLDER
from wirecut.spec.families.parts import Body, Reader
from wirecut.spec.fields import Fields
from wirecut.spec.model import Layer, ModelSpec, WeightFormat
from wirecut.spec.quantization import Quantization, read_quantization

READERS: dict[str, Reader] = {**DENSE, **EXPERTS, **LATENT, **HYBRID, **OLDER}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
MODELOPT_FILE = "hf_quant_config.json"


def read_config(path: Path) -> ModelSpec:
    """The spec in `path` (a config.json), with what `hf_quant_config.json` beside it adds. Raises
    ModelError that names the file and the field.
    """
    config = read_json(path)
    beside = path.parent / MODELOPT_FILE
    if beside.is_file():
        _add_modelopt(config, read_json(beside))
    return from_config(config, name=path.parent.resolve().name, where=str(path))


def _add_modelopt(config: dict[str, Any], beside: dict[str, Any]) -> None:
    """What ModelOpt's own file says, where `config.json` says less: all, or the cache's dtype."""
    own: Any = config.get("quantization_config")
    if not own:
        config["quantization_config"] = beside
        return
    kv = Fields(beside, MODELOPT_FILE).inner("quantization").values.get("kv_cache_quant_algo")
    if isinstance(own, dict) and "kv_cache_scheme" not in own:
        config["quantization_config"] = {"kv_cache_quant_algo": kv, **cast(dict[str, Any], own)}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a configuration file. Raises ModelError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not valid JSON ({error}): is it cut short? Download it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"{path} holds {type(config).__name__}, expected a JSON object with model_type"
        )
    return cast(dict[str, Any], config)


def from_config(config: Mapping[str, Any], *, name: str, where: str) -> ModelSpec:
    """The spec of a parsed configuration; `where` names its origin in errors."""
    kind, reader = _reader(config, where)
    fields = text_part(config, where)
    hidden = fields.count("hidden_size", "n_embed", "d_model")
    vocab = fields.count("padded_vocab_size", "vocab_size")
    body = reader(fields)
    rope = rope_fields(fields)
    quantization = read_quantization(fields)
    spec = ModelSpec(
        name=name,
        architecture=kind,
        hidden=hidden,
        vocab=vocab,
        layers=body.layers,
        tied_embeddings=fields.flag("tie_word_embeddings", body.tied),
        dtype=_dtype(fields, "float32" if quantization is None else "bfloat16"),
        max_positions=_positions(rope),
        norm_eps=fields.positive(
            "rms_norm_eps", "layer_norm_eps", "norm_eps", "layernorm_epsilon", default=1e-6
        ),
        rope_theta=rope.positive("rope_theta", default=10_000.0),
        rope_kind=rope_kind(rope),
        stop_tokens=_stop_tokens(fields, vocab),
        prefix=_prefix(body, is_nested="text_config" in config),
        extra=body.extra,
    )
    return spec if quantization is None else _stored(spec, quantization)


def _reader(config: Mapping[str, Any], where: str) -> tuple[str, Reader]:
    """The architecture, and who reads it: by the whole model's type, else by its text part's."""
    kind, text = config.get("model_type"), config.get("text_config")
    inner = cast(dict[str, Any], text).get("model_type") if isinstance(text, dict) else None
    for one in (kind, inner):
        if isinstance(one, str) and one in READERS:
            return one, READERS[one]
    known = ", ".join(sorted(READERS))
    raise ModelError(
        f"{where}: model_type is {kind!r}; wirecut knows {known}. "
        "Its layers are not guessed: a new architecture needs a reader"
    )


def text_part(config: Mapping[str, Any], where: str) -> Fields:
    """The fields of the language model: of a model that sees, those of `text_config`, with what is
    said outside only.
    """
    fields = Fields(config, where)
    text = fields.inner("text_config").values
    return Fields({**fields.values, **text}, fields.where) if text else fields


def _prefix(body: Body, *, is_nested: bool) -> str:
    return "model.language_model." if is_nested and body.prefix == "model." else body.prefix


def _positions(rope: Fields) -> int:
    """The longest sequence: of ropes that stretch what they are told of, so much longer."""
    told = rope.count(
        "max_position_embeddings",
        "seq_length",
        "model_max_length",
        "max_seq_len",
        default=2048,
        most=10**9,
    )
    factor, kind = rope.values.get("factor"), rope_kind(rope)
    if factor is None or kind not in ("dynamic", "yarn"):
        return told
    original = rope.count("original_max_position_embeddings", default=told, most=10**9)
    return max(told, int((told if kind == "dynamic" else original) * rope.positive("factor")))


def rope_fields(fields: Fields, kind_of_layer: str = "full_attention") -> Fields:
    """What is said of the rotary embedding of a kind of layer: in `rope_parameters` since
    transformers 5, before in `rope_scaling`, and outside of both.
    """
    found = dict(fields.values)
    for name in ("rope_scaling", "rope_parameters"):
        own = fields.inner(name)
        found |= own.inner(kind_of_layer).values or own.values
    return Fields(found, fields.where)


def rope_kind(found: Fields) -> str:
    """How the rotary embedding is scaled, by the name that configurations have for it; LongRoPE was
    "su" first.
    """
    kind = found.text("rope_type", found.text("type", "default"))
    return "longrope" if kind == "su" else kind


def _dtype(fields: Fields, by_default: str) -> str:
    name: Any = fields.values.get("dtype") or fields.values.get("torch_dtype") or by_default
    if not isinstance(name, str) or name not in DTYPES:
        raise fields.error(f"dtype is {name!r}, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _stop_tokens(fields: Fields, vocab: int) -> tuple[int, ...]:
    value: Any = fields.values.get("eos_token_id")
    tokens = cast(list[Any], value) if isinstance(value, list) else [value]
    tokens = [] if value is None else tokens
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise fields.error(f"eos_token_id is {value!r}, expected token ids")
    return tuple(token for token in tokens if token < vocab)  # others are never drawn


def _stored(spec: ModelSpec, how: Quantization) -> ModelSpec:
    """The same model with each tensor in the format that the checkpoint stores it in."""
    known: dict[tuple[Layer, tuple[tuple[str, str], ...]], Layer] = {}
    layers: list[Layer] = []
    stored: Counter[tuple[str, str]] = Counter()
    for i, layer in enumerate(spec.layers):
        at = f"{spec.prefix}layers.{i}."
        formats: list[tuple[str, str]] = []
        for tensor in spec.layer_tensors(layer):
            if rule := how.rule_of(_module(at + tensor.name), tensor.part):
                formats.append((tensor.name, rule.format))
                stored[rule.format, rule.activations] += tensor.elements
        kind = (layer, tuple(formats))
        layers.append(known.setdefault(kind, replace(layer, formats=kind[1])))
    common = max(stored, key=lambda pair: stored[pair], default=("", ""))
    head = None if spec.tied_embeddings else how.rule_of("lm_head", "head")
    return replace(
        spec,
        layers=tuple(layers),
        weights=WeightFormat(*common, how.method),
        kv_dtype=how.kv_dtype,
        head_format=head.format if head else "",
    )


def _module(tensor: str) -> str:
    """The module that holds a tensor; of experts, the first."""
    return tensor.replace("{expert}", "0").removesuffix(".weight")
