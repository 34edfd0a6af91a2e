"""The one definition of a shard: which slice of which tensor a rank holds.

The loader, the cost model and the tests ask here.

    tensor_slice(spec, tensor, tp=4, tp_rank=1)      # Slice(dim=0, start=64, stop=128)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wirecut.spec.model import ModelSpec, Tensor

ROW_PARALLEL = {"o", "down"}  # cut along the input, summed by an all-reduce


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements `start` up to `stop` of dimension `dim`; `dim` None is the whole tensor."""

    dim: int | None
    start: int
    stop: int

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        """Shape of this slice of `tensor`."""
        return tuple(
            self.stop - self.start if i == self.dim else n for i, n in enumerate(tensor.shape)
        )

    def elements_of(self, tensor: Tensor) -> int:
        """How many elements of `tensor` are in this slice."""
        if self.dim is None:
            return tensor.elements
        return tensor.elements // tensor.shape[self.dim] * (self.stop - self.start)


WHOLE = Slice(None, 0, 0)


def even_cut(length: int, parts: int, index: int) -> tuple[int, int]:
    """Part `index` of `length` things dealt to `parts` as evenly as whole things allow."""
    return length * index // parts, length * (index + 1) // parts


def padded_vocab(vocab: int, tp: int) -> int:
    """Vocabulary rounded up to shares of equal length; the padding is never chosen."""
    return -(-vocab // tp) * tp


def query_heads(heads: int, tp: int, tp_rank: int) -> tuple[int, int]:
    """First and one past the last query head of a rank."""
    return even_cut(heads, tp, tp_rank)


def kv_heads(heads: int, tp: int, tp_rank: int) -> tuple[int, int]:
    """First and one past the last key-value head of a rank; replicated when ranks are more."""
    if tp <= heads:
        return even_cut(heads, tp, tp_rank)
    head = tp_rank * heads // tp
    return head, head + 1


def tensor_slice(spec: ModelSpec, tensor: Tensor, *, tp: int, tp_rank: int) -> Slice:
    """What rank `tp_rank` of `tp` holds of `tensor`.

    As Megatron-LM cuts: columns (out) first, then rows (in).
    """
    if tp == 1 or tensor.part == "norm":
        return WHOLE
    if tensor.part in ("embed", "head"):
        share = padded_vocab(spec.vocab, tp) // tp
        return Slice(0, min(spec.vocab, share * tp_rank), min(spec.vocab, share * (tp_rank + 1)))
    assert tensor.layer is not None
    attention, dim = spec.layers[tensor.layer].attention, 1 if tensor.part in ROW_PARALLEL else 0
    if tensor.part in ("q", "o"):
        first, last = query_heads(attention.heads, tp, tp_rank)
    elif tensor.part in ("k", "v"):
        first, last = kv_heads(attention.kv_heads, tp, tp_rank)
    else:
        return Slice(dim, *even_cut(tensor.shape[dim], tp, tp_rank))
    return Slice(dim, first * attention.head_dim, last * attention.head_dim)


def stage_tensors(
    spec: ModelSpec, stages: tuple[tuple[int, int], ...], stage: int
) -> Iterator[Tensor]:
    """The tensors that a stage reads; the last stage of a tied model, the embedding as its head."""
    first, last = stages[stage]
    is_last = stage == len(stages) - 1
    for tensor in spec.tensors:
        if tensor.layer is not None:
            wanted = first <= tensor.layer < last
        elif tensor.part == "embed":
            wanted = stage == 0 or (is_last and spec.tied_embeddings)
        else:
            wanted = is_last
        if wanted:
            yield tensor


def shard_elements(
    spec: ModelSpec, stages: tuple[tuple[int, int], ...], *, stage: int, tp: int, tp_rank: int
) -> int:
    """Weight elements that one rank holds."""
    return sum(
        tensor_slice(spec, tensor, tp=tp, tp_rank=tp_rank).elements_of(tensor)
        for tensor in stage_tensors(spec, stages, stage)
    )


def kv_elements_per_token(
    spec: ModelSpec, layers: tuple[int, int], *, tp: int, tp_rank: int
) -> int:
    """Key and value elements that a token leaves on a rank with `layers` (first, one past last)."""
    total = 0
    for layer in spec.layers[layers[0] : layers[1]]:
        first, last = kv_heads(layer.attention.kv_heads, tp, tp_rank)
        total += 2 * (last - first) * layer.attention.head_dim
    return total
