"""Puts halves of layers together that native code runs in one call, and leaves the others as they
are.

    steps = fused([Half(norm, attention), Half(norm, mlp), Half(norm, mixture), ...])
    for step in steps:              # FusedHalves of the first two, the third as it is, ...
        x_TE = step(x_TE, at)

What runs and in which order is the same either way, to the bit: a half here says what it is made
of, and the call goes through the same kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeGuard

import torch

from wirecut.engine.models.blocks import Forward, GroupedAttention, Half, Mlp, Norm
from wirecut.machine import kernels
from wirecut.machine.halves import NativeHalf, NativeHalves, Rows, half_of
from wirecut.machine.kernels import Linear, PackedLinear
from wirecut.machine.sizes import fits_product

Step = Callable[[torch.Tensor, Forward], torch.Tensor]


@dataclass(frozen=True, slots=True)
class FusedHalves:
    """Several halves: one call where the step allows it, else one after another."""

    halves: tuple[Half, ...]
    chain: NativeHalves

    def __call__(self, x_TE: torch.Tensor, at: Forward) -> torch.Tensor:
        batch = at.batch
        rows = Rows(at.turns[0], batch.slots_T, batch.decodes, batch.prompts)
        if at.tp.runs(x_TE.nbytes) and self.chain.take(x_TE, rows):
            x_TE = x_TE.clone()
            at.tp.run(self.chain.over(x_TE, rows))
            return x_TE
        for half in self.halves:
            x_TE = half(x_TE, at)
        return x_TE


def fused(halves: Sequence[Half]) -> tuple[Step, ...]:
    """The same halves, those that stand side by side and can run together as one."""
    steps: list[Step] = []
    for are_native, run in groupby(halves, lambda half: _native(half) is not None):
        alike = tuple(run)
        steps += [_together(alike)] if are_native else alike
    return tuple(steps)


def _together(halves: tuple[Half, ...]) -> FusedHalves:
    told = [one for one in map(_native, halves) if one]
    hidden = halves[0].norm.weight.shape[0]
    chain = NativeHalves([half for half, _ in told], hidden=hidden, kept=(halves, told))
    return FusedHalves(halves, chain)


def _native(half: Half) -> tuple[NativeHalf, object] | None:
    """What native code needs to know of a half, and what holds it in memory; None where it cannot
    run it.
    """
    norm, part = half.norm, half.part
    plain = half.bias is None and half.post is None and norm.weight.dtype == torch.bfloat16
    if not (plain and norm.weight.is_cpu and kernels.HAS_PRODUCTS):
        return None
    if isinstance(part, Mlp):
        return _mlp(norm, part)
    return _attention(norm, part) if isinstance(part, GroupedAttention) else None


def _mlp(norm: Norm, part: Mlp) -> tuple[NativeHalf, object] | None:
    into, back = part.gate_up, part.down
    if part.gate.act != "silu" or not (_fits(into) and _fits(back)):
        return None
    return half_of(norm.weight, norm.eps, into, back), (norm, part)


def _attention(norm: Norm, part: GroupedAttention) -> tuple[NativeHalf, object] | None:
    keys_KSD, values_KSD, look = part.cache.keys_KSD, part.cache.values_KSD, part.look
    head_dim = keys_KSD.shape[2]
    if (
        not (_fits(part.qkv) and _fits(part.o))
        or (part.norm is not None and part.norm.weight_HD.dtype != torch.bfloat16)
        or part.rope
        or not look.is_fused
        or values_KSD.shape != keys_KSD.shape
    ):
        return None
    half = half_of(norm.weight, norm.eps, part.qkv, part.o)
    half.keys, half.values = keys_KSD.data_ptr(), values_KSD.data_ptr()
    if part.norm is not None:
        half.head_norms, half.head_eps = part.norm.weight_HD.data_ptr(), part.norm.eps
    half.heads, half.kv_heads, half.head_dim = part.heads, part.kv_heads, head_dim
    half.places, half.window = keys_KSD.shape[1], look.window or 0
    half.scale = head_dim**-0.5 if look.scale is None else look.scale
    return half, (norm, part)


def _fits(product: Linear) -> TypeGuard[PackedLinear]:
    """Whether our own kernel does a product, in whole vectors."""
    return (
        isinstance(product, PackedLinear)
        and product.panels is not None
        and fits_product(product.outs, product.ins)
    )
