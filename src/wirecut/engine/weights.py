"""Reads from the safetensors files only the slices that a rank holds, and counts the bytes.

    reader = SliceReader(folder, spec, cut, stage=1, tp_rank=0, dtype=dtype, device=device)
    stage = load_stage(reader, cut, stage=1, num_places=4096, tp=tp, progress=progress)
    reader.bytes_read

Asks `layout.shards` which slice that is.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from wirecut.engine.attention import KvCache
from wirecut.engine.comm import Comm
from wirecut.engine.llama import Embedding, Head, LlamaLayer, LlamaStage, rotary_tables
from wirecut.layout.plan import Cut
from wirecut.layout.shards import (
    kv_heads,
    padded_vocab,
    query_heads,
    stage_tensors,
    tensor_slice,
)
from wirecut.machine.kernels import PackedLinear
from wirecut.spec.attention import Attention
from wirecut.spec.checkpoint import read_checkpoint
from wirecut.spec.model import ModelSpec
from wirecut.spec.tensor import Tensor


class SliceReader:
    """This rank's part of a checkpoint, tensor by tensor."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        cut: Cut,
        *,
        stage: int,
        tp_rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.bytes_read = 0
        self.tensors_done = 0
        self.tp, self.tp_rank, self.shares = cut.layout.tp, tp_rank, cut.shares
        self.spec, self.dtype, self.device = spec, dtype, device
        wanted = stage_tensors(spec, cut.stages, stage)
        self._tensors = {(tensor.layer, tensor.name): tensor for tensor in wanted}
        self._where = read_checkpoint(folder)
        self._files = {}

    def __len__(self) -> int:
        return len(self._tensors)

    def layer(self, index: int) -> dict[str, Tensor]:
        """A layer's tensors by their last names, as in "q_proj"."""
        found = (tensor for (layer, _), tensor in self._tensors.items() if layer == index)
        return {tensor.name.split(".")[-2]: tensor for tensor in found}

    def outside(self, name: str) -> torch.Tensor:
        """A tensor that belongs to no layer, by its full name."""
        return self.read(self._tensors[None, name])

    def read(self, *tensors: Tensor) -> torch.Tensor:
        """This rank's slices of `tensors`, stacked along the first dim when there are several."""
        parts = [self._slice(tensor) for tensor in tensors]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _slice(self, tensor: Tensor) -> torch.Tensor:
        facts = self._where.tensors[tensor.name]
        if facts.file not in self._files:
            # Kept open until the stage is loaded: opening parses the header again.
            self._files[facts.file] = safe_open(facts.file, framework="pt", device="cpu")
        stored = self._files[facts.file].get_slice(tensor.name)
        cut = tensor_slice(tensor, tp=self.tp, tp_rank=self.tp_rank, shares=self.shares)
        if cut.dim is None:
            part = stored[:]
        elif cut.dim == 0:
            part = stored[cut.start : cut.stop]
        else:
            part = stored[:, cut.start : cut.stop]
        self.bytes_read += part.nbytes
        self.tensors_done += 1
        return part.to(self.device, self.dtype)


def load_stage(
    reader: SliceReader,
    cut: Cut,
    *,
    stage: int,
    num_places: int,
    tp: Comm,
    progress: Callable[[], None],
) -> LlamaStage:
    """Build one rank's stage; `progress` is called after each layer."""
    spec, first_layer, last_layer = reader.spec, *cut.stages[stage]
    attention = spec.layers[0].mixer
    assert isinstance(attention, Attention)
    at = reader.tp, reader.tp_rank
    q_first, q_last = query_heads(attention.heads, *at, attention.kv_heads, reader.shares)
    kv_first, kv_last = kv_heads(attention.kv_heads, *at, reader.shares)
    layers: list[LlamaLayer] = []
    for index in range(first_layer, last_layer):
        layers.append(_load_layer(reader, reader.layer(index)))
        progress()
    cos_PD, sin_PD = rotary_tables(
        attention.head_dim,
        spec.max_positions,
        spec.rope_theta,
        dtype=reader.dtype,
        device=reader.device,
    )
    return LlamaStage(
        layers=tuple(layers),
        embed=_load_embedding(reader) if stage == 0 else None,
        head=_load_head(reader) if stage == len(cut.stages) - 1 else None,
        kv=KvCache(
            len(layers),
            kv_heads=kv_last - kv_first,
            num_places=num_places,
            head_dim=attention.head_dim,
            dtype=reader.dtype,
            device=reader.device,
        ),
        tp=tp,
        num_heads=q_last - q_first,
        num_kv_heads=kv_last - kv_first,
        head_dim=attention.head_dim,
        eps=spec.norm_eps,
        cos_PD=cos_PD,
        sin_PD=sin_PD,
    )


def _load_layer(reader: SliceReader, named: dict[str, Tensor]) -> LlamaLayer:
    return LlamaLayer(
        attention_norm=reader.read(named["input_layernorm"]),
        qkv=PackedLinear(reader.read(named["q_proj"], named["k_proj"], named["v_proj"])),
        o=PackedLinear(reader.read(named["o_proj"])),
        mlp_norm=reader.read(named["post_attention_layernorm"]),
        gate_up=PackedLinear(reader.read(named["gate_proj"], named["up_proj"])),
        down=PackedLinear(reader.read(named["down_proj"])),
    )


def _load_embedding(reader: SliceReader) -> Embedding:
    share = padded_vocab(reader.spec.vocab, reader.tp) // reader.tp
    return Embedding(reader.outside("model.embed_tokens.weight"), share * reader.tp_rank)


def _load_head(reader: SliceReader) -> Head:
    spec = reader.spec
    name = "model.embed_tokens.weight" if spec.tied_embeddings else "lm_head.weight"
    weight_VE = reader.outside(name)
    share = padded_vocab(spec.vocab, reader.tp) // reader.tp
    padding = weight_VE.new_zeros(share - weight_VE.shape[0], spec.hidden)
    return Head(
        reader.outside("model.norm.weight"),
        PackedLinear(torch.cat([weight_VE, padding])),
        spec.vocab,
    )
