"""Measured operators as cases: what was run, on which system, in how many seconds.

    cases = load(Path("systems/data"), "gemm")          # systems/data of aiconfigurator-core
    cases[0].price(gpus["h100_sxm"])

Frameworks that measured one shape count once, each by its newest version, by their
lower median: of two, the faster, since a slow one is a kernel without tuning. Rows that a
cache served are left out: in a model, weights and KV come from memory.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, cast

import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs, reportMissingImports]

from wirecut.cost.kernels import FORMATS, Gpu, elementwise_s, gpu_of, matmul_s
from wirecut.cost.kernels_attention import (
    KV_BYTES,
    decode_attention_s,
    latent_decode_s,
    latent_prefill_s,
    prefill_attention_s,
)
from wirecut.cost.kernels_experts import Routed, grouped_s, routed
from wirecut.cost.kernels_linear import convolution_s, recurrence_s
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Device

# Name in the catalogue, and bytes of the second-level cache (datasheets).
SYSTEMS = {
    "a100_sxm": ("A100-SXM-80GB", 40e6),
    "h100_sxm": ("H100-SXM", 50e6),
    "h200_sxm": ("H200-SXM", 50e6),
    "b200_sxm": ("B200-SXM", 126e6),
    "b300_sxm": ("B300-SXM", 126e6),
    "gb200": ("GB200", 126e6),
    "gb300": ("GB300", 126e6),
    "l40s": ("L40S", 96e6),
    "rtx_pro_6000_server": ("RTX-PRO-6000-Server", 128e6),
    "b60": ("Arc-Pro-B60", 18e6),
}
DTYPES = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int8_wo": "int8_wo",
    "int4_wo": "int4",
    "sq": "int8",
    "w4a16_mxfp4": "mxfp4_wo",
    "w4a8_mxfp4_mxfp8": "mxfp4",
}
TABLES = {
    "gemm": "gemm/*/*/gemm",
    "decode": "attention/*/*/generation_attention",
    "prefill": "attention/*/*/context_attention",
    "experts": "moe/*/*/moe",
    "latent decode": "mla/*/*/generation_mla",
    "latent prefill": "mla/*/*/context_mla",
    "recurrence": "linear_attention/*/*/gdn",
    "convolution": "linear_attention/*/*/gdn",
    "elementwise": "quantize/*/*/scale_matrix",
}
# Three times slower than what the same framework's next version measured on the same systems.
ODD = {("experts", "vllm", "0.19.0")}
Row = Mapping[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One measured operator. `size` is its class in reports."""

    operator: str
    system: str
    format: str
    key: Key
    size: str
    seconds: float
    frameworks: tuple[tuple[str, float], ...]

    def price(self, gpu: Gpu) -> float:
        """Seconds that the formulas give."""
        return OPERATORS[self.operator].price(gpu, self.key)


@dataclass(frozen=True, slots=True)
class Operator:
    """How a table's rows become keys (format first), what a key reads, how it is priced."""

    key: Callable[[Row], Key | None]
    moved: Callable[[Key], float]
    size: Callable[[Key], str]
    price: Callable[[Gpu, Key], float]
    copies: int = 1  # sets of operands that the measurement passes through in turn


def gpus() -> dict[str, Gpu]:
    """The GPU behind each system."""
    found: dict[str, Gpu] = {}
    for system, (name, _) in SYSTEMS.items():
        spec = find_device(name)
        device = Device(
            id=0,
            host="host",
            kind="gpu",
            name=name,
            memory_bytes=spec.memory_bytes,
            bytes_per_s=spec.bytes_per_s,
            flops_per_s=spec.flops_per_s,
            launch_s=3e-6,
            source="datasheet",
        )
        found[system] = gpu_of(device)
    return found


def load(data: Path, operator: str, per_group: int) -> list[Case]:
    """About `per_group` cases of every system and format, the same ones every time."""
    kind, cases = OPERATORS[operator], list[Case]()
    for system, (name, cache) in SYSTEMS.items():
        peak = find_device(name).bytes_per_s
        seen: dict[Key, dict[str, float]] = {}
        for framework, version, row in _rows(data, system, TABLES[operator]):
            key = kind.key(row)
            if key is None or (operator, framework, version) in ODD:
                continue
            if operator == "prefill" and framework == "trtllm" and key[0].startswith("bf16"):
                continue  # has rotary embedding and the cache's writing in it
            seconds = row["latency"] * 1e-3
            if seconds <= 0 or kind.moved(key) / seconds > peak:
                continue
            if 0.02 * cache < kind.moved(key) < 1.2 * cache / kind.copies:
                continue
            seen.setdefault(key, {}).setdefault(framework, seconds)
        cases += _sampled(operator, system, seen, per_group)
    return cases


