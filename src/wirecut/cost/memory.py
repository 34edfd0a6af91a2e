"""What each rank holds, in elements and bytes, and whether it fits. Asks `layout.shards`, the one
definition of a shard.

    sizes = RankSizes.of(spec, tp=2, tp_rank=0)
    sizes.stage_elements((0, 4), is_first=True, is_last=False)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from wirecut.cost.terms import Memory
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import head_share, held_units, padded_vocab, tensor_slice
from wirecut.spec.attention import Attention
from wirecut.spec.feedforward import Mlp
from wirecut.spec.model import Layer, ModelSpec
from wirecut.spec.tensor import Tensor
from wirecut.units import DTYPE_BYTES, GIB, MIB

# The rest is the runtime's own: code, libraries, message buffers, allocator slack. vLLM and SGLang
# default to 0.9 too.
USABLE_MEMORY = 0.9
LOGIT_BYTES = 4  # logits are sampled in fp32
HIDDEN_BUFFERS = 4  # residual, its norm, a layer's output, and what arrives from the other ranks
WIDE_BUFFERS = 3  # gate, up and their product


@dataclass(frozen=True, slots=True)
class RankSizes:
    """Elements that one rank of a TP group holds, layer by layer as running sums, and outside the
    layers.

    `linears` counts what matrix products stream, `weights` all, `kv` keys and values of a token,
    `width` query heads times head_dim. Entry i is the sum before layer i.
    """

    linears: tuple[int, ...]
    weights: tuple[int, ...]
    kv: tuple[int, ...]
    width: tuple[int, ...]
    embed: int
    head: int
    final_norm: int
    tied: bool

    @classmethod
    def of(cls, spec: ModelSpec, *, tp: int, tp_rank: int) -> "RankSizes":
        """Sizes of rank `tp_rank` of `tp`. Layers of the same shape are asked for once."""

        def held(tensors: Sequence[Tensor]) -> int:
            return sum(
                tensor_slice(tensor, tp=tp, tp_rank=tp_rank).elements_of(tensor)
                for tensor in tensors
            )

        by_layer: dict[int, list[Tensor]] = {}
        outside: dict[str, list[Tensor]] = {"embed": [], "head": [], "norm": []}
        for tensor in spec.tensors:
            if tensor.layer is None:
                outside[tensor.part].append(tensor)
            else:
                by_layer.setdefault(tensor.layer, []).append(tensor)
        known: dict[Layer, tuple[int, int, int, int]] = {}
        for i, layer in enumerate(spec.layers):
            if layer not in known:
                norms = held([tensor for tensor in by_layer[i] if tensor.part == "norm"])
                weights = held(by_layer[i])
                known[layer] = (weights - norms, weights, *_heads(layer, tp, tp_rank))
        columns = [known[layer] for layer in spec.layers]
        linears, weights, kv, width = (
            tuple(accumulate((row[n] for row in columns), initial=0)) for n in range(4)
        )
        embed = held(outside["embed"])
        head = embed if spec.tied_embeddings else held(outside["head"])
        tied, final_norm = spec.tied_embeddings, held(outside["norm"])
        return cls(linears, weights, kv, width, embed, head, final_norm, tied)

    def stage_elements(self, layers: tuple[int, int], *, is_first: bool, is_last: bool) -> int:
        """Weight elements of one rank of a stage; equal to `layout.shards.shard_elements`."""
        total = self.weights[layers[1]] - self.weights[layers[0]]
        total += self.embed if is_first else 0
        if is_last:
            total += self.final_norm + (0 if self.tied and is_first else self.head)
        return total


def _heads(layer: Layer, tp: int, tp_rank: int) -> tuple[int, int]:
    """Key and value elements a token leaves in this layer, and query heads x head_dim, on one
    rank.
    """
    mixer = layer.mixer
    if mixer is None:
        return 0, 0
    width = mixer.pair_flops(decode=True) * head_share(layer, tp, tp_rank) / 4
    return held_units(mixer.kv, tp, tp_rank), round(width)


def activation_bytes(spec: ModelSpec, layout: Layout, *, limits: Limits, dtype: str) -> int:
    """Buffers of a step that is full to the token budget, on the last stage's ranks.

    tokens x (4 hidden + heads and keys and values + 3 intermediate share) x dtype + sequences x
    vocabulary x 4 bytes.
    """
    tp = layout.tp
    layer = max(spec.kinds, key=lambda one: one.mlp.intermediate if one.mlp else 0)
    assert isinstance(layer.mixer, Attention)
    assert isinstance(layer.mlp, Mlp)
    attention = layer.mixer
    heads = -(-attention.heads // tp) + 2 * -(-attention.kv_heads // tp)
    wide = WIDE_BUFFERS * -(-layer.mlp.intermediate // tp)
    row = HIDDEN_BUFFERS * spec.hidden + heads * attention.head_dim + wide
    logits = min(limits.max_seqs, limits.max_batched_tokens) * padded_vocab(spec.vocab, tp)
    return limits.max_batched_tokens * row * DTYPE_BYTES[dtype] + logits * LOGIT_BYTES


def worst_memory(
    spec: ModelSpec,
    cut: Cut,
    *,
    sizes: Sequence[RankSizes],
    capacities: Sequence[int],
    limits: Limits,
    dtype: str,
) -> Memory:
    """The rank with the least room for KV, before any request runs (`kv_bytes` 0).

    `sizes` is per TP rank, `capacities` the devices' memory by stage: the smallest among the
    stage's devices.
    """
    size, last = DTYPE_BYTES[dtype], cut.layout.pp - 1
    activations = activation_bytes(spec, cut.layout, limits=limits, dtype=dtype)
    worst: Memory | None = None
    for stage, layers in enumerate(cut.stages):
        capacity = int(capacities[stage] * USABLE_MEMORY)
        for rank in sizes:
            held = rank.stage_elements(layers, is_first=stage == 0, is_last=stage == last)
            weights, per_token = held * size, (rank.kv[layers[1]] - rank.kv[layers[0]]) * size
            room = (capacity - weights - activations) // per_token
            if worst is None or room < worst.kv_tokens:
                worst = Memory(weights, 0, activations, capacity, room)
    assert worst is not None
    return worst


def kv_bytes_per_token(cut: Cut, sizes: Sequence[RankSizes], dtype: str) -> int:
    """Bytes that one token leaves on the rank that keeps most of it."""
    most = max(rank.kv[last] - rank.kv[first] for rank in sizes for first, last in cut.stages)
    return most * DTYPE_BYTES[dtype]


def why_no_room(memory: Memory, request_tokens: int, kv_token_bytes: int) -> str | None:
    """Why a rank's memory does not do, with the numbers, or None when it does."""
    held = (
        f"weights {_show(memory.weights_bytes)} + activations {_show(memory.activation_bytes)}"
        f" of {_show(memory.capacity_bytes)} usable ({USABLE_MEMORY:.0%} of the device)"
    )
    needed = memory.weights_bytes + memory.activation_bytes
    if needed > memory.capacity_bytes:
        return f"needs {_show(needed)} on one device, {_show(memory.capacity_bytes)} usable: {held}"
    if memory.kv_tokens < request_tokens:
        needed += request_tokens * kv_token_bytes
        return (
            f"KV room for {memory.kv_tokens} tokens, one request has {request_tokens}: "
            f"needs {_show(needed)} on one device; {held}"
        )
    return None


def _show(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
