"""Rotary position embedding: its base and scaling from a configuration, and its tables.

    rope = read_rope(Fields(config, "config.json"))
    cos_PD, sin_PD = rope.tables(128, positions=4096, dtype=torch.float32, device=device)
    turned_THD = kernels.rotate(x_THD, cos_PD[positions_T], sin_PD[positions_T])

Shapes: T tokens, H heads, D dims that turn, P positions. Row p of a table depends on p alone, so
that chunks, other requests and a prefix that is kept change nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from wirecut.spec.fields import Fields
from wirecut.spec.hf import rope_fields, rope_kind


class Scaling(Protocol):
    """How the frequencies differ from those that a model was first trained with."""

    def frequencies(self, theta: float, dim: int, positions: int) -> torch.Tensor:
        """(D/2,), or (P, D/2) where they differ by position."""
        ...

    @property
    def magnitude(self) -> float:
        """What cosine and sine are multiplied by."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """No scaling, or with a `factor` positions interpolated evenly (kind "linear")."""

    factor: float = 1.0
    magnitude: float = 1.0

    def frequencies(self, theta: float, dim: int, positions: int) -> torch.Tensor:
        return _inverse(theta, dim) / self.factor


@dataclass(frozen=True, slots=True)
class Llama3:
    """Llama 3.1: wavelengths beyond `original / low` are stretched by `factor`, those within
    `original / high` are kept, those between in proportion.
    """

    factor: float
    low: float
    high: float
    original: int
    magnitude: float = 1.0

    def frequencies(self, theta: float, dim: int, positions: int) -> torch.Tensor:
        plain = _inverse(theta, dim)
        turns = self.original * plain / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN (Peng et al. 2023, section 3): dims that turn more than `fast` times within `original`
    positions are kept, those that turn less than `slow` times stretched by `factor`.
    """

    factor: float
    original: int
    fast: float
    slow: float
    whole_dims: bool
    magnitude: float

    def frequencies(self, theta: float, dim: int, positions: int) -> torch.Tensor:
        low, high = self._dim_of(self.fast, theta, dim), self._dim_of(self.slow, theta, dim)
        if self.whole_dims:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        steps = torch.arange(dim // 2, dtype=torch.float32)
        stretched = ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
        plain = _inverse(theta, dim)
        return plain / self.factor * stretched + plain * (1 - stretched)

    def _dim_of(self, turns: float, theta: float, dim: int) -> float:
        """The dim that turns so often within `original` positions."""
        return dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True, slots=True)
class Dynamic:
    """NTK-aware scaling whose base grows with the length, beyond `original` positions.

    Position p turns as in a sequence that ends there. transformers turns a prompt that is longer
    than `original` as its last position instead, so there its answer depends on how a prompt is
    cut; fed token by token, or with a shorter prompt, it is this one.
    """

    factor: float
    original: int
    magnitude: float = 1.0

    def frequencies(self, theta: float, dim: int, positions: int) -> torch.Tensor:
        lengths_P = torch.arange(1, positions + 1, dtype=torch.float64).clamp_min(self.original)
        grown_P = self.factor * lengths_P / self.original - (self.factor - 1)
        bases_P = theta * grown_P ** (dim / (dim - 2))
        steps = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        return 1.0 / bases_P.float()[:, None] ** steps


@dataclass(frozen=True, slots=True)
class Rope:
    """A base, a scaling, and the share of a head's dims that turn."""

    theta: float
    scaling: Scaling
    share: float = 1.0

    def tables(
        self, head_dim: int, positions: int, *, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines (P, D), computed in fp32 as transformers does."""
        dim = int(head_dim * self.share)
        frequencies = self.scaling.frequencies(self.theta, dim, positions)
        places_P1 = torch.arange(positions, dtype=torch.float32)[:, None]
        angles_PD = (places_P1 * frequencies).repeat(1, 2)
        sign_D = torch.ones(dim)
        sign_D[: dim // 2] = -1
        cos_PD, sin_PD = angles_PD.cos(), angles_PD.sin() * sign_D
        magnitude = self.scaling.magnitude
        return (cos_PD * magnitude).to(device, dtype), (sin_PD * magnitude).to(device, dtype)


def _inverse(theta: float, dim: int) -> torch.Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def read_rope(fields: Fields, kind_of_layer: str = "full_attention") -> Rope:
    """The rope that a configuration gives a kind of layer. Raises ModelError."""
    found = rope_fields(fields, kind_of_layer)
    kind = rope_kind(found)
    reader = SCALINGS.get(kind)
    if reader is None:
        raise fields.error(f"rope_type is {kind!r}; wirecut runs {', '.join(SCALINGS)}")
    share = found.positive("partial_rotary_factor", default=1.0)
    if share > 1:
        raise fields.error(f"partial_rotary_factor is {share}, expected at most 1")
    return Rope(found.positive("rope_theta", default=10_000.0), reader(found), share)


def _plain(found: Fields) -> Plain:
    return Plain()


def _linear(found: Fields) -> Plain:
    return Plain(found.positive("factor"))


def _original(found: Fields) -> int:
    return found.count("original_max_position_embeddings", "max_position_embeddings", most=10**9)


def _llama3(found: Fields) -> Llama3:
    low = found.positive("low_freq_factor")
    high = found.positive("high_freq_factor")
    if low >= high:
        raise found.error(f"low_freq_factor {low} is not below high_freq_factor {high}")
    return Llama3(found.positive("factor"), low, high, _original(found))


def _dynamic(found: Fields) -> Dynamic:
    most = found.count("max_position_embeddings", most=10**9)
    return Dynamic(found.positive("factor"), most)


def _yarn(found: Fields) -> Yarn:
    original = _original(found)
    most = found.count("max_position_embeddings", default=original, most=10**9)
    factor = found.positive("factor", default=most / original)
    magnitude = yarn_magnitude(factor)
    own, of_all = mscales(found)
    if own and of_all:
        magnitude = yarn_magnitude(factor, own) / yarn_magnitude(factor, of_all)
    return Yarn(
        factor,
        original,
        found.positive("beta_fast", default=32.0),
        found.positive("beta_slow", default=1.0),
        found.flag("truncate", True),
        found.positive("attention_factor", default=magnitude),
    )


def mscales(found: Fields) -> tuple[float, float]:
    """DeepSeek's `mscale` and `mscale_all_dim`; 0: not given."""
    own, of_all = (
        found.positive(name) if found.values.get(name) else 0.0
        for name in ("mscale", "mscale_all_dim")
    )
    return own, of_all


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN's temperature, equation 22, as a factor of queries and keys each."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


SCALINGS: dict[str, Callable[[Fields], Scaling]] = {
    "default": _plain,
    "linear": _linear,
    "llama3": _llama3,
    "dynamic": _dynamic,
    "yarn": _yarn,
}
