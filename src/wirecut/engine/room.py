"""Whether the memory that ranks will hold is there, asked before any of them takes it.

    takes = [held_by(task, spec, rank) for rank in ranks]
    check_room(takes, free_bytes, where="this host", kv_tokens=4096)     # raises RankFailed

A plan knows what a device has, not what others use of it meanwhile. Counted are weights and the
cache, which are nearly all; not activations, the memory that ranks share, and what unpacking takes
in passing. Ranks that one process starts on a host ask together; where several such processes, or
ranks with one GPU each in common, start at once, each asks for itself and may find the same memory.
Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wirecut.engine.messages import Task
from wirecut.errors import RankFailed
from wirecut.layout.shards import held_bytes, held_units, rank_bytes
from wirecut.spec.held import as_held
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES, show_bytes


@dataclass(frozen=True, slots=True)
class Takes:
    """Bytes of memory that a rank holds for as long as it runs."""

    rank: int
    weights: int
    cache: int


def held_by(task: Task, spec: ModelSpec, rank: int) -> Takes:
    """What a rank of this task holds: its slices of the model, and a cache of whole blocks."""
    layout, at, shares = task.cut.layout, task.cut.layout.coord(rank), task.cut.shares
    on_cpu = task.devices[rank] == "cpu"
    held = as_held(spec, dtype=task.dtype, on_cpus=on_cpu, weights=task.weights)
    its = {"tp_rank": at["tp"], "dp_rank": at["dp"], "dtype": task.dtype, "shares": shares}
    weights = rank_bytes(held, task.cut.stages, layout, stage=at["pp"], **its)
    if spec.tied_embeddings and layout.pp == 1:  # a head is packed, an embedding is not
        embedding = (tensor for tensor in held.outside_tensors if tensor.part == "embed")
        weights += round(held_bytes(embedding, layout, **its))
    layers = spec.layers[slice(*task.cut.stages[at["pp"]])]
    elements = sum(
        held_units(layer.mixer.kv, layout.tp, at["tp"], shares) for layer in layers if layer.mixer
    )
    places = task.limits.kv_tokens // task.block_tokens * task.block_tokens
    places += 0 if on_cpu else task.block_tokens  # the spare block of recorded steps
    return Takes(rank, weights, elements * places * DTYPE_BYTES[task.dtype])


def check_room(takes: Sequence[Takes], free_bytes: int, *, where: str, kv_tokens: int) -> None:
    """Raise RankFailed when the ranks that share this memory do not fit into what is free of it."""
    weights, cache = sum(one.weights for one in takes), sum(one.cache for one in takes)
    if weights + cache <= free_bytes:
        return
    ranks = ", ".join(str(one.rank) for one in takes)
    raise RankFailed(
        f"{where} has {show_bytes(free_bytes)} of memory free, rank {ranks} "
        f"{'needs' if len(takes) == 1 else 'need'} {show_bytes(weights + cache)}: weights "
        f"{show_bytes(weights)}, KV room for {kv_tokens:,} tokens {show_bytes(cache)}. End what "
        "else runs there, serve fewer or shorter requests at once, or take more devices"
    )
