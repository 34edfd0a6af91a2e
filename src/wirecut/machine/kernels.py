"""What this device does fastest: what `probe` measures is what the engine runs.

    product = PackedLinear(weight_OI)        # weight (out, in), as checkpoints store it
    y_TO = product(x_TI)

On a CPU a weight is reordered once so that a product reads it from front to back: by our own
kernel where the processor multiplies bf16 in vectors, for oneDNN elsewhere (one row, a core of a
Zen 4 server: 10 GB/s from rows, 15 by oneDNN, 24 by ours).
"""

from typing import Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wirecut.machine import huge, native
from wirecut.machine.sizes import LANES, PANEL

PACKS = (torch.bfloat16, torch.float32)
VIEW_SHARE = 0.25  # of an operation; a view moves no data (1.7 us where a layer's mean is 7)

native.agree(LANES=LANES, PANEL=PANEL, Attention=native.Attention)
_native = native.load()
_ours = _native is not None  # whether our own kernels are in use
HAS_PRODUCTS = hasattr(_native, "linear_bf16")


class Linear(Protocol):
    """A product with one weight, however it is held; `num_bytes` are the weight's."""

    num_bytes: int

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor: ...


class PackedLinear:
    """x @ weight.T + bias for one weight, in the layout that its device reads fastest; `panels` is
    that of our own kernel, where it is in use.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> None:
        self.num_bytes = weight_OI.nbytes
        self.outs, self.ins = weight_OI.shape
        self.bias, self.panels = bias_O, None
        on_cpu = weight_OI.device.type == "cpu"
        if on_cpu and HAS_PRODUCTS and weight_OI.dtype == torch.bfloat16 and self.ins % 2 == 0:
            self.panels, self._product = _panels(weight_OI), self._by_panels
        elif on_cpu and weight_OI.dtype in PACKS and torch.backends.mkldnn.is_available():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
            self._product = self._by_onednn
        else:
            self._weight, self._product = weight_OI, self._by_torch

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        return self._product(x_TI)

    def _by_panels(self, x_TI: torch.Tensor) -> torch.Tensor:
        x_TI = x_TI.contiguous()
        y_TO = x_TI.new_empty(*x_TI.shape[:-1], self.outs)
        assert self.panels is not None
        _native.linear_bf16(
            x_TI.data_ptr(),
            self.panels.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            y_TO.data_ptr(),
            x_TI.numel() // self.ins,
            self.outs,
            self.ins,
        )
        return y_TO

    def _by_onednn(self, x_TI: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_TI, self._weight, self.bias, "none", [], "")

    def _by_torch(self, x_TI: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x_TI, self._weight, self.bias)


def _panels(weight_OI: torch.Tensor) -> torch.Tensor:
    outs, ins = weight_OI.shape
    padded = -(-outs // PANEL) * PANEL
    packed = huge.take(2 * padded * ins).view(torch.bfloat16).view(padded, ins)
    weight_OI = weight_OI.contiguous()
    _native.pack_bf16(weight_OI.data_ptr(), packed.data_ptr(), outs, ins)
    return packed


def embed(tokens_T: torch.Tensor, table_VE: torch.Tensor, first: int) -> torch.Tensor:
    """Each token's row of a table that holds tokens `first` and on, zeros for other tokens."""
    held, width = table_VE.shape
    if not (fits(table_VE, width) and table_VE.is_contiguous() and tokens_T.is_contiguous()):
        mine_T = tokens_T - first
        elsewhere_T = (mine_T < 0) | (mine_T >= held)
        x_TE = torch.nn.functional.embedding(mine_T.masked_fill_(elsewhere_T, 0), table_VE)
        return x_TE.masked_fill_(elsewhere_T[:, None], 0)
    x_TE = table_VE.new_empty(len(tokens_T), width)
    at = tokens_T.data_ptr(), table_VE.data_ptr(), x_TE.data_ptr()
    sizes = len(tokens_T), width, first, held
    _native.embed(*at, *sizes, table_VE.dtype == torch.bfloat16)
    return x_TE


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight over the last dim, computed in the weight's dtype."""
    width = x.shape[-1]
    if weight.dtype != x.dtype:
        return rms_norm(x.to(weight.dtype), weight, eps).to(x.dtype)
    if not (fits(x, width) and x.is_contiguous()):
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
    out = torch.empty_like(x)
    rows = x.numel() // width
    at = x.data_ptr(), weight.data_ptr(), out.data_ptr()
    _native.rms_norm(*at, rows, width, eps, x.dtype == torch.bfloat16)
    return out


