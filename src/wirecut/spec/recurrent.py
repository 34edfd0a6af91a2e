"""Mixers that keep a state of constant size instead of keys: linear attention and Mamba-2.

LinearAttention(key_heads=16, value_heads=32, key_dim=128, value_dim=128, conv=4)
Mamba(heads=128, head_dim=64, groups=8, state_dim=128, conv=4)
"""

from collections.abc import Iterator

from wirecut.facts import fact
from wirecut.spec.mixer import Held
from wirecut.spec.tensor import Part, Tensor, column, cut, row, whole

_PARTS: dict[str, Part] = {"q": "q", "k": "k", "v": "v"}


class Recurrent:
    """What all mixers without a cache of keys have in common."""

    __slots__ = ()

    @property
    def kv(self) -> tuple[Held, ...]:
        return ()

    def cached_tokens(self, context: int) -> int:
        return 0

    def keys(self, context: float) -> float:
        return 0

    def read_elements(self, context: float, kv_heads: int) -> float:
        return 0

    def pair_flops(self, *, decode: bool) -> int:
        return 0

    @property
    def index_flops(self) -> int:
        return 0

    def index_keys(self, context: float) -> float:
        return 0


@fact
class LinearAttention(Recurrent):
    """Attention with the gated delta rule: Gated DeltaNet (Qwen3-Next) and KDA (Kimi Linear).

    The state is a matrix (key_dim, value_dim) per value head. `conv`: taps of the short convolution
    over queries, keys and values. `decay_rank` None: one decay per head (Gated DeltaNet); else one
    per channel from a projection of that rank, and an output gate from another (KDA), of full rank
    with `full_gate`.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv: int
    decay_rank: int | None = None
    full_gate: bool = False

    @property
    def heads(self) -> int:
        return self.value_heads

    @property
    def groups(self) -> int:
        return self.key_heads

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        by_key = {"units": self.key_heads, "groups": self.key_heads}
        by_value = {"units": self.value_heads, "groups": self.key_heads}
        fused = self.decay_rank is None  # how the checkpoint names and joins its projections
        parts = (("q", keys, by_key), ("k", keys, by_key), ("v", values, by_value))
        for name, width, units in parts:
            at = f"in_proj_qkv.{name}" if fused else f"{name}_proj"
            yield column(f"{at}.weight", _PARTS[name], width, hidden, **units)
        for name, width, units in parts:
            at = f"conv1d.{name}" if fused else f"{name}_conv1d"
            yield cut(f"{at}.weight", "small", (width, 1, self.conv), **units)
        at = "in_proj_b" if fused else "b_proj"
        yield column(f"{at}.weight", "decay", self.value_heads, hidden, **by_value)
        yield cut("A_log", "small", (self.value_heads,), **by_value)
        if self.decay_rank is None:
            yield column("in_proj_a.weight", "decay", self.value_heads, hidden, **by_value)
            yield column("in_proj_z.weight", "z", values, hidden, **by_value)
            yield cut("dt_bias", "small", (self.value_heads,), **by_value)
        else:
            rank = self.decay_rank
            yield whole("f_a_proj.weight", "decay", rank, hidden)
            yield column("f_b_proj.weight", "decay", keys, rank, **by_key)
            yield cut("dt_bias", "small", (keys,), **by_key)
            if self.full_gate:
                yield column("g_proj.weight", "z", values, hidden, **by_value)
            else:
                yield whole("g_a_proj.weight", "decay", rank, hidden)
                yield column("g_b_proj.weight", "decay", values, rank, **by_value)
        yield whole("norm.weight", "norm", self.value_dim)
        at = "out_proj" if fused else "o_proj"
        yield row(f"{at}.weight", "o", hidden, values, **by_value)

    @property
    def state(self) -> tuple[Held, ...]:
        taps = self.conv - 1
        return (
            Held(self.value_heads, self.value_dim * (self.key_dim + taps), self.key_heads),
            Held(self.key_heads, 2 * self.key_dim * taps),
        )

    @property
    def token_flops(self) -> int:
        """Per value head and state element: decay 1, read 2, write 2, output 2 (Yang et al., Gated
        Delta Networks, equation 10).
        """
        return 7 * self.value_heads * self.key_dim * self.value_dim


@fact
class Mamba(Recurrent):
    """Mamba-2: `heads` of `head_dim` channels, each channel with a state of `state_dim`; the input
    and output maps B and C are shared by the heads of a group. `conv`: taps of the convolution.
    """

    heads: int
    head_dim: int
    groups: int
    state_dim: int
    conv: int
    conv_bias: bool = True
    bias: bool = False

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        inner, shared = self.heads * self.head_dim, self.groups * self.state_dim
        by_head = {"units": self.heads, "groups": self.groups}
        by_group = {"units": self.groups, "groups": self.groups}
        wide = (("z", inner, by_head), ("x", inner, by_head))
        maps = (("B", shared, by_group), ("C", shared, by_group))
        for name, width, units in (*wide, *maps, ("dt", self.heads, by_head)):
            yield column(f"in_proj.{name}.weight", "in", width, hidden, **units)
            if self.bias:
                yield cut(f"in_proj.{name}.bias", "bias", (width,), **units)
        for name, width, units in (wide[1], *maps):
            yield cut(f"conv1d.{name}.weight", "small", (width, 1, self.conv), **units)
            if self.conv_bias:
                yield cut(f"conv1d.{name}.bias", "bias", (width,), **units)
        for name in ("A_log", "D", "dt_bias"):
            yield cut(name, "small", (self.heads,), **by_head)
        yield cut("norm.weight", "norm", (inner,), **by_head)
        yield row("out_proj.weight", "o", hidden, inner, **by_head)
        if self.bias:
            yield whole("out_proj.bias", "bias", hidden)

    @property
    def state(self) -> tuple[Held, ...]:
        taps = self.conv - 1
        return (
            Held(self.heads, self.head_dim * (self.state_dim + taps), self.groups),
            Held(self.groups, 2 * self.state_dim * taps),
        )

    @property
    def token_flops(self) -> int:
        """Per head and state element: decay 1, write 2, output 2 (Dao and Gu, Transformers are
        SSMs, equation 1).
        """
        return 5 * self.heads * self.head_dim * self.state_dim
