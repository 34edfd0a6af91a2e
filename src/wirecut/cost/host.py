"""What the host does in a layer beside its products, on cores: halves of layers that native code
runs in one call, the others operation by operation.

    half_s = shared_half_s(fabric, device.half_s, group)
    layer_host_s(pricing, work, rows=4, ranks=2, half_s=half_s, launch_s=device.launch_s)
"""

from collections.abc import Sequence

from wirecut.cost.replica import Pricing
from wirecut.cost.work import LayerWork
from wirecut.fabric.fabric import Fabric
from wirecut.machine.sizes import in_one_piece
from wirecut.units import DTYPE_BYTES


def shared_half_s(fabric: Fabric, half_s: float, group: Sequence[int]) -> float:
    """A device's `half_s` in a TP group of these devices: 0 where they share no memory, since
    native code cannot sum through sockets.
    """
    return half_s if half_s and fabric.share_memory(group) else 0.0


def layer_host_s(
    pricing: Pricing, work: LayerWork, *, rows: int, ranks: int, half_s: float, launch_s: float
) -> float:
    """A layer of `rows` tokens beside its products, on one of `ranks` cores; with `half_s` and
    `launch_s` as in `Device`, `half_s` 0 where native code cannot be used.
    """
    steps = pricing.engine.steps
    num_bytes = rows * pricing.spec.hidden * DTYPE_BYTES[pricing.dtype]
    in_calls = steps.native_halves and half_s and pricing.dtype == "bf16"
    native = work.native_halves if in_calls and in_one_piece(num_bytes, ranks=ranks) else 0
    apart = 1 - native / max(1, work.reduces)  # a layer may do nothing
    return native * half_s + apart * steps.ops_per_layer * launch_s
