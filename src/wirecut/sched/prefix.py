"""Which blocks hold which tokens: a full block is known by a key that names every token up to its
end.

    first = next_key(ROOT, tokens[:32])
    second = next_key(first, tokens[32:64])

A key is hashed over the key before it, so equal keys mean equal tokens from the beginning on: a hit
is exact. The hash is BLAKE2b, so that nobody can write a prompt which is taken for another's.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

ROOT = b""  # the key before the first block's
LONG_ROOT = b"long"  # and before that of a long sequence, whose keys and values are others


def next_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a block of `tokens` behind the block whose key is `parent`."""
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=32).digest()


class PrefixCache:
    """Keys of blocks, and which of the named blocks are idle (held by nobody), least recently used
    first.
    """

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}

    @property
    def num_idle(self) -> int:
        """Named blocks that nobody holds."""
        return len(self._idle)

    def find(self, key: bytes) -> int | None:
        """The block that holds what `key` names."""
        return self._block_of.get(key)

    def name(self, block: int, key: bytes) -> None:
        """Say what `block` holds. A second block with the same tokens stays nameless."""
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self, block: int) -> None:
        """Nobody is to find `block` any more."""
        if (key := self._key_of.pop(block, None)) is not None:
            del self._block_of[key]

    def shelve(self, block: int) -> bool:
        """Keep a block that nobody holds any more, as the last one used; False if nameless."""
        if block not in self._key_of:
            return False
        self._idle[block] = None
        return True

    def take(self, block: int) -> None:
        """An idle block is held again."""
        del self._idle[block]

    def evict(self) -> int:
        """The least recently used idle block, without its name."""
        block = next(iter(self._idle))
        del self._idle[block]
        self.forget(block)
        return block
