"""Memory for weights in huge pages, one weight behind the other.

    take(4096)          # bytes, as a tensor of uint8

A product that reads its weight from front to back crosses a page every 4 KiB, and each needs the
page's address looked up; of 2 MiB pages there are few. What was taken one after another lies one
behind the other, so what is fetched ahead at a weight's end is the beginning of the next.
"""

import mmap
from contextlib import suppress

import torch

from wirecut.units import MIB

ALIGN = 64  # a cache line
CHUNK = 64 * MIB  # untouched memory costs nothing


class _Chunk:
    """Memory that is given away from front to back."""

    def __init__(self, num_bytes: int) -> None:
        memory = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them: small pages hold weights too
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._free = torch.frombuffer(memory, dtype=torch.uint8)

    def take(self, num_bytes: int) -> torch.Tensor | None:
        rounded = _rounded(num_bytes)
        if rounded > len(self._free):
            return None
        taken, self._free = self._free[:num_bytes], self._free[rounded:]
        return taken


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN


_chunk: _Chunk | None = None


def take(num_bytes: int) -> torch.Tensor:
    """So many bytes behind those taken last. They are given back with the last of their chunk."""
    global _chunk
    taken = _chunk.take(num_bytes) if _chunk else None
    if taken is None:
        _chunk = _Chunk(max(CHUNK, _rounded(num_bytes)))
        taken = _chunk.take(num_bytes)
        assert taken is not None
    return taken
