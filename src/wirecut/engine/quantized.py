"""Quantised linears of a checkpoint: this rank's entries of each stored part, as codes and scales.

    coded = read_coded(packed, read, outputs=(0, 64), inputs=(128, 256))
    weight_OI = coded.weight(dtype)

`read(name, region)` gives entries of a stored tensor. Only those that tell of the slice are read,
along whatever dimension is packed; what an int32 holds beyond the slice is dropped here.
"""

from collections.abc import Callable

import torch

from wirecut.machine.coded import Coded
from wirecut.spec.stored import Packed

# The place within an int32 of each of eight outputs, as AutoAWQ's GEMM packing deals them.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
# What the 16 codes of E2M1 say (OCP Microscaling Formats 1.0, table 5); E4M3 has all of them.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)

Read = Callable[[str, tuple[int | slice, ...]], torch.Tensor]
Span = tuple[int, int]  # first and one past the last


def read_coded(packed: Packed, read: Read, outputs: Span, inputs: Span) -> Coded:
    """The codes of these outputs and inputs of a linear."""
    at = _Slice(packed, read, outputs, inputs)
    match packed.packing.layout:
        case "awq":
            return at.awq()
        case "gptq" | "gptq_v2":
            return at.gptq(behind=1 if packed.packing.layout == "gptq" else 0)
        case "packed":
            return at.packed()
        case "plain":
            return at.plain()
        case "mxfp4":
            return at.mxfp4()


class _Slice:
    """One linear's slice while it is read; its outputs are those of the stored tensors."""

    def __init__(self, packed: Packed, read: Read, outputs: Span, inputs: Span) -> None:
        self._packed, self._packing, self._read_stored = packed, packed.packing, read
        self._outputs, self._inputs = packed.first.rows(*outputs), inputs

    def awq(self) -> Coded:
        codes_OI = self._unpack(self._read("qweight"), 1, self._outputs, AWQ_PLACES).t()
        zeros_OG = self._unpack(self._read("qzeros"), 1, self._outputs, AWQ_PLACES).t()
        scales_OG = self._read("scales").t()
        return Coded(codes_OI, scales_OG, zeros_OG, self._groups(self._inputs), 4)

    def gptq(self, *, behind: int) -> Coded:
        """`behind`: zero points are stored so much too small."""
        spans, group_I = self._groups_by_index("g_idx")
        codes_OI = self._unpack(self._read("qweight"), 0, self._inputs).t()
        zeros_OG = self._unpack(self._read("qzeros", inputs=spans), 1, self._outputs).t()
        scales_OG = self._read("scales", inputs=spans).t()
        return Coded(codes_OI, scales_OG, zeros_OG, group_I, self._packing.bits, base=behind)

    def packed(self) -> Coded:
        spans, group_I = self._groups_by_index("weight_g_idx")
        codes_OI = self._unpack(self._read("weight_packed"), 1, self._inputs)
        scales_OG, bits = self._read("weight_scale", inputs=spans), self._packing.bits
        stored = self._optional("weight_zero_point", inputs=spans)
        if stored is None:
            return Coded(codes_OI, scales_OG, None, group_I, bits, base=1 << (bits - 1))
        return Coded(codes_OI, scales_OG, self._unpack(stored, 0, self._outputs), group_I, bits)

    def plain(self) -> Coded:
        scale = self._packing.parts[1]
        codes_OI, scales = self._read("weight"), self._read(scale.name)
        if scale.name == "SCB":  # bitsandbytes keeps the largest value of a row, not its 127th
            scales = scales[:, None].float() / 127.0
        outs, ins = codes_OI.shape
        if scales.numel() == 1:
            row_O, group_I = (torch.zeros(count, dtype=torch.int32) for count in (outs, ins))
            return Coded(codes_OI, scales.view(1, 1), None, group_I, 8, row_O=row_O)
        per = dict(scale.spans)
        row_O = None if per["out"] == 1 else _entries(self._outputs, per["out"])
        group_I = _entries(self._inputs, per.get("in", 1 << 40))
        return Coded(codes_OI, scales.view(len(scales), -1), None, group_I, 8, row_O=row_O)

    def mxfp4(self) -> Coded:
        values = torch.tensor(E2M1).to(torch.float8_e4m3fn).view(torch.uint8)
        both = torch.cartesian_prod(values, values).flip(1)  # of each byte, the low bits' first
        words = both.contiguous().view(torch.int16).flatten()
        codes_OI = words[self._read("blocks").flatten(1).int()].view(torch.uint8)
        first, last = self._inputs
        codes_OI = codes_OI.narrow(1, first % self._packing.group, last - first).contiguous()
        codes_OI = codes_OI.view(torch.float8_e4m3fn)
        scales_OG = self._read("scales").view(torch.float8_e8m0fnu)
        return Coded(codes_OI, scales_OG, None, self._groups(self._inputs), 8)

    def _read(self, name: str, *, inputs: Span | None = None) -> torch.Tensor:
        found = self._optional(name, inputs=inputs)
        assert found is not None, name  # the checkpoint was checked
        return found

    def _optional(self, name: str, *, inputs: Span | None = None) -> torch.Tensor | None:
        place = self._packed.places.get(name)
        if place is None:
            return None
        part = next(part for part in self._packing.parts if part.name == name)
        region = self._packed.region(part, self._outputs, inputs or self._inputs)
        return self._read_stored(place.name, region)

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
        return (first * size, last * size), stored.int() - first

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
    return (torch.arange(*span) // per - span[0] // per).int()