def _rows(data: Path, system: str, table: str) -> Iterator[tuple[str, str, Row]]:
    """Rows with their framework and its version, newest first."""
    for path in sorted((data / system).glob(f"{table}_perf.parquet"), key=_version, reverse=True):
        read = cast(Any, parquet).read_table(path)
        columns = {name: read.column(name).to_pylist() for name in read.column_names}
        names = list(columns)
        for values in zip(*columns.values(), strict=True):
            yield path.parts[-3], path.parts[-2], dict(zip(names, values, strict=True))


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.parts[-2]))


def _sampled(
    operator: str, system: str, seen: Mapping[Key, Mapping[str, float]], most: int
) -> Iterator[Case]:
    by_format: dict[str, list[tuple[int, Key]]] = {}
    for key in seen:
        by_format.setdefault(key[0], []).append((zlib.crc32(repr(key).encode()), key))
    for format, hashed in by_format.items():
        for _, key in sorted(hashed)[:most]:
            yield Case(
                operator=operator,
                system=system,
                format=format,
                key=key,
                size=OPERATORS[operator].size(key),
                seconds=median_low(seen[key].values()),
                frameworks=tuple(seen[key].items()),
            )


def _gemm_key(row: Row) -> Key | None:
    m, n, k = row["m"], row["n"], row["k"]
    if row["gemm_dtype"] not in DTYPES or m > 8192 or n < 512 or k < 512:
        return None
    return DTYPES[row["gemm_dtype"]], m, n, k


def _class(what: str, value: float, tops: Sequence[float]) -> str:
    return next((f"{what} <= {top:,}" for top in tops if value <= top), f"{what} > {tops[-1]:,}")


def _decode_key(row: Row) -> Key | None:
    kv, heads, kv_heads = row["kv_cache_dtype"], row["num_heads"], row["num_key_value_heads"]
    if kv not in ("bfloat16", "fp8") or row["head_dim"] not in (64, 128, 256):
        return None
    context = row["isl"] + row["step"]
    if context < 64 or heads > 24 * kv_heads:
        return None
    window = row.get("window_size") or 0
    return (DTYPES[kv], row["batch_size"], context, heads, kv_heads, row["head_dim"], window)


def _decode_bytes(key: Key) -> float:
    kv, sequences, context, _, kv_heads, head_dim, window = key
    keys = min(context, window) if window else context
    return 2 * sequences * keys * kv_heads * head_dim * KV_BYTES[kv]


def _prefill_key(row: Row) -> Key | None:
    """What chunked prefill makes of models that there are: up to 32k tokens, windows with GQA."""
    dtype, queries, window = row["attn_dtype"], row["isl"], row.get("window_size") or 0
    heads, kv_heads = row["num_heads"], row["num_key_value_heads"]
    dims = (64, 128, 256) if dtype == "bfloat16" else (128,)
    if row["head_dim"] not in dims or queries < 64 or queries * row["batch_size"] > 32768:
        return None
    if heads > 16 * kv_heads or (window and heads < 2 * kv_heads):
        return None
    shape = (queries, row["batch_size"], heads, kv_heads, row["head_dim"])
    usual = row["head_dim"] == 128 and not window
    return (DTYPES[dtype] + ("" if usual else " others"), *shape, window)


def _expert_key(row: Row) -> Key | None:
    """On one rank without expert parallelism: with it, tables differ in what a rank gets."""
    if row["moe_dtype"] not in DTYPES or row["moe_ep_size"] > 1 or row["num_tokens"] > 8192:
        return None
    if row["inter_size"] < 128 * row["moe_tp_size"]:  # finer than anyone cuts an expert
        return None
    gated = "nongated" not in row["kernel_source"]
    shape = (row["num_experts"], row["topk"], row["hidden_size"])
    inner = row["inter_size"] // row["moe_tp_size"]
    even = row["distribution"] == "balanced"
    return (DTYPES[row["moe_dtype"]], row["num_tokens"], *shape, inner, gated, even)


def _routed(key: Key) -> Routed:
    """The collectors' routing: dealt evenly, or popularity log-uniform from 1 to 0.8 x tokens."""
    _, tokens, experts, top_k, _, _, _, even = key
    if even:
        touched = min(experts, tokens * top_k)
        return Routed(((touched, tokens * top_k / touched),), tokens * top_k)
    return routed(tokens, experts, experts, top_k, skew=max(1.0, 0.8 * tokens))


def _expert_bytes(key: Key) -> float:
    format, _, _, _, hidden, inner, gated, _ = key
    matrices = 3 if gated else 2
    return _routed(key).touched * hidden * inner * matrices * FORMATS[format].weight_bytes


