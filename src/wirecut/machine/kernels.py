"""The matrix product that this device does fastest: what `probe` measures is what the engine runs.

    product = PackedLinear(weight_OI)        # weight (out, in), as checkpoints store it
    y_TO = product(x_TI)

On a CPU the weights are reordered once for oneDNN, which then reads them about twice as fast as
from rows (bf16, one row: 10 against 19 GB/s a core on a Zen 4 server).
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PACKS = (torch.bfloat16, torch.float32)
VIEW_SHARE = 0.25  # of an operation; a view moves no data (1.7 us where a layer's mean is 7)


class PackedLinear:
    """x @ weight.T for one weight, in the layout that its device reads fastest. No bias."""

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.num_bytes = weight_OI.nbytes
        self._packed = (
            weight_OI.device.type == "cpu"
            and weight_OI.dtype in PACKS
            and torch.backends.mkldnn.is_available()
        )
        if self._packed:
            weight_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
        self._weight = weight_OI

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        if self._packed:
            return torch.ops.mkldnn._linear_pointwise(x_TI, self._weight, None, "none", [], "")
        return torch.nn.functional.linear(x_TI, self._weight)


class Operations(TorchDispatchMode):
    """Counts the operations dispatched inside a `with`, views by their share."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += VIEW_SHARE if func.is_view else 1.0
        return func(*args, **(kwargs or {}))
