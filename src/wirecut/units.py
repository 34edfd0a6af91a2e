"""Bytes, seconds and rates: how they print. GB is 1e9 bytes, GiB is 2**30 bytes."""

GIB = 2**30
MIB = 2**20
KIB = 2**10

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}  # of what is computed with


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    size, name = next(((s, n) for s, n in steps if abs(value) >= s), steps[-1])
    scaled = value / size
    digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits}f} {name}"


def show_bytes(count: float) -> str:
    """1536 -> '1.50 KiB'."""
    if abs(count) < KIB:
        return f"{count:.0f} B"
    return _scaled(count, [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")])


def show_seconds(seconds: float) -> str:
    """0.0000123 -> '12.3 us'."""
    if seconds == 0:
        return "0 s"
    return _scaled(seconds, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")])


def show_rate(bytes_per_s: float) -> str:
    """2.5e9 -> '2.50 GB/s'."""
    return _scaled(bytes_per_s, [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")])


def show_flops(flops_per_s: float) -> str:
    """1e11 -> '100 GFLOP/s'."""
    return _scaled(
        flops_per_s, [(1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")]
    )
