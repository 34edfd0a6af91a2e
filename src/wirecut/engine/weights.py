"""Reads from the safetensors files only the slices that a rank holds, and counts the bytes.

    reader = SliceReader(folder, spec, cut, rank=3, dtype=dtype, device=device)
    weight = reader.read(reader.layer(0)["self_attn.o_proj.weight"])
    reader.bytes_read

Asks `layout.shards` which slice that is, `spec.stored` where it lies.
"""

from pathlib import Path

import torch
from safetensors import safe_open

from wirecut.errors import ModelError
from wirecut.layout.plan import Cut
from wirecut.layout.shards import Slice, stage_tensors, tensor_slice
from wirecut.spec.checkpoint import read_checkpoint
from wirecut.spec.model import ModelSpec
from wirecut.spec.stored import Places
from wirecut.spec.tensor import Tensor


class SliceReader:
    """One rank's part of a checkpoint, tensor by tensor."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        cut: Cut,
        *,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.bytes_read = 0
        self.tensors_done = 0
        self.spec, self.layout, self.at = spec, cut.layout, cut.layout.coord(rank)
        self.shares, self.dtype, self.device = cut.shares, dtype, device
        self._layers: dict[int | None, dict[str, Tensor]] = {}
        for tensor in stage_tensors(spec, cut.stages, self.at["pp"]):
            within = f"{spec.prefix}layers.{tensor.layer}."
            self._layers.setdefault(tensor.layer, {})[tensor.name.removeprefix(within)] = tensor
        self._stored = read_checkpoint(folder).tensors
        self._places = Places(spec, self._stored)
        self._files = {}

    def __len__(self) -> int:
        return sum(len(tensors) for tensors in self._layers.values())

    def layer(self, index: int) -> dict[str, Tensor]:
        """A layer's tensors by their names within it, as in "self_attn.q_proj.weight"."""
        return self._layers[index]

    @property
    def outside(self) -> dict[str, Tensor]:
        """The tensors that belong to no layer, by their full names."""
        return self._layers[None]

    def slice_of(self, tensor: Tensor) -> Slice:
        """What this rank holds of a tensor."""
        layout, at = self.layout, self.at
        return tensor_slice(
            tensor,
            tp=layout.tp,
            tp_rank=at["tp"],
            dp=layout.dp,
            dp_rank=at["dp"],
            ep=layout.ep,
            shares=self.shares,
        )

    def read(
        self, *tensors: Tensor, expert: int | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """This rank's slices of `tensors` (of one expert), stacked along the first dim when there
        are several; in `dtype`, else the engine's.
        """
        parts = [
            self._read(tensor, expert).to(self.device, dtype or self.dtype) for tensor in tensors
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read(self, tensor: Tensor, expert: int | None) -> torch.Tensor:
        place = self._places.of(tensor, expert)
        if place is None:
            raise ModelError(f"{tensor.name} is not in the checkpoint")
        file = self._stored[place.name].file
        if file not in self._files:
            # Kept open until the stage is loaded: opening parses the header again.
            self._files[file] = safe_open(file, framework="pt", device="cpu")
        cut = self.slice_of(tensor)
        region = place.region(tensor, dim=cut.dim, start=cut.start, stop=cut.stop)
        part = self._files[file].get_slice(place.name)[region]
        self.bytes_read += part.nbytes
        self.tensors_done += expert in (None, cut.first_expert)
        return part.t() if place.turned and part.dim() == 2 else part