def _expert_price(gpu: Gpu, key: Key) -> float:
    format, _, _, _, hidden, inner, gated, _ = key
    return grouped_s(gpu, _routed(key), hidden, inner, format, gated=gated)


def _latent_decode_key(row: Row) -> Key | None:
    kv = DTYPES[row["kv_cache_dtype"]]
    return (kv, row["batch_size"], row["isl"] + row["step"], row["num_heads"])


def _latent_prefill_key(row: Row) -> Key | None:
    if row["isl"] < 16:
        return None
    return ("bf16", row["isl"], row["step"], row["batch_size"], row["num_heads"])


def _recurrence_key(row: Row) -> Key | None:
    if "gated_delta" not in row["kernel_source"] or row["num_tokens"] > 32768:
        return None
    heads = (row["num_k_heads"], row["num_v_heads"], row["head_k_dim"], row["head_v_dim"])
    what = "decode" if row["num_tokens"] <= row["batch_size"] else "prefill"
    return (what, row["num_tokens"], row["batch_size"], heads)


def _convolution_key(row: Row) -> Key | None:
    if "conv1d" not in row["kernel_source"] or row["num_tokens"] > 32768:
        return None
    keys, values = row["num_k_heads"] * row["head_k_dim"], row["num_v_heads"] * row["head_v_dim"]
    return ("bf16", row["num_tokens"], 2 * keys + values)


def _elementwise_key(row: Row) -> Key | None:
    """Quantising to fp8: 2 bytes read, 1 written."""
    return ("bf16", row["m"], row["k"]) if row["m"] <= 8192 else None


OPERATORS: dict[str, Operator] = {
    "gemm": Operator(
        key=_gemm_key,
        moved=lambda key: FORMATS[key[0]].weight_bytes * key[2] * key[3],
        size=lambda key: _class("rows", key[1], (16, 128, 1024)),
        price=lambda gpu, key: matmul_s(gpu, key[1], key[2], key[3], key[0]),
        copies=4,
    ),
    "decode": Operator(
        key=_decode_key,
        moved=_decode_bytes,
        size=lambda key: _class("KV MB", _decode_bytes(key) / 1e6, (1, 100, 1000)),
        price=lambda gpu, key: decode_attention_s(gpu, *key[1:6], key[0], key[6] or None),
    ),
    "prefill": Operator(
        key=_prefill_key,
        moved=lambda key: 0.0,
        size=lambda key: _class("queries", key[1], (128, 1024, 4096)),
        price=lambda gpu, key: prefill_attention_s(
            gpu,
            key[1],
            0,
            *key[3:6],
            sequences=key[2],
            dtype=key[0].split()[0],
            window=key[6] or None,
        ),
    ),
    "experts": Operator(
        key=_expert_key,
        moved=_expert_bytes,
        size=lambda key: _class("tokens", key[1], (8, 64, 512)),
        price=_expert_price,
    ),
    "latent decode": Operator(
        key=_latent_decode_key,
        moved=lambda key: key[1] * key[2] * 576 * KV_BYTES[key[0]],
        size=lambda key: _class("sequences", key[1], (1, 16, 64)),
        price=lambda gpu, key: latent_decode_s(
            gpu, key[1], key[2], key[3], key[0], kv_rank=512, rope_dim=64
        ),
    ),
    "latent prefill": Operator(
        key=_latent_prefill_key,
        moved=lambda key: 0.0,
        size=lambda key: _class("queries", key[1], (128, 1024, 4096)),
        price=lambda gpu, key: latent_prefill_s(
            gpu, key[1], key[2], key[4], key_dim=192, value_dim=128, sequences=key[3], dtype=key[0]
        ),
    ),
    "recurrence": Operator(
        key=_recurrence_key,
        moved=lambda key: 4.0 * key[2] * key[3][1] * key[3][2] * key[3][3],
        size=lambda key: _class("tokens", key[1], (8, 64, 512)),
        price=lambda gpu, key: recurrence_s(gpu, *key[1:]),
    ),
    "convolution": Operator(
        key=_convolution_key,
        moved=lambda key: 4.0 * key[1] * key[2],
        size=lambda key: _class("rows", key[1], (16, 128, 1024)),
        price=lambda gpu, key: convolution_s(gpu, *key[1:]),
    ),
    "elementwise": Operator(
        key=_elementwise_key,
        moved=lambda key: 3.0 * key[1] * key[2],
        size=lambda key: _class("rows", key[1], (16, 128, 1024)),
        price=lambda gpu, key: elementwise_s(gpu, 3.0 * key[1] * key[2]),
    ),
}
