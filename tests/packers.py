"""Quantised checkpoints, packed value by value from the formats' public descriptions, and the same
model with its weights as those values say, for transformers.

    quantised, plain = write_quantised(tmp_path, AWQ, source=folder)

Knows nothing of how wirecut reads them.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Stored = dict[str, torch.Tensor]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of an int32 is output AWQ_ORDER[i]


@dataclass(frozen=True)
class Scheme:
    """A name, what `config.json` says, and how a weight is packed: into the tensors of its module
    and the weight that those make. `packs`: the tensors whose names end so, and what stands before
    the names of the parts.
    """

    name: str
    config: dict[str, object]
    pack: Callable[[torch.Tensor], tuple[Stored, torch.Tensor]]
    packs: tuple[tuple[str, str], ...] = (("_proj.weight", "_proj."),)


def write_quantised(to: Path, scheme: Scheme, *, source: Path) -> tuple[Path, Path]:
    """The model in `source` quantised, and as plain fp32. Linears of layers are quantised, where
    the scheme is of experts those alone.
    """
    weights = load_file(source / "model.safetensors")
    packed: Stored = {}
    plain: Stored = {}
    for name, weight in weights.items():
        ends = [(end, before) for end, before in scheme.packs if name.endswith(end)]
        for end, before in ends:
            parts, made = scheme.pack(weight.float())
            module = name.removesuffix(end) + before
            packed |= {module + part: tensor for part, tensor in parts.items()}
            plain[name] = made
        if not ends:
            packed[name] = plain[name] = weight
    config = json.loads((source / "config.json").read_text())
    folders = to / scheme.name, to / f"{scheme.name}-plain"
    for folder, tensors in zip(folders, (packed, plain), strict=True):
        folder.mkdir()
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
        own = {"quantization_config": scheme.config} if folder == folders[0] else {}
        (folder / "config.json").write_text(json.dumps({**config, **own}))
        if (source / "tokenizer.json").exists():
            shutil.copy(source / "tokenizer.json", folder)
    return folders


def words(values: list[list[int]], bits: int) -> torch.Tensor:
    """Rows of unsigned values as rows of int32, the first value in the lowest bits."""
    per = 32 // bits
    rows: list[list[int]] = []
    for row in values:
        row = row + [0] * (-len(row) % per)
        made = [
            sum(value << (bits * i) for i, value in enumerate(row[at : at + per]))
            for at in range(0, len(row), per)
        ]
        rows.append([word - (1 << 32) if word >= 1 << 31 else word for word in made])
    return torch.tensor(rows, dtype=torch.int32)


def _coded(
    weight: torch.Tensor, groups: torch.Tensor, bits: int, *, symmetric: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (out, in), fp16 scales and zero points (out, groups), and the weight that they make;
    `groups` is the group of each input.
    """
    most, number = (1 << bits) - 1, int(groups.max()) + 1
    scales = torch.empty(weight.shape[0], number)
    zeros = torch.empty(weight.shape[0], number)
    for group in range(number):
        part = weight[:, groups == group]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            scales[:, group] = 2 * torch.maximum(-low, high) / most
            zeros[:, group] = (most + 1) // 2
        else:
            scales[:, group] = (high - low) / most
            zeros[:, group] = (-low / scales[:, group]).round().clamp(1, most)
    scales = scales.half().float()
    codes = (weight / scales[:, groups] + zeros[:, groups]).round().clamp(0, most)
    made = (codes - zeros[:, groups]) * scales[:, groups]
    return codes.int(), scales, zeros.int(), made


def _in_rows(inputs: int, size: int) -> torch.Tensor:
    return torch.arange(inputs) // size


def awq(size: int) -> Scheme:
    def interleaved(rows: torch.Tensor) -> torch.Tensor:
        order = [at + place for at in range(0, rows.shape[1], 8) for place in AWQ_ORDER]
        return words(rows[:, order].tolist(), 4)

    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        codes, scales, zeros, made = _coded(weight, _in_rows(weight.shape[1], size), 4)
        parts = {
            "qweight": interleaved(codes.t()),
            "qzeros": interleaved(zeros.t()),
            "scales": scales.t().half(),
        }
        return parts, made

    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
    return Scheme("awq", config, pack)


def gptq(bits: int, size: int, *, by_activation: bool = False, behind: int = 1) -> Scheme:
    """`by_activation`: inputs are dealt to groups in an order of their own."""

    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        groups = _in_rows(weight.shape[1], size)
        if by_activation:
            draw = torch.Generator().manual_seed(weight.shape[1])
            groups = groups[torch.randperm(len(groups), generator=draw)]
        codes, scales, zeros, made = _coded(weight, groups, bits)
        parts = {
            "qweight": words(codes.tolist(), bits).t(),
            "qzeros": words((zeros.t() - behind).tolist(), bits),
            "scales": scales.t().half(),
            "g_idx": groups.int(),
        }
        return parts, made

    config: dict[str, object] = {"quant_method": "gptq", "bits": bits, "group_size": size}
    config |= {"desc_act": by_activation, "checkpoint_format": "gptq" if behind else "gptq_v2"}
    return Scheme(f"gptq{bits}{'-act' * by_activation}{'-v2' * (not behind)}", config, pack)


