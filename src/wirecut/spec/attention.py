"""Attention over cached keys: grouped-query, latent (MLA) and compressed, each possibly over a
window or the best-scored keys only.

    Attention(heads=32, kv_heads=8, head_dim=128)
    LatentAttention(heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
"""

from collections.abc import Iterator
from typing import Literal

from wirecut.facts import fact
from wirecut.spec.mixer import Held
from wirecut.spec.tensor import Tensor, column, cut, row, whole


@fact
class Indexer:
    """The scorer of a sparse attention: every earlier position gets a score, the best are attended.

    `heads` score with keys of `head_dim`, one key for `pool` positions (DeepSeek-V3.2, section 2.1,
    where it is one for one).
    """

    heads: int
    head_dim: int
    pool: int = 1

    @property
    def pair_flops(self) -> int:
        return 2 * self.heads * self.head_dim


@fact
class Attention:
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads.

    `value_dim`: of a value head where it is not `head_dim`. `window`: keys a query sees at most.
    `qk_norm`: a norm over each head's `head_dim`, or over all heads at once. `gate_dim`: width of
    an output gate per head. `sinks`: a learned logit per head. `key_is_value`: one projection makes
    both. `kv_shared`: keys and values are those of an earlier layer. `top_k`: keys that an indexer
    chooses.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    window: int | None = None
    bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["", "head", "all"] = ""
    gate_dim: int = 0
    sinks: bool = False
    key_is_value: bool = False
    kv_shared: bool = False
    top_k: int | None = None
    index: Indexer | None = None

    @property
    def groups(self) -> int:
        return self.kv_heads

    @property
    def value_width(self) -> int:
        """Elements of a value head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        queries, wide = self.heads * self.head_dim, self.heads * self.value_width
        by_head = {"units": self.heads, "groups": self.kv_heads}
        by_group = {"units": self.kv_heads, "groups": self.kv_heads}
        yield column("q_proj.weight", "q", queries, hidden, **by_head)
        kept = [("k", self.head_dim), ("v", self.value_width)]
        kept = [] if self.kv_shared else kept[:1] if self.key_is_value else kept
        for part, width in kept:
            out = self.kv_heads * width
            name = f"{part}_proj.weight"
            yield cut(name, "k" if part == "k" else "v", (out, hidden), **by_group)
        if self.bias:
            yield cut("q_proj.bias", "bias", (queries,), **by_head)
            for part, width in kept:
                out = (self.kv_heads * width,)
                yield cut(f"{part}_proj.bias", "bias", out, **by_group)
        if self.gate_dim:  # Qwen keeps a gate as wide as the queries in their own matrix
            name = "q_proj.gate" if self.gate_dim == self.head_dim else "g_proj"
            out = self.heads * self.gate_dim
            yield column(f"{name}.weight", "z", out, hidden, **by_head)
        yield row("o_proj.weight", "o", hidden, wide, **by_head)
        if self.out_bias:
            yield whole("o_proj.bias", "bias", hidden)
        if self.qk_norm == "head":
            yield whole("q_norm.weight", "norm", self.head_dim)
        if self.qk_norm == "head" and not self.kv_shared:
            yield whole("k_norm.weight", "norm", self.head_dim)
        if self.qk_norm == "all":
            yield cut("q_norm.weight", "norm", (queries,), **by_head)
            keys = (self.kv_heads * self.head_dim,)
            yield cut("k_norm.weight", "norm", keys, **by_group)
        if self.sinks:
            yield cut("sinks", "small", (self.heads,), **by_head)
        if self.index:
            at, score = "indexer.", self.index
            yield whole(at + "q_proj.weight", "index", score.heads * score.head_dim, hidden)
            yield whole(at + "k_proj.weight", "index", score.head_dim, hidden)
            yield whole(at + "q_norm.weight", "norm", score.head_dim)
            yield whole(at + "k_norm.weight", "norm", score.head_dim)

    @property
    def kv(self) -> tuple[Held, ...]:
        if self.kv_shared:
            return ()
        own = Held(self.kv_heads, self.head_dim + self.value_width)
        return (own, Held(1, self.index.head_dim)) if self.index else (own,)

    @property
    def state(self) -> tuple[Held, ...]:
        return ()

    def cached_tokens(self, context: int) -> int:
        return min(context, self.window or context)

    def keys(self, context: float) -> float:
        return min(context, self.window or context, self.top_k or context)

    def read_elements(self, context: float, kv_heads: int) -> float:
        scored = self.index_keys(context) * self.index.head_dim if self.index else 0
        return self.keys(context) * kv_heads * (self.head_dim + self.value_width) + scored

    def pair_flops(self, *, decode: bool) -> int:
        return 2 * self.heads * (self.head_dim + self.value_width)

    @property
    def index_flops(self) -> int:
        return self.index.pair_flops if self.index else 0

    def index_keys(self, context: float) -> float:
        return context if self.index else 0

    @property
    def token_flops(self) -> int:
        return 0


@fact
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, section 2.1): the cache holds one latent of
    `kv_rank` and one rotary key of `rope_dim` for all heads, so every TP rank holds all of it.

    `q_rank` None: queries come straight from hidden. `top_k`: keys that an indexer chooses, its own
    (`index`) or an earlier layer's. `gate_dim`: width of an output gate per head.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    top_k: int | None = None
    index: Indexer | None = None
    gate_dim: int = 0
    bias: bool = False

    @property
    def groups(self) -> int:
        return 0

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        heads, latent = self.heads, self.kv_rank + self.rope_dim
        queries = heads * (self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            yield column("q_proj.weight", "q", queries, hidden, units=heads)
        else:
            yield whole("q_a_proj.weight", "latent", self.q_rank, hidden)
            yield whole("q_a_layernorm.weight", "norm", self.q_rank)
            yield column("q_b_proj.weight", "q", queries, self.q_rank, units=heads)
        yield whole("kv_a_proj_with_mqa.weight", "latent", latent, hidden)
        yield whole("kv_a_layernorm.weight", "norm", self.kv_rank)
        keys = heads * (self.nope_dim + self.value_dim)
        yield column("kv_b_proj.weight", "kv", keys, self.kv_rank, units=heads)
        if self.gate_dim:
            yield column("g_proj.weight", "z", heads * self.gate_dim, hidden, units=heads)
        yield row("o_proj.weight", "o", hidden, heads * self.value_dim, units=heads)
        if self.bias:
            yield whole("q_a_proj.bias", "bias", self.q_rank or queries)
            yield whole("kv_a_proj_with_mqa.bias", "bias", latent)
            yield whole("o_proj.bias", "bias", hidden)
        if self.index:
            at, score = "indexer.", self.index
            wide = score.heads * score.head_dim
            yield whole(at + "wq_b.weight", "index", wide, self.q_rank or hidden)
            yield whole(at + "wk.weight", "index", score.head_dim, hidden)
            yield whole(at + "k_norm.weight", "norm", score.head_dim)
            yield whole(at + "k_norm.bias", "bias", score.head_dim)
            yield whole(at + "weights_proj.weight", "index", score.heads, hidden)
            if score.pool > 1:
                yield whole(at + "index_kpool_compress_ape", "small", score.pool, score.head_dim)
                gate = at + "index_kpool_compress_gate"
                yield whole(gate, "compress", score.head_dim, hidden)

    @property
    def kv(self) -> tuple[Held, ...]:
        latent = Held(1, self.kv_rank + self.rope_dim)
        if not self.index:
            return (latent,)
        return latent, Held(1, self.index.head_dim // self.index.pool)

    @property
    def state(self) -> tuple[Held, ...]:
        return ()

    def cached_tokens(self, context: int) -> int:
        return context

    def keys(self, context: float) -> float:
        return min(context, self.top_k or context)

    def read_elements(self, context: float, kv_heads: int) -> float:
        scored = self.index_keys(context) * self.index.head_dim if self.index else 0
        return self.keys(context) * (self.kv_rank + self.rope_dim) + scored

    def pair_flops(self, *, decode: bool) -> int:
        if decode:  # the latent itself is key and value: kv_b is absorbed into query and output
            return 2 * self.heads * (2 * self.kv_rank + self.rope_dim)
        return 2 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    @property
    def index_flops(self) -> int:
        return self.index.pair_flops if self.index else 0

    def index_keys(self, context: float) -> float:
        return context / self.index.pool if self.index else 0

    @property
    def token_flops(self) -> int:
        return 0


@fact
class CompressedAttention:
    """DeepSeek-V4's attention: a window of single keys, and behind it keys that each stand for
    `ratio` tokens (0: the window only), all of them or, with an indexer, the best `top_k`.

    One key of `head_dim`, which is its own value, serves all heads. The output goes through
    `out_groups` groups of heads, each down to `out_rank`.
    """

    heads: int
    head_dim: int
    q_rank: int
    out_groups: int
    out_rank: int
    window: int
    ratio: int = 0
    top_k: int | None = None
    index: Indexer | None = None

    @property
    def groups(self) -> int:
        return self.out_groups

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        queries, groups = self.heads * self.head_dim, self.out_groups
        by_head = {"units": self.heads, "groups": groups}
        yield whole("q_a_proj.weight", "latent", self.q_rank, hidden)
        yield whole("q_a_norm.weight", "norm", self.q_rank)
        yield column("q_b_proj.weight", "q", queries, self.q_rank, **by_head)
        yield whole("kv_proj.weight", "latent", self.head_dim, hidden)
        yield whole("kv_norm.weight", "norm", self.head_dim)
        low = groups * self.out_rank
        yield column("o_a_proj.weight", "z", low, queries // groups, units=groups)
        yield row("o_b_proj.weight", "o", hidden, low, units=groups)
        yield cut("sinks", "small", (self.heads,), **by_head)
        if self.ratio:
            # With an indexer the pooled blocks overlap, which doubles the projections.
            overlap = 2 if self.index else 1
            yield from self._pool("compressor.", hidden, overlap, self.head_dim)
        if self.index:
            at, score = "compressor.indexer.", self.index
            yield from self._pool(at, hidden, 2, score.head_dim)
            wide = score.heads * score.head_dim
            yield whole(at + "q_b_proj.weight", "index", wide, self.q_rank)
            yield whole(at + "scorer.weights_proj.weight", "index", score.heads, hidden)

    def _pool(self, at: str, hidden: int, overlap: int, width: int) -> Iterator[Tensor]:
        yield whole(at + "kv_proj.weight", "compress", overlap * width, hidden)
        yield whole(at + "gate_proj.weight", "compress", overlap * width, hidden)
        yield whole(at + "position_bias", "small", self.ratio, overlap * width)
        yield whole(at + "kv_norm.weight", "norm", width)

    @property
    def kv(self) -> tuple[Held, ...]:
        if not self.ratio:
            return ()
        scored = self.index.head_dim if self.index else 0
        return (Held(1, (self.head_dim + scored) // self.ratio),)

    @property
    def state(self) -> tuple[Held, ...]:
        return (Held(1, self.window * self.head_dim),)

    def cached_tokens(self, context: int) -> int:
        return context if self.ratio else 0

    def keys(self, context: float) -> float:
        pooled = context / self.ratio if self.ratio else 0.0
        return min(context, self.window) + min(pooled, self.top_k or pooled)

    def read_elements(self, context: float, kv_heads: int) -> float:
        scored = self.index_keys(context) * self.index.head_dim if self.index else 0
        return self.keys(context) * self.head_dim + scored

    def pair_flops(self, *, decode: bool) -> int:
        return 4 * self.heads * self.head_dim

    @property
    def index_flops(self) -> int:
        return self.index.pair_flops if self.index else 0

    def index_keys(self, context: float) -> float:
        return context / self.ratio if self.index else 0

    @property
    def token_flops(self) -> int:
        return 0
