"""Products with weights that are stored as codes with scales: kept as they are where torch has a
kernel that reads them, unpacked elsewhere.

    product = coded_linear(Coded(codes_OI, scales_OG, zeros_OG, group_I, bits=4), torch.bfloat16)
    y_TO = product(x_TI)

On a CPU in bf16 or fp16, codes of 4 bits, and of 8 with a scale per row, are kept: one row takes
0.4 and 0.8 of the time of bf16 weights, more than 5 and 3 rows take longer, 64 rows 2.5 and 4 times
as long (4096 x 4096, a core of a Zen 4 server). In fp32 those kernels take 5 to 20 times as long as
fp32 weights, and codes are unpacked.
"""

from dataclasses import replace

import torch

from wirecut.machine.coded import Bytes, Coded
from wirecut.machine.kernels import Linear, PackedLinear

KEPT = (torch.bfloat16, torch.float16)
GROUPS = (256, 128, 64, 32)  # inputs that share a scale in torch's kernel for 4 bits
OUTPUTS = 16  # whose multiples that kernel takes
INPUTS = 16  # whose multiples the one for 8 bits takes
# That are unpacked at a time where no kernel reads codes. At once there are 10 bytes for each: its
# code, weight and scale in fp32, and what is made of them: 160 MB.
SLAB_ELEMENTS = 1 << 24


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
        scales_OG, zeros = coded.scales_OG[:, groups], coded.zeros_OG
        zeros_OG = 0.0 if zeros is None else zeros[:, groups]
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
    at a time, and forgotten: the memory of the checkpoint's codes, scales and zero points for
    several times a bf16 weight's traffic.
    """

    def __init__(self, coded: Coded, dtype: torch.dtype, bias_O: torch.Tensor | None) -> None:
        self._dtype, self._bias, self._outs = dtype, bias_O, coded.codes_OI.shape[0]
        self._codes = Bytes(coded.codes_OI, slab_elements=SLAB_ELEMENTS)
        self._zeros = None
        if coded.zeros_RG is not None:
            self._zeros = Bytes(coded.zeros_RG, slab_elements=SLAB_ELEMENTS)
        self._rest = replace(
            coded,
            codes_OI=coded.codes_OI.new_empty(0),
            scales_RG=coded.scales_RG.contiguous(),
            zeros_RG=None,
        )
        tensors = self._rest.scales_RG, self._rest.group_I, self._rest.row_O
        held = (self._codes, self._zeros, *tensors)
        self.num_bytes = sum(each.nbytes for each in held if each is not None)

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        y_TO = x_TI.new_empty(*x_TI.shape[:-1], self._outs)
        slab = max(1, SLAB_ELEMENTS // x_TI.shape[-1])
        for first in range(0, self._outs, slab):
            some = slice(first, first + slab)
            torch.matmul(x_TI, self._weight(some).t(), out=y_TO[..., some])
        return y_TO if self._bias is None else y_TO.add_(self._bias)

    def _weight(self, outputs: slice) -> torch.Tensor:
        rest = self._rest
        rows, row_O = (outputs, None) if rest.row_O is None else (slice(None), rest.row_O[outputs])
        some = replace(
            rest,
            codes_OI=self._codes[outputs],
            scales_RG=rest.scales_RG[rows],
            zeros_RG=None if self._zeros is None else self._zeros[rows],
            row_O=row_O,
        )
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
    one_group, zeros_OG = coded.scales_RG.shape[1] == 1, coded.zeros_OG
    if coded.bits != 8 or codes_OI.is_floating_point() or not one_group:
        return None
    if codes_OI.shape[1] % INPUTS:
        return None
    if zeros_OG is None:
        return codes_OI if codes_OI.dtype == torch.int8 else None
    moved_OI = codes_OI.to(torch.int32) - zeros_OG.to(torch.int32)
    fits = int(moved_OI.min()) >= -128 and int(moved_OI.max()) <= 127
    return moved_OI.to(torch.int8) if fits else None
