"""Where a checkpoint stores the tensors of a spec: under their own names, or within fused ones.

    places = Places(spec, found.tensors)
    place = places.of(tensor, expert=3)      # Place("...experts.gate_up_proj", (64, 96, 32), 3)
    place.region(tensor, dim=0, start=16, stop=32)      # what to read of the stored tensor
    places.packed(quantised, expert=3).places["blocks"]         # of a linear's parts, where each is

Known are q, k and v in one (Phi-3), gate and up in one (Phi-3), experts stacked along a first dim,
and gpt-oss's stacks, which have gate and up in turn and, but for MXFP4, inputs before outputs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from wirecut.spec.feedforward import Moe
from wirecut.spec.model import ModelSpec
from wirecut.spec.packing import Packing, Part, packings
from wirecut.spec.tensor import Tensor

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# What models that see were called before transformers 4.52, and are called since.
OLD_PREFIX, NEW_PREFIX = "language_model.model.", "model.language_model."
PLAIN = ("weight", "bias")  # the rest are parts of quantised weights


class Stored(Protocol):
    """What is known of a stored tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor within a stored one of `shape`: of `expert` when those are stacked, there from row
    `start` on, every `step`-th. `turned`: the stored one has inputs before outputs.
    """

    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    start: int = 0
    step: int = 1
    turned: bool = False

    def region(
        self, tensor: Tensor, *, dim: int | None = None, start: int = 0, stop: int = 0
    ) -> tuple[int | slice, ...]:
        """What to read of the stored tensor for elements `start` to `stop` of the tensor's `dim`
        (None: all); turn the result when the place is turned.
        """
        along: list[int | slice] = []
        for i, length in enumerate(tensor.shape):
            first, last = (start, stop) if i == dim else (0, length)
            if i == 0:
                first, last = self.rows(first, last)
            along.append(slice(first, last, self.step if i == 0 else 1))
        if self.turned:
            along.reverse()
        return tuple(along) if self.expert is None else (self.expert, *along)

    def rows(self, first: int, last: int) -> tuple[int, int]:
        """The outputs of the stored tensor, every `step`-th of which are outputs `first` to `last`:
        tensors are fused along them.
        """
        return self.start + first * self.step, self.start + last * self.step


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised linear: how it is packed, and by part where it is, alike but for names and
    shapes; an optional part may be nowhere.
    """

    packing: Packing
    places: Mapping[str, Place]

    @property
    def first(self) -> Place:
        """Where the part is that is always there."""
        return self.places[self.packing.parts[0].name]

    def region(
        self, part: Part, rows: tuple[int, int], inputs: tuple[int, int]
    ) -> tuple[int | slice, ...]:
        """What to read of a part for these outputs of the stored tensors, and these inputs."""
        along = part.region(rows, inputs, self.first.step)
        return along if self.first.expert is None else (self.first.expert, *along)


class Places:
    """Finds the tensors of `spec`, which is as the checkpoint has it, among the stored ones."""

    def __init__(self, spec: ModelSpec, stored: Mapping[str, Stored]) -> None:
        self._stored = stored
        self._spec = spec
        self._outputs = {tensor.name.rpartition(".")[0]: tensor.shape[0] for tensor in spec.tensors}

    def of(self, tensor: Tensor, expert: int | None = None) -> Place | None:
        """Where a tensor, or one of its experts, is; None: nowhere."""
        for place in self._candidates(tensor, expert):
            if place.name in self._stored:
                return place
        return None

    def packed(self, tensor: Tensor, expert: int | None = None) -> Packed | None:
        """Where the parts of a quantised linear are, of the packings that its method has and whose
        parts are there those whose shapes agree; None: of none they are.
        """
        found = [
            Packed(one, places)
            for one in packings(self._spec.weights.method, tensor.format)
            for places in [self._parts(one, tensor, expert)]
            if all(part.optional or part.name in places for part in one.parts)
        ]
        return next(filter(self._agrees, found), found[0] if found else None)

    def part(self, part: Part, tensor: Tensor, expert: int | None = None) -> Place | None:
        """Where a part of a quantised linear is; None: nowhere. The place's shape is the weight's
        that the part is of.
        """
        module = tensor.name.removesuffix(".weight")
        return self.of(replace(tensor, name=f"{module}.{part.name}"), expert)

    def _parts(self, packing: Packing, tensor: Tensor, expert: int | None) -> dict[str, Place]:
        places = ((part.name, self.part(part, tensor, expert)) for part in packing.parts)
        return {name: place for name, place in places if place}

    def _agrees(self, packed: Packed) -> bool:
        parts = ((part, packed.places.get(part.name)) for part in packed.packing.parts)
        return all(
            place is None or part.holds(self._stored[place.name].shape, place.shape)
            for part, place in parts
        )

    def all(self) -> Iterator[tuple[Tensor, int | None]]:
        """Every tensor that the checkpoint has to hold, experts one by one."""
        for tensor in self._spec.tensors:
            for expert in range(tensor.experts) if tensor.experts else (None,):
                yield tensor, expert

    def _candidates(self, tensor: Tensor, expert: int | None) -> Iterator[Place]:
        name = tensor.name if expert is None else tensor.name.format(expert=expert)
        yield Place(name, tensor.shape)
        if name.startswith(NEW_PREFIX):
            yield Place(name.replace(NEW_PREFIX, OLD_PREFIX, 1), tensor.shape)
        if name.startswith("lm_head.") and self._spec.prefix == NEW_PREFIX:
            yield Place(f"language_model.{name}", tensor.shape)
        module, _, kind = tensor.name.rpartition(".")
        owner, _, leaf = module.rpartition(".")
        for fused, parts in FUSED.items():
            if leaf in parts:
                sizes = [self._outputs[f"{owner}.{part}"] for part in parts]
                yield from self._fused(
                    tensor, expert, (owner, fused, kind), sizes, parts.index(leaf)
                )
        if expert is not None:
            yield from self._stacked(tensor, expert, (owner, leaf, kind))

    def _fused(
        self,
        tensor: Tensor,
        expert: int | None,
        at: tuple[str, str, str],
        sizes: list[int],
        part: int,
    ) -> Iterator[Place]:
        owner, fused, kind = at
        shape, start = (sum(sizes), *tensor.shape[1:]), sum(sizes[:part])
        if expert is None:
            yield Place(f"{owner}.{fused}.{kind}", shape, start=start)
            return
        start, step = (part, len(sizes)) if self._has_turns(tensor) else (start, 1)
        for place in self._stacked(replace(tensor, shape=shape), expert, at):
            yield replace(place, start=start, step=step)

    def _stacked(self, tensor: Tensor, expert: int, at: tuple[str, str, str]) -> Iterator[Place]:
        turned = self._has_turns(tensor) and at[2] in PLAIN
        shape = tuple(reversed(tensor.shape)) if turned else tensor.shape
        yield Place(_stack(*at), (tensor.experts, *shape), expert, turned=turned)

    def _has_turns(self, tensor: Tensor) -> bool:
        assert tensor.layer is not None
        moe = self._spec.layers[tensor.layer].mlp
        return isinstance(moe, Moe) and moe.turned


def _stack(owner: str, leaf: str, kind: str) -> str:
    """The name of a stack: its weight is called like the module, its bias "_bias" behind that, and
    so are parts of a quantised weight.
    """
    name = f"{owner.removesuffix('.{expert}')}.{leaf}"
    return name if kind == "weight" else f"{name}_{kind}"
