"""What this device does fastest: what `probe` measures is what the engine runs.

    product = PackedLinear(weight_OI)        # weight (out, in), as checkpoints store it
    y_TO = product(x_TI)

On a CPU a weight is reordered once so that a product reads it from front to back: by our own
kernel where the processor multiplies bf16 in vectors, for oneDNN elsewhere (one row, a core of a
Zen 4 server: 10 GB/s from rows, 15 by oneDNN, 24 by ours).
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wirecut.machine import native

PACKS = (torch.bfloat16, torch.float32)
VIEW_SHARE = 0.25  # of an operation; a view moves no data (1.7 us where a layer's mean is 7)
PANEL = 32  # outputs that stand together in a weight, as c/products.c has it

_native = native.load()
_has_products = hasattr(_native, "linear_bf16")


class PackedLinear:
    """x @ weight.T + bias for one weight, in the layout that its device reads fastest."""

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> None:
        self.num_bytes = weight_OI.nbytes
        self._outs, self._ins = weight_OI.shape
        self._bias = bias_O
        on_cpu = weight_OI.device.type == "cpu"
        if on_cpu and _has_products and weight_OI.dtype == torch.bfloat16 and self._ins % 2 == 0:
            self._weight, self._product = _panels(weight_OI), self._by_panels
        elif on_cpu and weight_OI.dtype in PACKS and torch.backends.mkldnn.is_available():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
            self._product = self._by_onednn
        else:
            self._weight, self._product = weight_OI, self._by_torch

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        return self._product(x_TI)

    def _by_panels(self, x_TI: torch.Tensor) -> torch.Tensor:
        x_TI = x_TI.contiguous()
        y_TO = x_TI.new_empty(*x_TI.shape[:-1], self._outs)
        _native.linear_bf16(
            x_TI.data_ptr(),
            self._weight.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            y_TO.data_ptr(),
            x_TI.numel() // self._ins,
            self._outs,
            self._ins,
        )
        return y_TO

    def _by_onednn(self, x_TI: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_TI, self._weight, self._bias, "none", [], "")

    def _by_torch(self, x_TI: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x_TI, self._weight, self._bias)


def _panels(weight_OI: torch.Tensor) -> torch.Tensor:
    outs, ins = weight_OI.shape
    packed = weight_OI.new_empty(-(-outs // PANEL) * PANEL, ins)
    weight_OI = weight_OI.contiguous()
    _native.pack_bf16(weight_OI.data_ptr(), packed.data_ptr(), outs, ins)
    return packed


class Operations(TorchDispatchMode):
    """Counts the operations dispatched inside a `with`, views by their share."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += VIEW_SHARE if func.is_view else 1.0
        return func(*args, **(kwargs or {}))
