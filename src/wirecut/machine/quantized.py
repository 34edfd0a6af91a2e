"""Products with weights that are stored as codes with scales: kept as they are where torch has a
kernel that reads them, unpacked elsewhere.

    product = coded_linear(Coded(codes_OI, scales_OG, zeros_OG, group_I, bits=4), torch.bfloat16)
    y_TO = product(x_TI)

On a CPU in bf16 or fp16, codes of 4 bits, and of 8 with a scale per row, are kept: one row takes
0.4 and 0.8 of the time of bf16 weights, more than 5 and 3 rows take longer, 64 rows 2.5 and 4 times
as long (4096 x 4096, a core of a Zen 4 server). In fp32 those kernels take 5 to 20 times as long as
fp32 weights, and codes are unpacked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wirecut.machine.kernels import Linear, PackedLinear

KEPT = (torch.bfloat16, torch.float16)
GROUPS = (256, 128, 64, 32)  # inputs that share a scale in torch's kernel for 4 bits
OUTPUTS = 16  # whose multiples that kernel takes
INPUTS = 16  # whose multiples the one for 8 bits takes
SLAB_ELEMENTS = 1 << 24  # that are unpacked at a time where no kernel reads codes: 64 MB in fp32


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight (out, in): (codes[o, i] - zeros[o, g]) * scales[o, g] with g = group[i]. Codes are
    unsigned, signed or fp8; `zeros` None is 0. G groups.
    """

    codes_OI: torch.Tensor
    scales_OG: torch.Tensor
    zeros_OG: torch.Tensor | None
    group_I: torch.Tensor
    bits: int

    def to(self, device: torch.device) -> "Coded":
        """The same on a device."""
        zeros = None if self.zeros_OG is None else self.zeros_OG.to(device)
        held = (self.codes_OI.to(device), self.scales_OG.to(device), zeros)
        return Coded(*held, self.group_I.to(device), self.bits)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, computed in fp32."""
        weight_OI = self.codes_OI.float()
        if self.zeros_OG is not None:
            weight_OI -= self.zeros_OG.index_select(1, self.group_I)
        return weight_OI.mul_(self.scales_OG.index_select(1, self.group_I)).to(dtype)


def stacked(parts: Sequence[Coded]) -> Coded | None:
    """Weights above each other as one; None where there are none, or their inputs are grouped
    differently.
    """
    if not parts:
        return None
    first = parts[0]
    if any(
        (one.bits, one.codes_OI.dtype, one.zeros_OG is None)
        != (first.bits, first.codes_OI.dtype, first.zeros_OG is None)
        or not torch.equal(one.group_I, first.group_I)
        for one in parts
    ):
        return None
    zeros = [one.zeros_OG for one in parts if one.zeros_OG is not None]
    return Coded(
        torch.cat([one.codes_OI for one in parts]),
        torch.cat([one.scales_OG for one in parts]),
        torch.cat(zeros) if zeros else None,
        first.group_I,
        first.bits,
    )


class Int4Linear:
    """x @ weight.T + bias for codes of 4 bits, by torch's kernel for CPUs. Inputs are put in the
    order of their groups first where they are not.
    """

    def __init__(
        self, coded: Coded, dtype: torch.dtype, group: int, bias_O: torch.Tensor | None
    ) -> None:
        self._bias, self._group, self._outs = bias_O, group, coded.codes_OI.shape[0]
        order_I = coded.group_I.argsort(stable=True)
        is_sorted = torch.equal(order_I, torch.arange(len(order_I)))
        self._order_I = None if is_sorted else order_I
        codes_OI = coded.codes_OI if is_sorted else coded.codes_OI[:, order_I]
        groups = coded.group_I[order_I][::group]
        scales_OG = coded.scales_OG.float()[:, groups]
        zeros_OG = 0.0 if coded.zeros_OG is None else coded.zeros_OG.float()[:, groups]
        pairs_OG2 = torch.stack([scales_OG, (8 - zeros_OG) * scales_OG], -1)
        missing = -self._outs % OUTPUTS
        pad = torch.nn.functional.pad
        self._pairs_GO2 = pad(pairs_OG2, (0, 0, 0, 0, 0, missing)).transpose(0, 1)
        self._pairs_GO2 = self._pairs_GO2.contiguous().to(dtype)
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            pad(codes_OI.to(torch.int32), (0, 0, 0, missing)), 1
        )
        self.num_bytes = self._weight.nbytes + self._pairs_GO2.nbytes

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        if self._order_I is not None:
            x_TI = x_TI.index_select(1, self._order_I)
        y_TO = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_TI.contiguous(), self._weight, self._group, self._pairs_GO2
        )
        if y_TO.shape[1] != self._outs:
            y_TO = y_TO[:, : self._outs].contiguous()
        return y_TO if self._bias is None else y_TO.add_(self._bias)


class Int8Linear:
    """x @ weight.T + bias for signed codes of 8 bits with one scale per output."""

    def __init__(
        self,
        codes_OI: torch.Tensor,
        scales_O: torch.Tensor,
        dtype: torch.dtype,
        bias_O: torch.Tensor | None,
    ) -> None:
        self._weight, self._scales_O = codes_OI.contiguous(), scales_O.to(dtype)
        self._bias = bias_O
        self.num_bytes = self._weight.nbytes + self._scales_O.nbytes

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        y_TO = torch.ops.aten._weight_int8pack_mm(x_TI.contiguous(), self._weight, self._scales_O)
        return y_TO if self._bias is None else y_TO.add_(self._bias)


class KeptCodes:
    """x @ weight.T + bias on any device, whose weights are unpacked for each product, some outputs
    at a time, and forgotten: the memory of the codes for several times a bf16 weight's traffic.
    Codes of at most 16 different values are kept two to a byte.
    """

    def __init__(self, coded: Coded, dtype: torch.dtype, bias_O: torch.Tensor | None) -> None:
        self._coded, self._dtype, self._bias = coded, dtype, bias_O
        self._outs, ins = coded.codes_OI.shape
        self._values: torch.Tensor | None = None
        codes_OI = coded.codes_OI
        if not codes_OI.is_floating_point() and ins % 2 == 0:
            values, places_OI = codes_OI.unique(return_inverse=True)
            if len(values) <= 16:
                low_OP, high_OP = places_OI[:, 0::2], places_OI[:, 1::2]
                codes_OI, self._values = (low_OP | high_OP << 4).to(torch.uint8), values
        self._codes = codes_OI.contiguous()
        zeros_OG = coded.zeros_OG
        held = (self._codes, coded.scales_OG, *(() if zeros_OG is None else (zeros_OG,)))
        self.num_bytes = sum(each.nbytes for each in held)
        self._coded = replace(coded, codes_OI=self._codes[:0])  # the rest of what it says

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        y_TO = x_TI.new_empty(*x_TI.shape[:-1], self._outs)
        slab = max(1, SLAB_ELEMENTS // x_TI.shape[-1])
        for first in range(0, self._outs, slab):
            some = slice(first, first + slab)
            torch.matmul(x_TI, self._weight(some).t(), out=y_TO[..., some])
        return y_TO if self._bias is None else y_TO.add_(self._bias)

    def _weight(self, outputs: slice) -> torch.Tensor:
        codes_OI, coded = self._codes[outputs], self._coded
        if self._values is not None:
            codes_OI = self._values[
                torch.stack([codes_OI & 15, codes_OI >> 4], -1).flatten(1).int()
            ]
        zeros_OG = None if coded.zeros_OG is None else coded.zeros_OG[outputs]
        some = Coded(codes_OI, coded.scales_OG[outputs], zeros_OG, coded.group_I, coded.bits)
        return some.weight(self._dtype)


def coded_linear(
    coded: Coded, dtype: torch.dtype, bias_O: torch.Tensor | None = None, *, keep: bool = True
) -> Linear:
    """The product with such a weight, its codes kept (where `keep` allows) or unpacked."""
    if keep and coded.codes_OI.is_cuda:
        return KeptCodes(coded, dtype, bias_O)
    if keep and dtype in KEPT and coded.codes_OI.device.type == "cpu":
        group = kernel_group(coded)
        if coded.bits == 4 and group:
            return Int4Linear(coded, dtype, group, bias_O)
        signed_OI = _signed(coded)
        if signed_OI is not None:
            return Int8Linear(signed_OI, coded.scales_OG[:, 0], dtype, bias_O)
    return PackedLinear(coded.weight(dtype), bias_O)


def kernel_group(coded: Coded) -> int | None:
    """The longest run of inputs that all share a scale, of those that the kernel takes; None: there
    is none.
    """
    groups_I = coded.group_I.sort().values
    for size in GROUPS:
        if len(groups_I) % size == 0:
            runs = groups_I.view(-1, size)
            if bool((runs == runs[:, :1]).all()):
                return size
    return None


def _signed(coded: Coded) -> torch.Tensor | None:
    """Codes with zero points taken off, where 8 signed bits hold them and a row has one scale."""
    codes_OI = coded.codes_OI
    one_group = coded.scales_OG.shape[1] == 1
    if coded.bits != 8 or codes_OI.is_floating_point() or not one_group:
        return None
    if codes_OI.shape[1] % INPUTS:
        return None
    if coded.zeros_OG is None:
        return codes_OI if codes_OI.dtype == torch.int8 else None
    moved_OI = codes_OI.to(torch.int32) - coded.zeros_OG.to(torch.int32)
    fits = int(moved_OI.min()) >= -128 and int(moved_OI.max()) <= 127
    return moved_OI.to(torch.int8) if fits else None
