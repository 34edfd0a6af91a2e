"""Which layouts a model and a number of devices allow, and else why not, with numbers."""

from wirecut.layout.layout import Layout
from wirecut.spec.model import ModelSpec


def allowed_tp(spec: ModelSpec) -> list[int]:
    """The TP sizes that this model's heads allow, smallest first."""
    most = min(layer.attention.heads for layer in spec.layers)
    return [tp for tp in range(1, most + 1) if _heads_allow(spec, tp)]


def _heads_allow(spec: ModelSpec, tp: int) -> bool:
    for layer in spec.layers:
        heads, kv = layer.attention.heads, layer.attention.kv_heads
        if heads % tp or (kv % tp if tp <= kv else tp % kv) or layer.mlp.intermediate < tp:
            return False
    return True


def why_not(spec: ModelSpec, layout: Layout, num_devices: int) -> str | None:
    """Why `layout` cannot be built, or None when it can. Memory is not judged here."""
    if layout.world_size > num_devices:
        return f"{layout} needs {layout.world_size} devices, the fabric has {num_devices}"
    if not _heads_allow(spec, layout.tp):
        attention = spec.layers[0].attention
        sizes = ", ".join(map(str, allowed_tp(spec)))
        return (
            f"tp {layout.tp} does not divide {attention.heads} query and {attention.kv_heads} "
            f"key-value heads evenly; sizes that work: {sizes}"
        )
    if layout.pp > spec.num_layers:
        return f"pp {layout.pp} is more stages than the model's {spec.num_layers} layers"
    if layout.ep > 1:
        return f"ep {layout.ep} needs experts; {spec.name} is a dense model"
    return None
