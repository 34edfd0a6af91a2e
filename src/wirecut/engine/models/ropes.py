"""How rotary position embeddings are scaled, as configurations say it. Imports no torch.

    rope = read_rope(Fields(config, "config.json"))
    rope.theta, rope.scaling            # 500000.0, Llama3(factor=8.0, ...)

`engine.rope` makes tables of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from wirecut.spec.families.parts import heads
from wirecut.spec.fields import Fields
from wirecut.spec.hf import rope_fields, rope_kind


@dataclass(frozen=True, slots=True)
class Plain:
    """No scaling, or with a `factor` positions interpolated evenly (kind "linear")."""

    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Llama3:
    """Llama 3.1: wavelengths beyond `original / low` are stretched by `factor`, those within
    `original / high` are kept, those between in proportion.
    """

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN (Peng et al. 2023, section 3): dims that turn more than `fast` times within `original`
    positions are kept, those that turn less than `slow` times stretched by `factor`. `magnitude`
    multiplies cosines and sines.
    """

    factor: float
    original: int
    fast: float
    slow: float
    whole_dims: bool
    magnitude: float


@dataclass(frozen=True, slots=True)
class Dynamic:
    """NTK-aware scaling whose base grows with the length, beyond `original` positions.

    Position p turns as in a sequence that ends there. transformers turns a prompt that is longer
    than `original` as its last position instead, so there its answer depends on how a prompt is
    cut; fed token by token, or with a shorter prompt, it is this one.
    """

    factor: float
    original: int


@dataclass(frozen=True, slots=True)
class LongRope:
    """LongRoPE (Ding et al. 2024): a factor for each pair of dims, other ones for sequences of more
    than `original` tokens. `magnitude` multiplies cosines and sines.

    All positions of a sequence turn by one set. One that grows beyond `original` is computed again
    with the long factors (`sched.request`), as transformers' Phi-3 does in `generate`.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    magnitude: float


Scaling = Plain | Llama3 | Yarn | Dynamic | LongRope


@dataclass(frozen=True, slots=True)
class Rope:
    """A base, a scaling, and the share of a head's dims that turn."""

    theta: float
    scaling: Scaling
    share: float = 1.0

    @property
    def longest_short(self) -> int | None:
        """The most tokens of a sequence that does not turn as a long one; None: all turn alike."""
        return self.scaling.original if isinstance(self.scaling, LongRope) else None


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


def _longrope(found: Fields) -> LongRope:
    names = "original_max_position_embeddings", "max_position_embeddings"
    original = found.count(*names, least=2, most=10**9)
    most = found.count("max_position_embeddings", default=original, most=10**9)
    factor = found.positive("factor", default=most / original)
    # As in Microsoft's own model files of Phi-3: the entropy of attention grows with the length.
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRope(
        _factors(found, "short_factor"),
        _factors(found, "long_factor"),
        original,
        found.positive("attention_factor", default=magnitude),
    )


def _factors(found: Fields, name: str) -> tuple[float, ...]:
    """A factor for each pair of dims that turn."""
    share = found.positive("partial_rotary_factor", default=1.0)
    pairs = int(heads(found)[2] * share) // 2
    given = {f"{name}[{i}]": factor for i, factor in enumerate(found.items(name))}
    if len(given) != pairs:
        raise found.error(f"{name} has {len(given)} factors for {pairs} pairs of dims that turn")
    return tuple(Fields(given, found.where).positive(each) for each in given)


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
    "longrope": _longrope,
}
