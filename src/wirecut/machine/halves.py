"""Halves of layers in one call of native code: Python's share of a step of few rows is a tenth.

    halves = NativeHalves([half_of(norm_E, 1e-5, qkv, o), ...], hidden=1024, kept=tensors)
    if halves.take(x_TE, rows):
        tp.run(halves.over(x_TE, rows))     # x_TE holds the result

A half is x + reduce(part(norm(x))); see c/halves.c. Shapes: T rows, E hidden, D dims that turn.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int64, c_long, c_void_p
from dataclasses import dataclass

import torch

from wirecut.machine import kernels, native
from wirecut.machine.kernels import PackedLinear
from wirecut.machine.paged import Paged, check_memory, takes_block, takes_prompt
from wirecut.machine.sizes import fits_turn

Turn = tuple[torch.Tensor, torch.Tensor]


class NativeHalf(ctypes.Structure):
    """One half; see c/halves.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("norm", "into", "into_bias", "back", "head_norms")),
        *((name, c_void_p) for name in ("keys", "values")),
        *((name, c_long) for name in ("into_outs", "back_ins")),
        *((name, c_long) for name in ("heads", "kv_heads", "head_dim", "places", "window")),
        *((name, c_float) for name in ("eps", "head_eps", "scale")),
    )


class Group(ctypes.Structure):
    """Ranks that sum through memory which they share; see c/halves.h."""

    _fields_ = (
        ("slots", c_void_p * 2),
        ("flags", c_void_p),
        *((name, c_long) for name in ("rank", "size", "round", "spins")),
    )


class Step(ctypes.Structure):
    """A step, and how far it has come; see c/halves.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "normed", "wide", "narrow", "part")),
        *((name, c_void_p) for name in ("cosines", "sines", "slots", "prompt_counts", "times")),
        *((name, native.Attention) for name in ("decodes", "prompts")),
        *((name, c_long) for name in ("rows", "hidden", "turning", "half", "waiting")),
    )


native.agree(Half=NativeHalf, Group=Group, Step=Step)


def half_of(norm_E: torch.Tensor, eps: float, into: PackedLinear, back: PackedLinear) -> NativeHalf:
    """A gated MLP between these products, which have panels; with keys and values set, attention.
    Its tensors are to be kept.
    """
    assert into.panels is not None
    assert back.panels is not None
    return NativeHalf(
        norm=norm_E.data_ptr(),
        eps=eps,
        into=into.panels.data_ptr(),
        into_bias=None if into.bias is None else into.bias.data_ptr(),
        back=back.panels.data_ptr(),
        into_outs=into.outs,
        back_ins=back.ins,
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """What a step's rows are: their turns, the places of their keys, and the sequences of one row
    and of many.
    """

    turn: Turn
    slots_T: torch.Tensor
    decodes: Paged | None
    prompts: Paged | None


class Running:
    """Halves under way over one step's rows. Called with the group it returns 0 when it is done, or
    1 + the rank that is late, and is to be called again. `times`: ns, begin and end of each sum, of
    `num_bytes`.
    """

    def __init__(
        self, halves: ctypes.Array[NativeHalf], step: Step, kept: object, num_bytes: int
    ) -> None:
        self._halves, self._step, self._kept = halves, step, kept
        self.num_bytes = num_bytes
        self.times = (c_int64 * (2 * len(halves)))()
        step.times = ctypes.addressof(self.times)

    def __len__(self) -> int:
        return len(self._halves)

    def __call__(self, group: Group | None) -> int:
        at = None if group is None else byref(group)
        late = native.load().run_halves(self._halves, len(self._halves), byref(self._step), at)
        check_memory(late)
        return late


class NativeHalves:
    """Halves one behind the other, in bf16. `kept`: whatever holds the memory that they name."""

    def __init__(self, halves: Sequence[NativeHalf], *, hidden: int, kept: object) -> None:
        self._array, self._kept, self._hidden = (NativeHalf * len(halves))(*halves), kept, hidden
        self._wide = max(half.into_outs for half in halves)
        self._narrow = max(half.back_ins for half in halves)
        self._head_dims = {half.head_dim for half in halves if half.keys}

    def take(self, x_TE: torch.Tensor, rows: Rows) -> bool:
        """Whether they can run over these rows."""
        return (
            kernels.fits(x_TE, self._hidden)
            and x_TE.dtype == torch.bfloat16
            and fits_turn(rows.turn[0].shape[1])
            and (rows.decodes is None or takes_block(rows.decodes.block_tokens))
            and (rows.prompts is None or self._take_prompts(rows.prompts.block_tokens))
        )

    def _take_prompts(self, block_tokens: int) -> bool:
        return all(takes_prompt(width, block_tokens) for width in self._head_dims)

    def over(self, x_TE: torch.Tensor, rows: Rows) -> Running:
        """These halves over the rows `x_TE`, which hold the result when it is done."""
        (count, hidden), (cos_TD, sin_TD) = x_TE.shape, rows.turn
        scratch = x_TE.new_empty(count * (2 * hidden + self._wide + self._narrow))
        normed = scratch.data_ptr()
        part = normed + 2 * count * hidden
        wide = part + 2 * count * hidden
        step = Step(
            x=x_TE.data_ptr(),
            normed=normed,
            part=part,
            wide=wide,
            narrow=wide + 2 * count * self._wide,
            cosines=cos_TD.data_ptr(),
            sines=sin_TD.data_ptr(),
            slots=rows.slots_T.data_ptr(),
            decodes=_sequences(rows.decodes),
            prompts=_sequences(rows.prompts),
            prompt_counts=rows.prompts.counts_N.data_ptr() if rows.prompts else None,
            rows=count,
            hidden=hidden,
            turning=cos_TD.shape[1],
        )
        return Running(self._array, step, (scratch, x_TE, rows), x_TE.nbytes)


def _sequences(where: Paged | None) -> native.Attention:
    """What attention is told of a step's sequences; the rest is the halves' own."""
    if where is None:
        return native.Attention()
    sequences, blocks_each = where.blocks_NB.shape
    return native.Attention(
        blocks=where.blocks_NB.data_ptr(),
        lengths=where.lengths_N.data_ptr(),
        rows=where.rows_N.data_ptr(),
        sequences=sequences,
        blocks_each=blocks_each,
        block=where.block_tokens,
    )