def _compressed(weights: dict[str, object], format: str) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def compressed_int4(size: int, *, symmetric: bool) -> Scheme:
    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        groups = _in_rows(weight.shape[1], size)
        codes, scales, zeros, made = _coded(weight, groups, 4, symmetric=symmetric)
        parts = {
            "weight_packed": words(codes.tolist(), 4),
            "weight_scale": scales.half(),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            parts["weight_zero_point"] = words(zeros.t().tolist(), 4).t()
        return parts, made

    weights: dict[str, object] = {"num_bits": 4, "type": "int", "strategy": "group"}
    weights |= {"group_size": size, "symmetric": symmetric}
    config = _compressed(weights, "pack-quantized")
    return Scheme(f"compressed4{'' if symmetric else '-zeros'}", config, pack)


def _rows_of_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = (weight.abs().amax(1, keepdim=True) / 127).half().float()
    return (weight / scales).round().clamp(-127, 127).to(torch.int8), scales


def compressed_int8() -> Scheme:
    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        codes, scales = _rows_of_int8(weight)
        parts = {"weight": codes, "weight_scale": scales.half()}
        return parts, codes.float() * scales

    weights: dict[str, object] = {"num_bits": 8, "type": "int", "strategy": "channel"}
    return Scheme("compressed8", _compressed(weights, "int-quantized"), pack)


def bitsandbytes_int8() -> Scheme:
    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        codes, scales = _rows_of_int8(weight)
        parts = {"weight": codes, "SCB": scales[:, 0] * 127}
        return parts, codes.float() * (scales * 127 / 127)

    config: dict[str, object] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return Scheme("bitsandbytes8", config, pack)


def fp8(scale: str) -> Scheme:
    """`scale`: of each "tensor", "row", or "block" of 32 x 32."""

    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        outs, ins = weight.shape
        if scale == "block":
            blocks = torch.empty(-(-outs // 32), -(-ins // 32))
            for i in range(blocks.shape[0]):
                for j in range(blocks.shape[1]):
                    part = weight[32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
                    blocks[i, j] = part.abs().max() / 448
            spread = blocks.repeat_interleave(32, 0)[:outs].repeat_interleave(32, 1)[:, :ins]
            stored = {"weight_scale_inv": blocks}
        else:
            blocks = weight.abs().amax(1, keepdim=True) / 448
            blocks = blocks.max() if scale == "tensor" else blocks
            spread, stored = blocks, {"weight_scale": blocks}
        codes = (weight / spread).to(torch.float8_e4m3fn)
        return {"weight": codes, **stored}, codes.float() * spread

    if scale == "block":
        config: dict[str, object] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    else:
        strategy = {"tensor": "tensor", "row": "channel"}[scale]
        weights: dict[str, object] = {"num_bits": 8, "type": "float", "strategy": strategy}
        config = _compressed(weights, "float-quantized")
    return Scheme(f"fp8-{scale}", config, pack)


def mxfp4() -> Scheme:
    """gpt-oss's experts: stacks of (experts, in, out) as blocks of 32 inputs behind outputs, two
    values in a byte, and a power of two for each block.
    """
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    signed = torch.cat([values, -values])

    def pack(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
        blocks = weight.transpose(1, 2).unflatten(2, (-1, 32))
        exponents = (blocks.abs().amax(-1, keepdim=True) / 6).log2().ceil()
        scales = torch.ldexp(torch.ones(1), exponents)
        distances = (blocks / scales)[..., None] - signed
        codes = distances.abs().argmin(-1).to(torch.uint8)
        made = (signed[codes.int()] * scales).flatten(2).transpose(1, 2)
        parts = {
            "blocks": codes[..., ::2] | codes[..., 1::2] << 4,
            "scales": (exponents[..., 0] + 127).to(torch.uint8),
        }
        return parts, made

    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"]
    config: dict[str, object] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [*kept, "lm_head"],
    }
    ends = ("experts.gate_up_proj", "experts.down_proj")
    return Scheme("mxfp4", config, pack, tuple((end, f"{end}_") for end in ends))


SCHEMES = (
    awq(32),
    gptq(4, 32),
    gptq(4, 32, by_activation=True),
    gptq(4, 32, behind=0),
    gptq(8, 32),
    compressed_int4(32, symmetric=True),
    compressed_int4(32, symmetric=False),
    compressed_int8(),
    bitsandbytes_int8(),
    fp8("tensor"),
    fp8("row"),
    fp8("block"),
)
