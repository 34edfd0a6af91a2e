"""What each rank holds, and whether it fits, as the runtime accounts for it. Asks `layout.shards`,
the one definition of a shard.

    sizes = RankSizes.of(spec, Layout(tp=2), tp_rank=0, kv="bf16")
    sizes.weight_bytes((0, 4), is_first=True, is_last=False)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from wirecut.cost.engines import EngineProfile
from wirecut.cost.kernels_experts import rank_load
from wirecut.cost.product import Product
from wirecut.cost.terms import Memory
from wirecut.cost.work import LayerWork, layer_work
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import belongs_to, held_bytes, padded_vocab
from wirecut.spec.formats import element_bits
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES, GIB, MIB

LOGIT_BYTES = 4  # logits are sampled in fp32
HIDDEN_BUFFERS = 4  # residual, its norm, a layer's output, and what arrives from the other ranks
WIDE_BUFFERS = 3  # gate, up and their product
STATE_BYTES = 4  # recurrent states are kept in fp32


@dataclass(frozen=True)
class RankSizes:
    """What one rank of a TP group holds, layer by layer, and outside the layers. Bytes.

    `linears`, `weights` and `kv` (of one token, no window considered) are running sums: entry i is
    the sum before layer i.
    """

    spec: ModelSpec
    layout: Layout
    tp_rank: int
    shares: tuple[int, ...]
    works: tuple[LayerWork, ...]
    linears: tuple[float, ...]
    weights: tuple[float, ...]
    kv: tuple[float, ...]
    head: Product
    kv_size: float

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        layout: Layout,
        *,
        tp_rank: int,
        kv: str,
        shares: tuple[int, ...] = (),
    ) -> "RankSizes":
        """Sizes of rank `tp_rank` of the first replica. Layers of the same kind are asked for
        once.
        """
        firsts = spec.first_alike
        known = {i: layer_work(spec, spec.layers[i], layout, tp_rank, shares) for i in set(firsts)}
        works = tuple(known[i] for i in firsts)
        size = element_bits(kv) / 8
        rows = padded_vocab(spec.vocab, layout.tp) // layout.tp
        table = spec.outside_tensors[0]
        stored = next((t for t in spec.outside_tensors if t.part == "head"), table)
        head = Product(
            "LM head",
            rows,
            spec.hidden,
            stored.format or spec.dtype,
            rows * spec.hidden * stored.element_bytes(spec.dtype),
        )
        return cls(
            spec=spec,
            layout=layout,
            tp_rank=tp_rank,
            shares=shares,
            works=works,
            linears=_sums(work.linear_bytes for work in works),
            weights=_sums(work.weight_bytes for work in works),
            kv=_sums(work.kv_elements * size for work in works),
            head=head,
            kv_size=size,
        )

    def weight_bytes(self, layers: tuple[int, int], *, is_first: bool, is_last: bool) -> float:
        """Weights of one rank of a stage; equal to `layout.shards.rank_bytes`."""
        ends = [
            tensor
            for tensor in self.spec.outside_tensors
            if belongs_to(tensor, self.spec, is_first=is_first, is_last=is_last)
        ]
        own = held_bytes(
            ends, self.layout, dtype=self.spec.dtype, tp_rank=self.tp_rank, shares=self.shares
        )
        return self.weights[layers[1]] - self.weights[layers[0]] + own

    def request_bytes(self, layers: tuple[int, int], tokens: int) -> float:
        """Cache of one request of `tokens` tokens in these layers: windows keep fewer, recurrent
        layers a state.
        """
        sums = self._requests.get(tokens)
        if sums is None:
            sums = self._requests[tokens] = _sums(self._kept(work, tokens) for work in self.works)
        return sums[layers[1]] - sums[layers[0]]

    def _kept(self, work: LayerWork, tokens: int) -> float:
        if work.mixer is None:
            return 0.0
        kept = work.mixer.cached_tokens(tokens) * work.kv_elements
        return kept * self.kv_size + work.state_elements * STATE_BYTES

    @cached_property
    def _requests(self) -> dict[int, tuple[float, ...]]:
        """Running sums of a request's cache by its tokens: every cut asks for the same."""
        return {}


