"""Reads from the safetensors files only the slices that a rank holds, and counts the bytes.

    reader = SliceReader(folder, spec, cut, rank=3, dtype=dtype, device=device)
    weight = reader.read(reader.layer(0)["self_attn.o_proj.weight"])
    reader.bytes_read

Asks `layout.shards` which slice that is, `spec.stored` where it lies.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wirecut.engine.quantized import read_coded
from wirecut.errors import ModelError
from wirecut.layout.plan import Cut
from wirecut.layout.shards import Slice, stage_tensors, tensor_slice
from wirecut.machine.coded import Coded, stacked
from wirecut.machine.kernels import Linear, PackedLinear
from wirecut.machine.quantized import coded_linear
from wirecut.spec.checkpoint import read_checkpoint
from wirecut.spec.dtypes import FLOATS
from wirecut.spec.held import as_held
from wirecut.spec.model import ModelSpec
from wirecut.spec.stored import Places
from wirecut.spec.tensor import Tensor

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


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
        weights: str = "",
    ) -> None:
        """`spec` is the checkpoint's, `weights` what its linears are asked to be held in, "" as
        stored where there is a kernel for it.
        """
        self.bytes_read = self.bytes_held = self.tensors_done = 0
        self._formats = {tensor.name: tensor.format for tensor in spec.tensors if tensor.format}
        self._stored = read_checkpoint(folder).tensors
        self._places = Places(spec, self._stored)
        on_cpu = device.type == "cpu"
        spec = as_held(spec, dtype=DTYPES[dtype], on_cpus=on_cpu, weights=weights)
        self.spec, self.layout, self.at = spec, cut.layout, cut.layout.coord(rank)
        self.shares, self.dtype, self.device = cut.shares, dtype, device
        self._layers: dict[int | None, dict[str, Tensor]] = {}
        for tensor in stage_tensors(spec, cut.stages, self.at["pp"]):
            within = f"{spec.prefix}layers.{tensor.layer}."
            self._layers.setdefault(tensor.layer, {})[tensor.name.removeprefix(within)] = tensor
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
        parts: list[torch.Tensor] = []
        for tensor in tensors:
            coded = self._coded(tensor, expert)
            part = self._read(tensor, expert) if coded is None else coded.weight(self.dtype)
            parts.append(part.to(self.device, dtype or self.dtype))
        read = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.bytes_held += read.nbytes
        return read

    def linear(
        self, *tensors: Tensor, expert: int | None = None, bias: torch.Tensor | None = None
    ) -> Linear:
        """The product with this rank's slices of `tensors` (of one expert), one above the other."""
        coded = [self._coded(tensor, expert) for tensor in tensors]
        together = stacked([one for one in coded if one])
        if None in coded or together is None:
            parts = [
                (self._read(tensor, expert) if one is None else one.weight(self.dtype)).to(
                    self.device, self.dtype
                )
                for one, tensor in zip(coded, tensors, strict=True)
            ]
            product = PackedLinear(parts[0] if len(parts) == 1 else torch.cat(parts), bias)
        else:
            keep = tensors[0].format not in FLOATS
            product = coded_linear(together.to(self.device), self.dtype, bias, keep=keep)
        self.bytes_held += product.num_bytes
        return product

    def _coded(self, tensor: Tensor, expert: int | None) -> Coded | None:
        """This rank's codes of a tensor that is stored as such."""
        format = self._formats.get(tensor.name)
        if format is None:
            return None
        packed = self._places.packed(replace(tensor, format=format), expert)
        if packed is None:
            raise ModelError(f"{tensor.name} is not in the checkpoint")
        cut, (outs, ins) = self.slice_of(tensor), tensor.shape
        mine = cut.start, cut.stop
        outputs, inputs = mine if cut.dim == 0 else (0, outs), mine if cut.dim == 1 else (0, ins)
        coded = read_coded(packed, self._entries, outputs, inputs)
        self.tensors_done += expert in (None, cut.first_expert)
        return coded

    def _entries(self, name: str, region: tuple[int | slice, ...]) -> torch.Tensor:
        """Entries of a stored tensor, all of one that has a single one."""
        single = math.prod(self._stored[name].shape) == 1
        found = self._slices(name)[... if single else region]
        self.bytes_read += found.nbytes
        return found

    def _slices(self, name: str) -> Any:
        file = self._stored[name].file
        if file not in self._files:
            # Kept open until the stage is loaded: opening parses the header again.
            self._files[file] = safe_open(file, framework="pt", device="cpu")
        return self._files[file].get_slice(name)

    def _read(self, tensor: Tensor, expert: int | None) -> torch.Tensor:
        place = self._places.of(tensor, expert)
        if place is None:
            raise ModelError(f"{tensor.name} is not in the checkpoint")
        cut = self.slice_of(tensor)
        region = place.region(tensor, dim=cut.dim, start=cut.start, stop=cut.stop)
        part = self._slices(place.name)[region]
        self.bytes_read += part.nbytes
        self.tensors_done += expert in (None, cut.first_expert)
        return part.t() if place.turned and part.dim() == 2 else part
