"""Where a checkpoint stores the tensors of a spec: under their own names, or within fused ones.

    places = Places(spec, found.tensors)
    place = places.of(tensor, expert=3)      # Place("...experts.gate_up_proj", (64, 96, 32), 3)
    place.region(tensor, dim=0, start=16, stop=32)      # what to read of the stored tensor

Known are q, k and v in one (Phi-3), gate and up in one (Phi-3), experts stacked along a first dim,
and gpt-oss's stacks, which have inputs before outputs and gate and up in turn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wirecut.spec.feedforward import Moe
from wirecut.spec.model import ModelSpec
from wirecut.spec.tensor import Tensor

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# What models that see were called before transformers 4.52, and are called since.
OLD_PREFIX, NEW_PREFIX = "language_model.model.", "model.language_model."


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
            if i == 0:  # parts are fused along the outputs
                first, last = self.start + first * self.step, self.start + last * self.step
            along.append(slice(first, last, self.step if i == 0 else 1))
        if self.turned:
            along.reverse()
        return tuple(along) if self.expert is None else (self.expert, *along)


class Places:
    """Finds the tensors of `spec` among the stored names."""

    def __init__(self, spec: ModelSpec, stored: Mapping[str, object]) -> None:
        self._stored = stored
        self._spec = spec
        self._sizes = {tensor.name: tensor.shape[0] for tensor in spec.tensors}

    def of(self, tensor: Tensor, expert: int | None = None) -> Place | None:
        """Where a tensor, or one of its experts, is; None: nowhere."""
        for place in self._candidates(tensor, expert):
            if place.name in self._stored:
                return place
        return None

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
                sizes = [self._sizes[f"{owner}.{part}.{kind}"] for part in parts]
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
        elif self._is_turned(tensor):
            stack = _stack(owner, fused, kind)
            shape = (tensor.experts, *reversed(shape))
            yield Place(stack, shape, expert, start=part, step=len(sizes), turned=True)
        else:
            stack = _stack(owner, fused, kind)
            yield Place(stack, (tensor.experts, *shape), expert, start=start)

    def _stacked(self, tensor: Tensor, expert: int, at: tuple[str, str, str]) -> Iterator[Place]:
        turned = self._is_turned(tensor)
        shape = tuple(reversed(tensor.shape)) if turned else tensor.shape
        yield Place(_stack(*at), (tensor.experts, *shape), expert, turned=turned)

    def _is_turned(self, tensor: Tensor) -> bool:
        assert tensor.layer is not None
        moe = self._spec.layers[tensor.layer].mlp
        return isinstance(moe, Moe) and moe.turned


def _stack(owner: str, leaf: str, kind: str) -> str:
    """The name of a stack: its weight is called like the module, its bias "_bias" behind that."""
    name = f"{owner.removesuffix('.{expert}')}.{leaf}"
    return name if kind == "weight" else f"{name}_{kind}"
