"""Quantised linears of a checkpoint: this rank's entries of each stored part, as codes and scales.

    coded = read_coded(packing, module, read, outputs=(0, 64), inputs=(128, 256))
    product = coded_linear(coded, dtype)

`read(name, region)` gives entries of a stored tensor. Only those that tell of the slice are read,
along whatever dimension is packed; what an int32 holds beyond the slice is dropped here.
"""

from collections.abc import Callable

import torch

from wirecut.machine.quantized import Coded
from wirecut.spec.packing import Packing

# The place within an int32 of each of eight outputs, as AutoAWQ's GEMM packing deals them.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)

Read = Callable[[str, tuple[slice, ...]], torch.Tensor | None]
Span = tuple[int, int]  # first and one past the last


def read_coded(packing: Packing, module: str, read: Read, outputs: Span, inputs: Span) -> Coded:
    """The codes of these outputs and inputs of the linear `module`. `read` gives None for a part
    that the checkpoint does not have.
    """
    at = _Slice(packing, module, read, outputs, inputs)
    match packing.layout:
        case "awq":
            return at.awq()
        case "gptq" | "gptq_v2":
            return at.gptq(behind=1 if packing.layout == "gptq" else 0)
        case "packed":
            return at.packed()
        case "plain":
            return at.plain()


class _Slice:
    """One linear's slice while it is read."""

    def __init__(
        self, packing: Packing, module: str, read: Read, outputs: Span, inputs: Span
    ) -> None:
        self._packing, self._module, self._read_stored = packing, module, read
        self._outputs, self._inputs = outputs, inputs

    def awq(self) -> Coded:
        codes_OI = self._unpack(self._read("qweight"), 1, self._outputs, AWQ_PLACES).t()
        zeros_OG = self._unpack(self._read("qzeros"), 1, self._outputs, AWQ_PLACES).t()
        scales_OG = self._read("scales").t().float()
        return Coded(codes_OI, scales_OG, zeros_OG, self._groups(self._inputs), 4)

    def gptq(self, *, behind: int) -> Coded:
        """`behind`: zero points are stored so much too small."""
        spans, group_I = self._groups_by_index("g_idx")
        codes_OI = self._unpack(self._read("qweight"), 0, self._inputs).t()
        zeros_GO = self._unpack(self._read("qzeros", inputs=spans), 1, self._outputs)
        zeros_OG = zeros_GO.t().to(torch.int16) + behind
        scales_OG = self._read("scales", inputs=spans).t().float()
        return Coded(codes_OI, scales_OG, zeros_OG, group_I, self._packing.bits)

    def packed(self) -> Coded:
        spans, group_I = self._groups_by_index("weight_g_idx")
        codes_OI = self._unpack(self._read("weight_packed"), 1, self._inputs)
        scales_OG = self._read("weight_scale", inputs=spans).float()
        stored = self._optional("weight_zero_point", inputs=spans)
        if stored is None:
            middle = 1 << (self._packing.bits - 1)
            zeros_OG = torch.full_like(scales_OG, middle, dtype=torch.uint8)
        else:
            zeros_OG = self._unpack(stored, 0, self._outputs)
        return Coded(codes_OI, scales_OG, zeros_OG, group_I, self._packing.bits)

    def plain(self) -> Coded:
        scale = self._packing.parts[1]
        codes_OI, scales = self._read("weight"), self._read(scale.name).float()
        if scale.name == "SCB":  # bitsandbytes keeps the largest value of a row, not its 127th
            scales = scales[:, None] / 127.0
        if scales.numel() == 1:
            groups = torch.zeros(codes_OI.shape[1], dtype=torch.int64)
            return Coded(codes_OI, scales.expand(codes_OI.shape[0], 1), None, groups, 8)
        per = dict(scale.spans)
        rows = _entries(self._outputs, per["out"])
        group_I = _entries(self._inputs, per.get("in", 1 << 40))
        return Coded(codes_OI, scales.view(scales.shape[0], -1)[rows], None, group_I, 8)

    def _read(self, name: str, *, inputs: Span | None = None) -> torch.Tensor:
        found = self._optional(name, inputs=inputs)
        assert found is not None, name  # the checkpoint was checked
        return found

    def _optional(self, name: str, *, inputs: Span | None = None) -> torch.Tensor | None:
        part = next(part for part in self._packing.parts if part.name == name)
        region = part.region(self._outputs, inputs or self._inputs)
        return self._read_stored(f"{self._module}.{name}", region)

    def _groups(self, inputs: Span) -> torch.Tensor:
        return _entries(inputs, self._packing.group)

    def _groups_by_index(self, name: str) -> tuple[Span, torch.Tensor]:
        """The inputs whose groups have to be read, and the group of each of ours among them: by the
        stored index where there is one.
        """
        stored = self._optional(name)
        if stored is None:
            return self._inputs, self._groups(self._inputs)
        first, last = int(stored.min()), int(stored.max()) + 1
        size = self._packing.group
        return (first * size, last * size), stored.to(torch.int64) - first

    def _unpack(
        self, words: torch.Tensor, dim: int, span: Span, places: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """The values in int32 words along `dim`, those of `span` only; the first is in the lowest
        bits unless `places` says otherwise.
        """
        bits = self._packing.bits
        per = 32 // bits
        shifts = torch.tensor(places or range(per), dtype=torch.int32) * bits
        shape = (-1, 1) if dim == 0 else (-1,)
        values = (words.unsqueeze(dim + 1) >> shifts.view(shape)) & ((1 << bits) - 1)
        first = span[0] % per
        flat = values.to(torch.uint8).flatten(dim, dim + 1)
        return flat.narrow(dim, first, span[1] - span[0])


def _entries(span: Span, per: int) -> torch.Tensor:
    """For each of a span, which entry of its region tells of it, where one tells of `per`."""
    return torch.arange(*span) // per - span[0] // per
