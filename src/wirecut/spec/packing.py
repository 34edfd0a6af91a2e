"""How quantised weights are packed: the stored tensors that together are one linear.

    packing = packings("awq", "int4-g128")[0]
    packing.parts[0].shape_of((4096, 4096))               # qweight: (4096, 512)
    packing.parts[0].region((0, 1024), (0, 4096))         # what a rank with 1024 outputs reads

`spec.stored` finds them in a checkpoint. Sources: AutoAWQ's GEMM packing and AutoGPTQ's QuantLinear
as published with those projects, compressed-tensors' pack-quantized format, DeepSeek-V3's
config.json (blocks of 128 x 128), gpt-oss's checkpoints and OCP Microscaling Formats 1.0 (MXFP4).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from wirecut.spec.formats import GROUP_SIZE, group_size, kind_of

Axis = Literal["out", "in"]
ALL = 1 << 40  # outputs or inputs that one entry stands for: all there are
INT32, BYTES, FLOATS = ("I32",), ("U8",), ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor of a linear. `spans`: by dimension, whether it runs along outputs or
    inputs, and of how many of them one entry tells. An entry is one element, or `elements` along a
    last dimension. Parts that are `optional` may be missing.
    """

    name: str
    dtypes: tuple[str, ...]
    spans: tuple[tuple[Axis, int], ...]
    elements: int = 0
    optional: bool = False

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape where the weight has `shape`: (out, in), or (experts, out, in)."""
        *stack, outs, ins = shape
        entries = (-(-(ins if axis == "in" else outs) // per) for axis, per in self.spans)
        return (*stack, *entries, *([self.elements] if self.elements else []))

    def holds(self, stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether a stored tensor is this part of a weight of `shape`; a scale may be one for all
        of it.
        """
        return stored == self.shape_of(shape) or math.prod(stored) == 1

    def region(
        self, outputs: tuple[int, int], inputs: tuple[int, int], step: int = 1
    ) -> tuple[slice, ...]:
        """The entries that tell of these outputs and inputs, each from first to one past last; of
        the outputs every `step`-th, where an entry tells of one output.
        """
        along: list[slice] = []
        for axis, per in self.spans:
            first, last = inputs if axis == "in" else outputs
            along.append(slice(first // per, -(-last // per), 1 if axis == "in" else step))
        return tuple(along)


@dataclass(frozen=True, slots=True)
class Packing:
    """The parts of one linear, in `bits` each; `group` inputs share a scale (ALL: a row)."""

    layout: Literal["awq", "gptq", "gptq_v2", "packed", "plain", "mxfp4"]
    parts: tuple[Part, ...]
    bits: int
    group: int = ALL


def packings(method: str, format: str) -> list[Packing]:
    """How linears of this format may lie in a checkpoint of this method; none: it is not read."""
    kind, group = kind_of(format), group_size(format) or ALL
    if method == "awq" and kind == "int4":
        return [_awq(group)]
    if method in ("gptq", "gptq_v2") and kind in ("int4", "int8"):
        return [_gptq(method, 4 if kind == "int4" else 8, group)]
    if method == "compressed-tensors" and kind in ("int4", "int8"):
        bits = 4 if kind == "int4" else 8
        return [_packed(bits, group), *_plain(("I8",), "weight_scale", group)]
    if kind == "fp8":
        return _plain(("F8_E4M3",), "weight_scale", ALL, block=_block(format))
    if method == "mxfp4" and kind == "mxfp4":
        return [_mxfp4(GROUP_SIZE["mxfp4"])]
    if method == "bitsandbytes" and kind == "int8":
        weight = Part("weight", ("I8",), (("out", 1), ("in", 1)))
        return [Packing("plain", (weight, Part("SCB", ("F32",), (("out", 1),))), 8)]
    return []


def _block(format: str) -> int:
    found = re.search(r"-b([0-9]+)$", format)
    return int(found[1]) if found else ALL


def _awq(group: int) -> Packing:
    """Eight outputs in an int32, inputs before outputs."""
    return Packing(
        "awq",
        (
            Part("qweight", INT32, (("in", 1), ("out", 8))),
            Part("qzeros", INT32, (("in", group), ("out", 8))),
            Part("scales", FLOATS, (("in", group), ("out", 1))),
        ),
        bits=4,
        group=group,
    )


def _gptq(method: Literal["gptq", "gptq_v2"], bits: int, group: int) -> Packing:
    """As many inputs as fit into an int32, inputs before outputs; zero points pack outputs. Which
    group an input is in may be any: `g_idx`, so that scales of all groups are read.
    """
    per = 32 // bits
    return Packing(
        method,
        (
            Part("qweight", INT32, (("in", per), ("out", 1))),
            Part("qzeros", INT32, (("in", group), ("out", per))),
            Part("scales", FLOATS, (("in", group), ("out", 1))),
            Part("g_idx", INT32, (("in", 1),), optional=True),
        ),
        bits=bits,
        group=group,
    )


def _packed(bits: int, group: int) -> Packing:
    """compressed-tensors: as many inputs as fit into an int32, offset to be unsigned."""
    per = 32 // bits
    return Packing(
        "packed",
        (
            Part("weight_packed", INT32, (("out", 1), ("in", per))),
            Part("weight_scale", FLOATS, (("out", 1), ("in", group))),
            Part("weight_zero_point", INT32, (("out", per), ("in", group)), optional=True),
            Part("weight_g_idx", INT32, (("in", 1),), optional=True),
        ),
        bits=bits,
        group=group,
    )


def _plain(dtypes: tuple[str, ...], scale: str, group: int, block: int = ALL) -> list[Packing]:
    """An element each, with scales per block of both dimensions, group of a row, row or tensor."""
    weight = Part("weight", dtypes, (("out", 1), ("in", 1)))
    scales = [Part(scale, FLOATS, (("out", 1), ("in", group)))]
    if block != ALL:
        spans: tuple[tuple[Axis, int], ...] = (("out", block), ("in", block))
        scales = [Part(name, FLOATS, spans) for name in ("weight_scale_inv", scale)]
    return [Packing("plain", (weight, one), 8, group) for one in scales]


def _mxfp4(block: int) -> Packing:
    """Two inputs in a byte, the first in the low bits; the scale of a block is an exponent."""
    spans: tuple[tuple[Axis, int], ...] = (("out", 1), ("in", block))
    blocks = Part("blocks", BYTES, spans, elements=block // 2)
    return Packing("mxfp4", (blocks, Part("scales", BYTES, spans)), bits=4, group=block)
