"""Devices: what one place where a rank runs can do, and what was measured of it.

device.bytes_per_s, device.flops_per_s["bf16"]
"""

from wirecut.fabric.link import Source, check_rate
from wirecut.facts import fact


@fact
class MatrixPoint:
    """One measured product of `rows` x weights of `weight_bytes` in all, streamed once.

    `weight_bytes` is the working set, so small ones show the caches and large ones memory. What
    else was busy meanwhile, the `Device` says.
    """

    dtype: str
    rows: int
    weight_bytes: int
    seconds: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.weight_bytes < 1 or not 0 < self.seconds < 1e6:
            raise ValueError(f"measured point {self} makes no sense")


@fact
class AttentionPoint:
    """Attention of one sequence, measured: `queries` new tokens that look at `keys` in all.

    `width` is heads x head_dim of the queries, `kv_width` of the keys.
    """

    dtype: str
    queries: int
    keys: int
    width: int
    kv_width: int
    seconds: float

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= self.keys or not 0 < self.seconds < 1e6:
            raise ValueError(f"measured point {self} makes no sense")


@fact
class Device:
    """One place where one rank runs. Rates are of this device with all its like busy too.

    `memory_bytes` is this device's share of its host's. `launch_s` is the time to start one small
    operation. `index` is its number at its driver (CUDA's for a GPU), `numa` its NUMA node.

    `alone` are products that one device of this host made while all others waited, and
    `launch_alone_s` its time to start an operation then: faster where devices share memory or
    caches. Empty and 0 where not measured, as of GPUs, whose memories are their own.
    `launch_cold_s` is that time right after large weights have passed through the caches, 0 where
    not measured. `half_s` is what half a layer of plain attention or MLP takes beside its products
    where native code runs halves one behind the other; 0 where it cannot.
    """

    id: int
    host: str
    kind: str
    name: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: dict[str, float]
    launch_s: float
    source: Source
    cpus: tuple[int, ...] = ()
    points: tuple[MatrixPoint, ...] = ()
    attention: tuple[AttentionPoint, ...] = ()
    index: int | None = None
    numa: int | None = None
    alone: tuple[MatrixPoint, ...] = ()
    launch_alone_s: float = 0.0
    launch_cold_s: float = 0.0
    half_s: float = 0.0

    def __post_init__(self) -> None:
        name = f"device {self.id}"
        check_rate(f"{name}: bytes_per_s", self.bytes_per_s)
        check_rate(f"{name}: memory_bytes", self.memory_bytes)
        for dtype, rate in self.flops_per_s.items():
            check_rate(f"{name}: flops_per_s of {dtype}", rate)
        for field, seconds in (
            ("launch_s", self.launch_s),
            ("launch_alone_s", self.launch_alone_s),
            ("launch_cold_s", self.launch_cold_s),
            ("half_s", self.half_s),
        ):
            if not 0 <= seconds < 1:
                raise ValueError(f"{name}: {field} is {seconds}, expected 0 to 1 s")
