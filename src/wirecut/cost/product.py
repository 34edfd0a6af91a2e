"""A dense product of one rank.

Product("qkv", n=3072, k=1024, format="bf16", weight_bytes=2 * 3072 * 1024)
"""

from wirecut.facts import fact


@fact
class Product:
    """A dense product: rows x `k` times `k` x `n`, the weights stored in `format`."""

    name: str
    n: int
    k: int
    format: str
    weight_bytes: float
