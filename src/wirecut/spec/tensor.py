"""One tensor of a model: its shape, what it is, and how tensor parallelism may cut it.

    Tensor("self_attn.q_proj.weight", (4096, 4096), "q", dim=0, units=32, groups=8)

Which slice a rank holds is `layout.shards`' to say; this is what it needs to know.
"""

import math
from typing import Literal

from wirecut.facts import fact
from wirecut.spec.formats import element_bits

Part = Literal[
    "embed",
    "head",
    "norm",
    "bias",
    "q",
    "k",
    "v",
    "kv",  # MLA: keys and values out of the latent
    "latent",  # down projections to a latent, which every rank holds
    "z",  # output gate of an attention or a linear attention
    "in",  # input projection of a state-space mixer
    "o",
    "gate",
    "up",
    "down",
    "router",
    "index",  # the scorer of a sparse attention
    "decay",  # small projections of a linear attention: decay, write strength
    "compress",  # projections that pool keys of several tokens into one
    "small",  # convolutions, sinks, scalars
]
# What a matrix product streams. The rest is looked up or applied element by element.
LINEARS = frozenset(
    (
        *("head", "q", "k", "v", "kv", "latent", "z", "in", "o", "gate", "up", "down", "router"),
        *("index", "decay", "compress"),
    )
)
# What quantisation leaves in the model's dtype unless a checkpoint says otherwise.
PRECISE = frozenset(("head", "router", "index", "decay", "compress"))


@fact
class Tensor:
    """One tensor of the checkpoint, or `experts` alike ones. `shape` is one copy's: (out, in) or
    (out,).

    `dim`: along which TP cuts it; None: every rank holds it whole. `units`: indivisible pieces
    along `dim`: heads, columns of an MLP, rows of a vocabulary; ranks beyond them hold copies.
    `groups`: units are dealt by so many whole groups (query heads by key-value heads) while the
    ranks are no more than those; 0: each on its own. `experts`: 0, or so many copies, dealt over EP
    ranks, whose `name` holds "{expert}". `format`: how it is stored; "" is the model's dtype.
    `layer` None: outside all layers, or of a layer that has no place yet.
    """

    name: str
    shape: tuple[int, ...]
    part: Part
    layer: int | None = None
    dim: int | None = None
    units: int = 1
    groups: int = 0
    experts: int = 0
    format: str = ""

    @property
    def copy_elements(self) -> int:
        """Elements of one copy."""
        return math.prod(self.shape)

    @property
    def elements(self) -> int:
        """Elements of all copies."""
        return self.copy_elements * (self.experts or 1)

    @property
    def is_linear(self) -> bool:
        """Whether a matrix product streams it."""
        return self.part in LINEARS

    def element_bytes(self, dtype: str) -> float:
        """Bytes per element, scales included, where unquantised tensors are held in `dtype`."""
        return element_bits(self.format or dtype) / 8

    def stored_bytes(self, dtype: str) -> int:
        """Bytes of all copies, where unquantised tensors are held in `dtype`."""
        return round(self.elements * self.element_bytes(dtype))


def cut(name: str, part: Part, shape: tuple[int, ...], *, units: int, groups: int = 0) -> Tensor:
    """A tensor that TP cuts along its first dimension."""
    return Tensor(name, shape, part, dim=0, units=units, groups=groups)


def column(name: str, part: Part, out: int, width: int, *, units: int, groups: int = 0) -> Tensor:
    """A weight (out, width) that TP cuts along its output."""
    return Tensor(name, (out, width), part, dim=0, units=units, groups=groups)


def row(name: str, part: Part, out: int, width: int, *, units: int, groups: int = 0) -> Tensor:
    """A weight (out, width) that TP cuts along its input; its results are summed over ranks."""
    return Tensor(name, (out, width), part, dim=1, units=units, groups=groups)


def whole(name: str, part: Part, *shape: int) -> Tensor:
    """A tensor that every rank holds."""
    return Tensor(name, shape, part)
