"""Reads a Hugging Face `config.json` into a `ModelSpec`.

Knows names of configuration fields, nothing of tensors' bytes.

    spec = read_config(Path("examples/demo-model/config.json"))
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from wirecut.errors import ModelError
from wirecut.spec.attention import Attention
from wirecut.spec.feedforward import Mlp
from wirecut.spec.model import Layer, ModelSpec

ARCHITECTURES = {  # model_type -> class; a new model starts with a line here
    "llama": "LlamaForCausalLM",
}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
LARGEST = 10**7  # no published dimension comes near; beyond it a number is a mistake


def read_config(path: Path) -> ModelSpec:
    """The spec in `path` (a config.json). Raises ModelError that names the file and the field."""
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
    fields = cast(dict[str, Any], config)
    return from_config(fields, name=path.parent.resolve().name, where=str(path))


def from_config(config: Mapping[str, Any], *, name: str, where: str) -> ModelSpec:
    """The spec of a parsed configuration; `where` names its origin in errors."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{where}: model_type is {kind!r}; wirecut knows {known}")
    if config.get("quantization_config"):
        raise ModelError(f"{where}: quantization_config is set, which wirecut does not support yet")
    for field in ("attention_bias", "mlp_bias"):
        if config.get(field):
            raise ModelError(f"{where}: {field} is true, which wirecut does not support yet")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{where}: hidden_act is {config['hidden_act']!r}, expected 'silu'")

    hidden = _count(config, "hidden_size", where)
    heads = _count(config, "num_attention_heads", where)
    kv_heads = _count(config, "num_key_value_heads", where, default=heads)
    if heads % kv_heads:
        raise ModelError(
            f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    if config.get("head_dim") is None and hidden % heads:
        raise ModelError(
            f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}, "
            "and head_dim is not given"
        )
    head_dim = _count(config, "head_dim", where, default=hidden // heads)
    if head_dim % 2:
        raise ModelError(f"{where}: head_dim {head_dim} is odd; rotary embeddings turn pairs")
    layer = Layer(
        Attention(heads, kv_heads, head_dim), Mlp(_count(config, "intermediate_size", where))
    )
    rope_theta, rope_kind = _rope(config, where)
    return ModelSpec(
        name=name,
        architecture=kind,
        hidden=hidden,
        vocab=_count(config, "vocab_size", where),
        layers=(layer,) * _count(config, "num_hidden_layers", where, most=10_000),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype=_dtype(config, where),
        max_positions=_count(config, "max_position_embeddings", where, default=2048, most=10**9),
        norm_eps=_positive(config, "rms_norm_eps", where, default=1e-6),
        rope_theta=rope_theta,
        rope_kind=rope_kind,
        stop_tokens=_stop_tokens(config, where),
    )


def _count(
    config: Mapping[str, Any],
    field: str,
    where: str,
    *,
    default: int | None = None,
    most: int = LARGEST,
) -> int:
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ModelError(f"{where}: {field} is {value!r}, expected a whole number from 1 to {most}")
    return value


def _positive(config: Mapping[str, Any], field: str, where: str, *, default: float) -> float:
    value = config.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise ModelError(f"{where}: {field} is {value!r}, expected a positive number")
    return float(value)


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, str]:
    """Base and kind of the rotary embedding: in `rope_parameters` since transformers 5, before in
    `rope_theta` and `rope_scaling`.
    """
    fields: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        rope: Any = config.get(name) or {}
        if not isinstance(rope, dict):
            raise ModelError(f"{where}: {name} is {rope!r}, expected an object")
        fields |= cast(dict[str, Any], rope)
    kind = fields.get("rope_type", fields.get("type", "default"))
    if not isinstance(kind, str):
        raise ModelError(f"{where}: rope_type is {kind!r}, expected a name such as 'llama3'")
    holder = fields if "rope_theta" in fields else config
    return _positive(holder, "rope_theta", where, default=10_000.0), kind


def _dtype(config: Mapping[str, Any], where: str) -> str:
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if not isinstance(name, str) or name not in DTYPES:
        raise ModelError(f"{where}: dtype is {name!r}, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _stop_tokens(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    value: Any = config.get("eos_token_id")
    tokens = cast(list[Any], value) if isinstance(value, list) else [value]
    tokens = [] if value is None else tokens
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise ModelError(f"{where}: eos_token_id is {value!r}, expected token ids")
    return tuple(tokens)
