"""How quantised weights lie in a checkpoint: the stored tensors that together are one linear.

    packing = packing_of(tensor, "awq", stored_names)
    packing.parts[0].shape_of((4096, 4096))               # qweight: (4096, 512)
    packing.parts[0].region((0, 1024), (0, 4096))         # what a rank with 1024 outputs reads

Sources: AutoAWQ's GEMM packing and AutoGPTQ's QuantLinear as published with those projects,
compressed-tensors' pack-quantized format, DeepSeek-V3's config.json (blocks of 128 x 128).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from wirecut.spec.formats import group_size, kind_of
from wirecut.spec.tensor import Tensor

Axis = Literal["out", "in"]
ALL = 1 << 40  # outputs or inputs that one entry stands for: all there are
INT32, FLOATS = ("I32",), ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor of a linear. `spans`: by dimension, whether it runs along outputs or
    inputs, and of how many of them one entry tells. Parts that are `optional` may be missing.
    """

    name: str
    dtypes: tuple[str, ...]
    spans: tuple[tuple[Axis, int], ...]
    optional: bool = False

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape where the weight has `shape` (out, in)."""
        return tuple(-(-shape[axis == "in"] // per) for axis, per in self.spans)

    def holds(self, stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether a stored tensor is this part of a weight of `shape`; a scale may be one for all
        of it.
        """
        return stored == self.shape_of(shape) or math.prod(stored) == 1

    def region(self, outputs: tuple[int, int], inputs: tuple[int, int]) -> tuple[slice, ...]:
        """The entries that tell of these outputs and inputs, each from first to one past last."""
        along: list[slice] = []
        for axis, per in self.spans:
            first, last = inputs if axis == "in" else outputs
            along.append(slice(first // per, -(-last // per)))
        return tuple(along)


@dataclass(frozen=True, slots=True)
class Packing:
    """The parts of one linear, in `bits` each; `group` inputs share a scale (ALL: a row)."""

    layout: Literal["awq", "gptq", "gptq_v2", "packed", "plain"]
    parts: tuple[Part, ...]
    bits: int
    group: int = ALL


class Stored(Protocol):
    """What is known of a stored tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def module_of(tensor: Tensor, expert: int | None = None) -> str:
    """The module that a linear is the weight of."""
    name = tensor.name if expert is None else tensor.name.format(expert=expert)
    return name.removesuffix(".weight")


def packing_of(tensor: Tensor, method: str, stored: Mapping[str, Stored]) -> Packing | None:
    """How a checkpoint packs a linear, of the packings whose parts it has the one whose shapes
    agree; None where it has the parts of none. `method` is what the configuration calls it.
    """
    module = module_of(tensor, 0 if tensor.experts else None)
    there = [
        one
        for one in packings(method, tensor.format)
        if all(part.optional or f"{module}.{part.name}" in stored for part in one.parts)
    ]
    for one in there:
        shapes = [(part, stored.get(f"{module}.{part.name}")) for part in one.parts]
        if all(found is None or part.holds(found.shape, tensor.shape) for part, found in shapes):
            return one
    return there[0] if there else None


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
