"""A weight as codes with scales and zero points, in the bytes that a checkpoint has them in.

    coded = Coded(codes_OI, scales_RG, None, group_I, bits=8)
    coded.weight(torch.bfloat16)            # (out, in)

Shapes: O outputs, I inputs, G groups of inputs, R rows of scales: one for each output, or for a
block of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight: (codes[o, i] - base - zeros[r, g]) * scales[r, g] with g = group[i], r = row[o].
    Codes are unsigned, signed or fp8, one to a byte; `zeros` None is 0, `row` None the output's
    own. Groups and rows are int32.
    """

    codes_OI: torch.Tensor
    scales_RG: torch.Tensor
    zeros_RG: torch.Tensor | None
    group_I: torch.Tensor
    bits: int
    base: int = 0
    row_O: torch.Tensor | None = None

    @property
    def scales_OG(self) -> torch.Tensor:
        """Each output's scales, in fp32."""
        return self._by_output(self.scales_RG.float())

    @property
    def zeros_OG(self) -> torch.Tensor | None:
        """What is taken off each output's codes, in fp32; None: nothing."""
        if self.zeros_RG is None:
            return torch.full_like(self.scales_OG, self.base) if self.base else None
        return self._by_output(self.zeros_RG.float() + self.base)

    def to(self, device: torch.device) -> "Coded":
        """The same on a device."""
        return replace(
            self,
            codes_OI=self.codes_OI.to(device),
            scales_RG=self.scales_RG.to(device),
            zeros_RG=None if self.zeros_RG is None else self.zeros_RG.to(device),
            group_I=self.group_I.to(device),
            row_O=None if self.row_O is None else self.row_O.to(device),
        )

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, computed in fp32."""
        weight_OI, zeros_OG = self.codes_OI.float(), self.zeros_OG
        if zeros_OG is not None:
            weight_OI -= zeros_OG.index_select(1, self.group_I)
        return weight_OI.mul_(self.scales_OG.index_select(1, self.group_I)).to(dtype)

    def _by_output(self, x_RG: torch.Tensor) -> torch.Tensor:
        return x_RG if self.row_O is None else x_RG.index_select(0, self.row_O)


def stacked(parts: Sequence[Coded]) -> Coded | None:
    """Weights above each other as one; None where there are none, or they are coded differently."""
    if not parts:
        return None
    first = parts[0]
    if any(
        _kind(one) != _kind(first) or not torch.equal(one.group_I, first.group_I) for one in parts
    ):
        return None
    zeros = [one.zeros_RG for one in parts if one.zeros_RG is not None]
    return replace(
        first,
        codes_OI=_above(*(one.codes_OI for one in parts)),
        scales_RG=_above(*(one.scales_RG for one in parts)),
        zeros_RG=torch.cat(zeros) if zeros else None,
        row_O=None if all(one.row_O is None for one in parts) else _rows(parts),
    )


def _kind(one: Coded) -> tuple[object, ...]:
    """What is alike in weights that can stand above each other."""
    return one.bits, one.base, one.zeros_RG is None, one.codes_OI.dtype, one.scales_RG.dtype


def _above(*parts: torch.Tensor) -> torch.Tensor:
    """Side by side in memory, whatever their dtype: torch copies those of 8 bits as bytes only."""
    dtype = parts[0].dtype
    if dtype.itemsize > 1:
        return torch.cat(parts)
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts]).view(dtype)


def _rows(parts: Sequence[Coded]) -> torch.Tensor:
    """The row of scales of each output, counted through all parts."""
    rows: list[torch.Tensor] = []
    first = 0
    for one in parts:
        own_O = torch.arange(len(one.codes_OI), dtype=torch.int32, device=one.codes_OI.device)
        rows.append((own_O if one.row_O is None else one.row_O) + first)
        first += len(one.scales_RG)
    return torch.cat(rows)


class Bytes:
    """Bytes in rows, held two to a byte where at most 16 of the 256 occur.

    kept = Bytes(codes_OI)          # any dtype of 8 bits
    kept[8:16]                      # rows 8 to 15, as they were
    """

    def __init__(self, x: torch.Tensor, *, slab_elements: int) -> None:
        """Works on `slab_elements` at a time: of what they become, never all is there at once."""
        self._dtype, (rows, self._width) = x.dtype, x.shape
        self._bytes, self._pairs = x.contiguous().view(torch.uint8), None
        slabs = self._bytes.split(max(1, slab_elements // self._width))
        used = sum(torch.bincount(slab.flatten(), minlength=256) for slab in slabs)
        values = used.nonzero().flatten().to(torch.uint8)
        if len(values) > 16:
            return
        here = {"dtype": torch.uint8, "device": x.device}
        place = torch.zeros(256, **here)
        place[values.int()] = torch.arange(len(values), **here)
        packed = torch.empty(rows, -(-self._width // 2), **here)
        for slab, to in zip(slabs, packed.split(len(slabs[0])), strict=True):
            places = _looked_up(place, slab)
            if self._width % 2:
                places = torch.nn.functional.pad(places, (0, 1))
            torch.bitwise_or(places[:, 0::2], places[:, 1::2] << 4, out=to)
        values = torch.nn.functional.pad(values, (0, 16 - len(values)))
        both = torch.cartesian_prod(values, values).flip(1)  # of each byte, the low bits' first
        self._bytes, self._pairs = packed, both.contiguous().view(torch.int16).flatten()

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes + (0 if self._pairs is None else self._pairs.nbytes)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        found = self._bytes[rows]
        if self._pairs is not None:
            found = _looked_up(self._pairs, found).view(torch.uint8)[:, : self._width]
        return found.contiguous().view(self._dtype)


def _looked_up(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What `table` has at these places, by index_select: indexing would make them int64."""
    return table.index_select(0, places.flatten().int()).view(places.shape)
