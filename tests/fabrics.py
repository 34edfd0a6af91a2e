"""Small hand-made fabrics and models whose prices can be computed by hand."""

from itertools import combinations

from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Curve, Device, Fabric, Link, Made
from wirecut.fabric.wires import WIRES
from wirecut.spec.hf import from_config
from wirecut.spec.model import ModelSpec

FAST = {"latency_s": 1e-6, "bytes_per_s": 100e9}
SLOW = {"latency_s": 10e-3, "bytes_per_s": 10e6}
MADE = Made("2026-01-01T00:00:00+00:00", "by hand", "0")

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}


def model(**changes: object) -> ModelSpec:
    """4 layers of 36 864 matrix elements (+ 2 norms of 64), vocabulary 1000 x 64, unless
    changed.
    """
    return from_config({**CONFIG, **changes}, name="tiny", where="tests")


def big_model() -> ModelSpec:
    """200 MB of weights in bf16, so that streaming them outweighs what a step costs beside."""
    return model(
        hidden_size=1024,
        num_attention_heads=16,
        num_key_value_heads=8,
        intermediate_size=2816,
        num_hidden_layers=8,
        vocab_size=8000,
    )


def fabric(
    num_devices: int,
    *,
    latency_s: float = 10e-6,
    bytes_per_s: float = 1e9,
    launch_s: float = 0.0,
    memory_bytes: int = 10**9,
    device_bytes_per_s: float = 1e9,
    points: tuple[MatrixPoint, ...] = (),
    curves: tuple[Curve, ...] = (),
    islands: tuple[tuple[int, ...], ...] | None = None,
    kinds: tuple[str, ...] = ("shm",),
    spread: float = 0.0,
) -> Fabric:
    """Equal devices of 1 GB/s and 1 TFLOP/s, each pair joined by a wire of each kind, ten times
    slower each.
    """
    devices = tuple(
        Device(
            id=i,
            host="here",
            kind="cpu-core",
            name="core",
            memory_bytes=memory_bytes,
            bytes_per_s=device_bytes_per_s,
            flops_per_s={"bf16": 1e12, "fp32": 5e11},
            launch_s=launch_s,
            source="measured",
            points=points,
        )
        for i in range(num_devices)
    )
    links = tuple(
        Link(a, b, kind, latency_s * 10**i, bytes_per_s / 10**i, "measured", spread)
        for a, b in combinations(range(num_devices), 2)
        for i, kind in enumerate(kinds)
    )
    whole = (tuple(range(num_devices)),)
    return Fabric(devices, links, whole if islands is None else islands, MADE, curves)


def check_whole(fabric, nodes: int, gpus: int) -> None:
    """As many devices as typed, node after node, and one link for every pair."""
    assert [(d.host, d.index) for d in fabric.devices] == [
        (f"node{node}", index) for node in range(nodes) for index in range(gpus)
    ]
    pairs = [(link.a, link.b) for link in fabric.links]
    assert sorted(pairs) == list(combinations(range(nodes * gpus), 2))
    for link in fabric.links:
        same = link.a // gpus == link.b // gpus
        assert link.kind in WIRES
        assert same or WIRES[link.kind].network or "multi-node" in link.path
        assert not (same and WIRES[link.kind].network)