def norm_heads(x_THD: torch.Tensor, weight_HD: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` of each head by itself, with a weight of its own. May overwrite `x_THD`."""
    rows, heads, width = x_THD.shape
    inside = x_THD.stride()[1:] == (width, 1) and weight_HD.is_contiguous()
    if weight_HD.dtype != x_THD.dtype or not (inside and fits(x_THD, width)):
        normed_THD = torch.nn.functional.rms_norm(x_THD.to(weight_HD.dtype), (width,), None, eps)
        return normed_THD.mul_(weight_HD).to(x_THD.dtype)
    at = x_THD.data_ptr(), weight_HD.data_ptr()
    _native.norm_heads(*at, rows, x_THD.stride(0), heads, width, eps, x_THD.dtype == torch.bfloat16)
    return x_THD


def rotate(x_THD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    """Rotary embedding: turn halves of the first dims, as many as `cos_TD` has. May overwrite
    `x_THD`. The sign of the first half's sine is in `sin_TD`.
    """
    (rows, heads, head_dim), width = x_THD.shape, cos_TD.shape[-1]
    inside = x_THD.stride()[1:] == (head_dim, 1) and cos_TD.is_contiguous()
    if not (fits(x_THD, width // 2) and inside and cos_TD.dtype == x_THD.dtype):
        return _rotate_by_torch(x_THD, cos_TD[:, None], sin_TD[:, None])
    at = x_THD.data_ptr(), cos_TD.data_ptr(), sin_TD.data_ptr()
    sizes = rows, x_THD.stride(0), heads, head_dim, width
    _native.rotate(*at, *sizes, x_THD.dtype == torch.bfloat16)
    return x_THD


def _rotate_by_torch(
    x_THD: torch.Tensor, cos_T1D: torch.Tensor, sin_T1D: torch.Tensor
) -> torch.Tensor:
    width = cos_T1D.shape[-1]
    if width < x_THD.shape[-1]:
        turned = _rotate_by_torch(x_THD[..., :width], cos_T1D, sin_T1D)
        return torch.cat([turned, x_THD[..., width:]], -1)
    return torch.addcmul(x_THD * cos_T1D, x_THD.roll(width // 2, -1), sin_T1D)


def swiglu(gate_up_TF: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where each row is its gate and then its up: (T, 2 F) to (T, F)."""
    rows, width = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    if not (fits(gate_up_TF, width) and gate_up_TF.is_contiguous()):
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
        return torch.nn.functional.silu(gate_TF).mul_(up_TF)
    out_TF = gate_up_TF.new_empty(rows, width)
    bf16 = gate_up_TF.dtype == torch.bfloat16
    _native.silu_gate(gate_up_TF.data_ptr(), out_TF.data_ptr(), rows, width, bf16)
    return out_TF


def keep(x_TKD: torch.Tensor, cache_KSD: torch.Tensor, slots_T: torch.Tensor) -> None:
    """Put each row's heads at its slot of the cache."""
    rows, heads, width = x_TKD.shape
    inside = x_TKD.stride()[1:] == (width, 1) and cache_KSD.is_contiguous()
    if not (inside and fits(x_TKD, LANES)):
        cache_KSD.index_copy_(1, slots_T, x_TKD.transpose(0, 1))
        return
    at = x_TKD.data_ptr(), cache_KSD.data_ptr(), slots_T.data_ptr()
    sizes = rows, x_TKD.stride(0), heads, width, cache_KSD.shape[1]
    _native.keep(*at, *sizes, x_TKD.dtype == torch.bfloat16)


def fits(x: torch.Tensor, width: int) -> bool:
    """Whether our own kernels take `x`, whose rows are worked on `width` elements at a time."""
    return _ours and width % LANES == 0 and x.is_cpu and x.dtype in PACKS


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches inside a `with`, views by their share. Our own
    kernels stand back meanwhile: an operation is the same amount of work with them or without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __enter__(self) -> "Operations":
        global _ours
        _ours = False
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        global _ours
        _ours = _native is not None
        super().__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += VIEW_SHARE if func.is_view else 1.0
        return func(*args, **(kwargs or {}))
