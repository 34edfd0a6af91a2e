"""What every mixer tells: how a layer looks at other tokens, and what it keeps of them.

    mixer.tensors(hidden=4096)        # its weights, named within the mixer
    mixer.kv_elements                 # what a token leaves behind, over all ranks
    mixer.keys(context=8000)          # how many keys a query that late looks at

Kinds of mixers are in `spec.attention` and `spec.recurrent`.
"""

from collections.abc import Iterator
from typing import Protocol

from wirecut.facts import fact
from wirecut.spec.tensor import Tensor


@fact
class Held:
    """A part of a cache: `units` indivisible pieces of `each` elements, dealt to TP ranks as a
    tensor's units are (by `groups`; ranks beyond the units hold copies).
    """

    units: int
    each: int
    groups: int = 0

    @property
    def elements(self) -> int:
        return self.units * self.each


class Mixer(Protocol):
    """How a layer looks at other tokens. FLOPs count a multiply and an add as two."""

    @property
    def heads(self) -> int:
        """Query heads, which TP deals."""
        ...

    @property
    def groups(self) -> int:
        """Groups of heads that stay together while ranks are no more than groups; 0: none."""
        ...

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        """Its weights, named within the mixer as in "q_proj.weight"."""
        ...

    @property
    def kv(self) -> tuple[Held, ...]:
        """What each token leaves in the cache."""
        ...

    @property
    def state(self) -> tuple[Held, ...]:
        """What a sequence occupies however long it is."""
        ...

    def cached_tokens(self, context: int) -> int:
        """Tokens whose keys are kept of a sequence of `context` tokens."""
        ...

    def keys(self, context: float) -> float:
        """Keys that the last of `context` tokens looks at."""
        ...

    def read_elements(self, context: float, kv_heads: int) -> float:
        """Elements of the cache that the last of `context` tokens reads on a rank with `kv_heads`
        of its key and value heads; what is not kept by heads, every rank reads whole.
        """
        ...

    def pair_flops(self, *, decode: bool) -> int:
        """FLOPs of one query with one key, all heads. `decode`: a step of one token a sequence,
        which latent attention computes in another form.
        """
        ...

    @property
    def index_flops(self) -> int:
        """FLOPs of scoring one earlier position for one query, before keys are chosen."""
        ...

    def index_keys(self, context: float) -> float:
        """Positions that are scored for the last of `context` tokens."""
        ...

    @property
    def token_flops(self) -> int:
        """FLOPs per token besides weights and pairs: updates of a recurrent state."""
        ...


def kv_elements(mixer: Mixer) -> int:
    """Elements that one token leaves in the cache, over all ranks and no copies."""
    return sum(held.elements for held in mixer.kv)


def state_elements(mixer: Mixer) -> int:
    """Elements that a sequence occupies however long it is, over all ranks and no copies."""
    return sum(held.elements for held in mixer.state)