def _sums(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(accumulate(values, initial=0.0))


def activation_bytes(sizes: RankSizes, *, limits: Limits, dtype: str) -> int:
    """Buffers of a step that is full to the token budget, on the last stage's ranks.

    tokens x (4 hidden + heads and keys and values + 3 widest intermediate share) x dtype +
    sequences x vocabulary x 4 bytes.
    """
    spec, layout, row = sizes.spec, sizes.layout, 0.0
    for work in {id(work): work for work in sizes.works}.values():
        around = max((p.n for p in work.products if p.name == "qkv"), default=0)
        wide = max((p.n for p in work.products if p.name == "gate_up"), default=0) * 1.5
        if work.routed:
            routed = work.routed
            here = routed.top_k * routed.here / routed.experts
            if layout.ep > 1:  # tokens of all replicas come to the busiest rank's experts
                here *= layout.dp * rank_load(routed.experts, routed.here)
            wide += here * (WIDE_BUFFERS * routed.intermediate + routed.hidden)
        row = max(row, HIDDEN_BUFFERS * spec.hidden + around + wide)
    logits = min(limits.max_seqs, limits.max_batched_tokens) * padded_vocab(spec.vocab, layout.tp)
    return round(limits.max_batched_tokens * row * DTYPE_BYTES[dtype] + logits * LOGIT_BYTES)


@fact
class _Held:
    """One rank before any request runs; bytes. `room` is what is left for the cache."""

    rank: int
    weights: float
    capacity: float
    room: float
    request: float


def worst_memory(
    cut: Cut,
    *,
    sizes: Sequence[RankSizes],
    capacities: Sequence[Sequence[int]],
    limits: Limits,
    dtype: str,
    engine: EngineProfile,
    tokens: int,
) -> Memory:
    """The rank with the least room for requests of `tokens` tokens, before any runs (`kv_bytes` 0).

    `sizes` is per TP rank that differs, `capacities` by stage and by those the memory of the
    smallest device.
    """
    layout, room = cut.layout, engine.room
    activations = max(activation_bytes(one, limits=limits, dtype=dtype) for one in sizes)
    buffers = room.runtime_bytes + (room.group_bytes if layout.tp > 1 else 0)
    ranks: list[_Held] = []
    for stage, layers in enumerate(cut.stages):
        for own, device in zip(sizes, capacities[stage], strict=True):
            weights = own.weight_bytes(layers, is_first=stage == 0, is_last=stage == layout.pp - 1)
            fixed = weights + activations + buffers
            capacity = device * room.share
            if room.of_rest:
                capacity = fixed + max(0.0, device - fixed) * room.share
                capacity = capacity if fixed <= device else float(device)
            rank = layout.rank(pp=stage, tp=own.tp_rank)
            request = own.request_bytes(layers, tokens)
            ranks.append(_Held(rank, weights, capacity, capacity - fixed, request))
    worst = min(ranks, key=lambda one: one.room / max(1.0, one.request))
    fits = worst.room / max(1.0, worst.request)
    idle = sum(max(0.0, one.room - fits * one.request) for one in ranks) if fits > 0 else 0.0
    return Memory(
        weights_bytes=round(worst.weights),
        kv_bytes=0,
        activation_bytes=activations,
        capacity_bytes=round(worst.capacity),
        kv_tokens=int(fits * tokens),
        buffer_bytes=buffers,
        rank=worst.rank,
        wasted_bytes=round(idle),
    )


def why_no_room(
    memory: Memory, request_tokens: int, kv_token_bytes: float, engine: EngineProfile
) -> str | None:
    """Why a rank's memory does not do, with the numbers, or None when it does."""
    buffers = f" + buffers {_show(memory.buffer_bytes)}" if memory.buffer_bytes else ""
    share = f"{engine.room.share * 100:g}% of " + (
        "what is left of " if engine.room.of_rest else ""
    )
    held = (
        f"weights {_show(memory.weights_bytes)} + activations {_show(memory.activation_bytes)}"
        f"{buffers} of {_show(memory.capacity_bytes)} usable ({share}the device)"
    )
    needed = memory.weights_bytes + memory.activation_bytes + memory.buffer_bytes
    if needed > memory.capacity_bytes:
        return f"needs {_show(needed)} on one device, {_show(memory.capacity_bytes)} usable: {held}"
    if memory.kv_tokens < request_tokens:
        needed += round(request_tokens * kv_token_bytes)
        return (
            f"KV room for {memory.kv_tokens} tokens, one request has {request_tokens}: "
            f"needs {_show(needed)} on one device; {held}"
        )
    return None


def _show(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
