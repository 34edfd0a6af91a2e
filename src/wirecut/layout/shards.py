"""The one definition of a shard: which slice of which tensor a rank holds.

The loader, the cost model and the tests ask here.

    tensor_slice(tensor, tp=4, tp_rank=1)            # Slice(dim=0, start=64, stop=128)
    rank_bytes(spec, stages, layout, stage=0, dtype="bf16")

TP cuts every tensor along its own dimension by indivisible units; ranks beyond the units hold
copies. `shares` says how much of them each rank of a TP group gets against the others, () that they
are alike; only the vocabulary is always cut evenly. EP deals whole experts over the dp x tp ranks
of a stage; those that an expert is left with cut inside it.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.spec.mixer import Held
from wirecut.spec.model import Layer, ModelSpec
from wirecut.spec.tensor import Tensor


@fact
class Slice:
    """Elements `start` up to `stop` of dimension `dim`; `dim` None is the whole tensor. Of a tensor
    with experts, of each from `first_expert` up to `last_expert`.
    """

    dim: int | None
    start: int
    stop: int
    first_expert: int = 0
    last_expert: int = 0

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        """Shape of this slice of one copy of `tensor`."""
        return tuple(
            self.stop - self.start if i == self.dim else n for i, n in enumerate(tensor.shape)
        )

    def elements_of(self, tensor: Tensor) -> int:
        """How many elements of `tensor`, copies counted, are in this slice."""
        copies = self.last_expert - self.first_expert if tensor.experts else 1
        if self.dim is None:
            return tensor.copy_elements * copies
        return tensor.copy_elements // tensor.shape[self.dim] * (self.stop - self.start) * copies


WHOLE = Slice(None, 0, 0)


def even_cut(length: int, parts: int, index: int) -> tuple[int, int]:
    """Part `index` of `length` things dealt to `parts` as evenly as whole things allow, the first
    part the largest: 8 to 3 as 3 + 3 + 2.
    """
    return -(-length * index // parts), -(-length * (index + 1) // parts)


def cut_by_shares(
    length: int, parts: int, index: int, shares: tuple[int, ...] = ()
) -> tuple[int, int]:
    """Part `index` of `length` things dealt by `shares`, as near as whole things allow: 8 by (5, 3)
    is 0 to 5 and 5 to 8.
    """
    if not shares:
        return even_cut(length, parts, index)
    total, before = sum(shares), sum(shares[:index])
    return length * before // total, length * (before + shares[index]) // total


def padded_vocab(vocab: int, tp: int) -> int:
    """Vocabulary rounded up to shares of equal length; the padding is never chosen."""
    return -(-vocab // tp) * tp


def unit_cut(
    units: int, tp: int, tp_rank: int, groups: int = 0, shares: tuple[int, ...] = ()
) -> tuple[int, int]:
    """First and one past the last unit of a rank. Whole groups are dealt while there is one for
    each rank (and units for each), and evenly beyond; ranks beyond the units hold copies.
    """
    if groups and tp <= groups <= units:
        first, last = cut_by_shares(groups, tp, tp_rank, shares)
        return first * units // groups, last * units // groups
    if tp <= units:
        return cut_by_shares(units, tp, tp_rank, () if groups else shares)
    unit = tp_rank * units // tp
    return unit, unit + 1


def query_heads(
    heads: int, tp: int, tp_rank: int, groups: int = 0, shares: tuple[int, ...] = ()
) -> tuple[int, int]:
    """First and one past the last query head of a rank; `groups`: key-value heads."""
    return unit_cut(heads, tp, tp_rank, groups, shares)


def kv_heads(heads: int, tp: int, tp_rank: int, shares: tuple[int, ...] = ()) -> tuple[int, int]:
    """First and one past the last key-value head of a rank; replicated when ranks are more."""
    return unit_cut(heads, tp, tp_rank, shares=shares)


def expert_tp(layout: Layout) -> int:
    """Ranks that share one expert: with EP what it leaves of the stage's dp x tp ranks, without it
    those of the TP group.
    """
    return layout.dp * layout.tp // layout.ep if layout.ep > 1 else layout.tp


def holders(experts: int, ep: int) -> list[int]:
    """Which of the `ep` holders has each expert; each has `expert_tp` ranks."""
    ends = [even_cut(experts, ep, holder)[1] for holder in range(ep)]
    return [sum(end <= expert for end in ends) for expert in range(experts)]


def tensor_slice(
    tensor: Tensor,
    *,
    tp: int,
    tp_rank: int,
    dp: int = 1,
    dp_rank: int = 0,
    ep: int = 1,
    shares: tuple[int, ...] = (),
) -> Slice:
    """What the rank at (`dp_rank`, `tp_rank`) of a stage holds of `tensor`.

    As Megatron-LM cuts: columns (out) first, then rows (in).
    """
    if tensor.experts:
        return _expert_slice(tensor, Layout(tp=tp, dp=dp, ep=ep), tp_rank, dp_rank, shares)
    if tp == 1 or tensor.dim is None:
        return WHOLE
    return _dim_slice(tensor, tp, tp_rank, shares)


def _dim_slice(tensor: Tensor, tp: int, tp_rank: int, shares: tuple[int, ...]) -> Slice:
    assert tensor.dim is not None
    length = tensor.shape[tensor.dim]
    if tensor.part in ("embed", "head"):
        share = padded_vocab(length, tp) // tp
        return Slice(tensor.dim, min(length, share * tp_rank), min(length, share * (tp_rank + 1)))
    first, last = unit_cut(tensor.units, tp, tp_rank, tensor.groups, shares)
    each = length // tensor.units
    return Slice(tensor.dim, first * each, last * each)


def _expert_slice(
    tensor: Tensor, layout: Layout, tp_rank: int, dp_rank: int, shares: tuple[int, ...]
) -> Slice:
    inside = expert_tp(layout)
    rank = dp_rank * layout.tp + tp_rank if layout.ep > 1 else tp_rank
    first, last = even_cut(tensor.experts, layout.ep, rank // inside)
    if inside == 1 or tensor.dim is None:
        return Slice(None, 0, 0, first, last)
    cut = _dim_slice(tensor, inside, rank % inside, shares if layout.ep == 1 else ())
    return Slice(cut.dim, cut.start, cut.stop, first, last)


def stage_tensors(
    spec: ModelSpec, stages: tuple[tuple[int, int], ...], stage: int
) -> Iterator[Tensor]:
    """The tensors that a stage reads; the last stage of a tied model, the embedding as its head."""
    first, last = stages[stage]
    for tensor in spec.tensors:
        if tensor.layer is None:
            wanted = belongs_to(tensor, spec, is_first=stage == 0, is_last=stage == len(stages) - 1)
        else:
            wanted = first <= tensor.layer < last
        if wanted:
            yield tensor


def belongs_to(tensor: Tensor, spec: ModelSpec, *, is_first: bool, is_last: bool) -> bool:
    """Whether a stage reads this tensor, which lies outside all layers."""
    if tensor.part == "embed":
        return is_first or (is_last and spec.tied_embeddings)
    return is_last


def held_bytes(
    tensors: Iterable[Tensor],
    layout: Layout,
    *,
    dtype: str,
    tp_rank: int = 0,
    dp_rank: int = 0,
    shares: tuple[int, ...] = (),
) -> float:
    """Bytes that one rank holds of `tensors`, scales included; those not quantised in `dtype`."""
    total = 0.0
    for tensor in tensors:
        own = tensor_slice(
            tensor,
            tp=layout.tp,
            tp_rank=tp_rank,
            dp=layout.dp,
            dp_rank=dp_rank,
            ep=layout.ep,
            shares=shares,
        )
        total += own.elements_of(tensor) * tensor.element_bytes(dtype)
    return total


def rank_bytes(
    spec: ModelSpec,
    stages: tuple[tuple[int, int], ...],
    layout: Layout,
    *,
    stage: int,
    tp_rank: int = 0,
    dp_rank: int = 0,
    dtype: str | None = None,
    shares: tuple[int, ...] = (),
) -> int:
    """Bytes of weights that one rank holds; those not quantised in `dtype`, else as stored."""
    first, last = stages[stage]
    counted: dict[Layer, int] = {}
    for layer in spec.layers[first:last]:
        counted[layer] = counted.get(layer, 0) + 1
    held = partial(
        held_bytes,
        layout=layout,
        dtype=dtype or spec.dtype,
        tp_rank=tp_rank,
        dp_rank=dp_rank,
        shares=shares,
    )
    inside = sum(count * held(spec.layer_tensors(layer)) for layer, count in counted.items())
    is_first, is_last = stage == 0, stage == len(stages) - 1
    ends = [
        tensor
        for tensor in spec.outside_tensors
        if belongs_to(tensor, spec, is_first=is_first, is_last=is_last)
    ]
    return round(inside + held(ends))


def held_units(held: Iterable[Held], tp: int, tp_rank: int, shares: tuple[int, ...] = ()) -> int:
    """Elements of a cache's parts that one rank holds."""
    total = 0
    for part in held:
        first, last = unit_cut(part.units, tp, tp_rank, part.groups, shares)
        total += (last - first) * part.each
    return total
