"""Builds one rank's stage out of a spec's layers, an architecture's style and the weights.

stage = build_stage(reader, style, cut, num_places=4096, tp=tp, progress=progress)
"""

from collections.abc import Callable

import torch

from wirecut.engine.attention import Cache, Look
from wirecut.engine.comm import Comm
from wirecut.engine.exchange import ExpertComm, Experts
from wirecut.engine.models.blocks import GroupedAttention, Half, HeadNorm, Mlp, Norm, Part
from wirecut.engine.models.fused import fused
from wirecut.engine.models.latent import LatentAttention
from wirecut.engine.models.stage import Embedding, Head, Stage
from wirecut.engine.models.style import Style
from wirecut.engine.moe import LocalExperts, Mixture, Router
from wirecut.engine.rope import rope_tables
from wirecut.engine.weights import SliceReader
from wirecut.layout.plan import Cut
from wirecut.layout.shards import expert_tp, kv_heads, padded_vocab, query_heads
from wirecut.machine.kernels import Linear, PackedLinear
from wirecut.spec import attention, feedforward
from wirecut.spec.families.parts import FOUR_NORMS
from wirecut.spec.model import Layer
from wirecut.spec.tensor import Tensor

LATENT_EPS = 1e-6  # of the norms of latents, whatever the configuration says of the others


def build_stage(
    reader: SliceReader,
    style: Style,
    cut: Cut,
    *,
    num_places: int,
    tp: Comm,
    progress: Callable[[], None],
    ep: ExpertComm | None = None,
) -> Stage:
    """Read and build; `progress` is called after each layer. The cache has `num_places`. `ep`: the
    ranks that share experts, where more than the TP group do.
    """
    spec, stage = reader.spec, reader.at["pp"]
    layers = spec.layers[slice(*cut.stages[stage])]
    halves: list[Half] = []
    for index in range(*cut.stages[stage]):
        halves += _Layer(reader, style, index, num_places, ep).halves()
        progress()
    first = layers[0].mixer
    assert isinstance(first, attention.Attention | attention.LatentAttention)
    width = first.head_dim if isinstance(first, attention.Attention) else first.rope_dim
    positions = min(spec.max_positions, num_places)
    ropes = [style.rope, *([style.window_rope] if style.window_rope else [])]
    return Stage(
        steps=fused(halves),
        embed=_embedding(reader, style) if stage == 0 else None,
        head=_head(reader, style) if stage == len(cut.stages) - 1 else None,
        tp=tp,
        tables=tuple(
            rope_tables(rope, width, positions=positions, dtype=reader.dtype, device=reader.device)
            for rope in ropes
        ),
        windows=tuple({_window(layer) for layer in layers}),
    )


def _window(layer: Layer) -> int | None:
    return layer.mixer.window if isinstance(layer.mixer, attention.Attention) else None


def _embedding(reader: SliceReader, style: Style) -> Embedding:
    spec = reader.spec
    share = padded_vocab(spec.vocab, reader.layout.tp) // reader.layout.tp
    weight_VE = reader.read(reader.outside[f"{spec.prefix}embed_tokens.weight"])
    scale = torch.tensor(style.embed_scale, dtype=reader.dtype).item()
    return Embedding(weight_VE, share * reader.at["tp"], scale)


def _head(reader: SliceReader, style: Style) -> Head:
    spec = reader.spec
    tied = f"{spec.prefix}embed_tokens.weight"
    weight_VE = reader.read(reader.outside[tied if spec.tied_embeddings else "lm_head.weight"])
    share = padded_vocab(spec.vocab, reader.layout.tp) // reader.layout.tp
    padding = weight_VE.new_zeros(share - weight_VE.shape[0], spec.hidden)
    norm = _norm(reader, style, reader.outside[f"{spec.prefix}norm.weight"])
    return Head(norm, PackedLinear(torch.cat([weight_VE, padding])), spec.vocab, style.logit_cap)


def _norm(reader: SliceReader, style: Style, tensor: Tensor) -> Norm:
    return Norm(_norm_weight(reader, style, tensor), reader.spec.norm_eps)


def _norm_weight(reader: SliceReader, style: Style, tensor: Tensor) -> torch.Tensor:
    if style.offset_norms:
        return reader.read(tensor, dtype=torch.float32) + 1.0
    return reader.read(tensor)


class _Layer:
    """One layer while it is built."""

    def __init__(
        self,
        reader: SliceReader,
        style: Style,
        index: int,
        num_places: int,
        ep: ExpertComm | None,
    ) -> None:
        self._reader, self._style, self._ep = reader, style, ep
        self._layer = reader.spec.layers[index]
        self._tensors = reader.layer(index)
        self._num_places = num_places
        self._at = reader.layout.tp, reader.at["tp"]

    def halves(self) -> tuple[Half, Half]:
        before_mixer, behind_mixer, *rest = (self._norm(name) for name in self._layer.norms)
        if self._layer.norms == FOUR_NORMS:
            before_mlp, behind_mlp = rest
            posts = (behind_mixer, behind_mlp)
        else:
            before_mlp, posts = behind_mixer, (None, None)
        mixer, mlp = self._layer.mixer, self._layer.mlp
        if isinstance(mixer, attention.Attention):
            part = self._grouped(mixer)
        else:
            assert isinstance(mixer, attention.LatentAttention)
            part = self._latent(mixer)
        at = self._layer.mixer_name
        first = Half(before_mixer, part, self._optional(f"{at}.o_proj.bias"), posts[0])
        feed, bias = self._feed_forward(mlp)
        return first, Half(before_mlp, feed, bias, posts[1])

    def _norm(self, name: str) -> Norm:
        return _norm(self._reader, self._style, self._tensors[name])

    def _read(self, *names: str) -> torch.Tensor:
        return self._reader.read(*(self._tensors[name] for name in names))

    def _optional(self, *names: str) -> torch.Tensor | None:
        return self._read(*names) if names[0] in self._tensors else None

    def _linear(self, *modules: str) -> Linear:
        """The product with several weights at once, and with their biases where there are any."""
        bias = self._optional(*(f"{module}.bias" for module in modules))
        return self._product(*modules, bias=bias)

    def _row_linear(self, module: str) -> Linear:
        """A product whose results are summed over ranks: its bias is not the ranks' own."""
        return self._product(module)

    def _product(
        self, *modules: str, bias: torch.Tensor | None = None, expert: int | None = None
    ) -> Linear:
        weights = (self._tensors[f"{module}.weight"] for module in modules)
        return self._reader.linear(*weights, bias=bias, expert=expert)

    def _cache(self, heads: int, width: int) -> torch.Tensor:
        """Memory is taken from the system only where it is written."""
        shape = (heads, self._num_places, width)
        return torch.empty(shape, dtype=self._reader.dtype, device=self._reader.device)

    def _look(self, window: int | None, sinks_H: torch.Tensor | None) -> Look:
        return Look(self._style.scale, window, self._style.score_cap, sinks_H)

    def _grouped(self, mixer: attention.Attention) -> Part:
        at, style, shares = self._layer.mixer_name, self._style, self._reader.shares
        first, last = query_heads(mixer.heads, *self._at, mixer.kv_heads, shares)
        kv_first, kv_last = kv_heads(mixer.kv_heads, *self._at, shares)
        heads, keys = last - first, kv_last - kv_first
        cache = Cache(self._cache(keys, mixer.head_dim), self._cache(keys, mixer.value_width))
        return GroupedAttention(
            qkv=self._linear(f"{at}.q_proj", f"{at}.k_proj", f"{at}.v_proj"),
            o=self._row_linear(f"{at}.o_proj"),
            heads=heads,
            kv_heads=keys,
            norm=self._head_norm(heads, keys) if mixer.qk_norm else None,
            rope=1 if style.window_rope and mixer.window else 0,
            look=self._look(mixer.window, self._optional(f"{at}.sinks")),
            cache=cache,
        )

    def _head_norm(self, heads: int, keys: int) -> HeadNorm:
        at = self._layer.mixer_name
        q_D, k_D = (
            _norm_weight(self._reader, self._style, self._tensors[f"{at}.{name}_norm.weight"])
            for name in ("q", "k")
        )
        weight_HD = torch.cat([q_D.expand(heads, -1), k_D.expand(keys, -1)])
        return HeadNorm(weight_HD, self._reader.spec.norm_eps)

    def _latent(self, mixer: attention.LatentAttention) -> Part:
        at = self._layer.mixer_name
        first, last = query_heads(mixer.heads, *self._at, shares=self._reader.shares)
        kv_up = self._read(f"{at}.kv_b_proj.weight")
        kv_up_HXR = kv_up.view(last - first, mixer.nope_dim + mixer.value_dim, mixer.kv_rank)
        keys_1SX = self._cache(1, mixer.kv_rank + mixer.rope_dim)
        has_low = mixer.q_rank is not None
        return LatentAttention(
            q_down=self._linear(f"{at}.q_a_proj") if has_low else None,
            q_norm=Norm(self._read(f"{at}.q_a_layernorm.weight"), LATENT_EPS) if has_low else None,
            q=self._linear(f"{at}.q_b_proj" if has_low else f"{at}.q_proj"),
            kv_down=self._linear(f"{at}.kv_a_proj_with_mqa"),
            kv_norm=Norm(self._read(f"{at}.kv_a_layernorm.weight"), LATENT_EPS),
            key_up_HNR=kv_up_HXR[:, : mixer.nope_dim].contiguous(),
            value_up_HRV=kv_up_HXR[:, mixer.nope_dim :].transpose(1, 2).contiguous(),
            o=self._row_linear(f"{at}.o_proj"),
            paired=self._style.paired_rope,
            look=self._look(None, None),
            cache=Cache(keys_1SX, keys_1SX[..., : mixer.kv_rank]),
        )

    def _feed_forward(
        self, mlp: feedforward.Mlp | feedforward.Moe | None
    ) -> tuple[Part, torch.Tensor | None]:
        """The part, and the bias of what the ranks sum."""
        at = self._layer.mlp_name
        if isinstance(mlp, feedforward.Moe):
            return self._mixture(mlp, at), None
        assert mlp is not None
        return self._mlp(at, mlp.names), self._optional(f"{at}.{mlp.names[2]}.bias")

    def _mlp(self, at: str, names: tuple[str, str, str]) -> Mlp:
        gate, up, down = (f"{at}.{name}" for name in names)
        return Mlp(self._linear(gate, up), self._row_linear(down), self._style.gate)

    def _mixture(self, moe: feedforward.Moe, at: str) -> Mixture:
        routing = self._style.routing
        assert routing is not None
        weight, bias = (f"{at}.{name}" for name in moe.router_names)
        tensors, fp32 = self._tensors, torch.float32
        router = Router(
            self._reader.read(tensors[weight], dtype=fp32),
            self._reader.read(tensors[bias], dtype=fp32) if moe.router_bias else None,
            moe.top_k,
            routing,
        )
        shared = self._mlp(f"{at}.{moe.shared_name}", feedforward.NAMES) if moe.shared else None
        gate = self._read(f"{at}.shared_expert_gate.weight") if moe.shared_gate else None
        return Mixture(router, self._experts(moe, at), shared, gate)

    def _experts(self, moe: feedforward.Moe, at: str) -> Experts:
        names = tuple(f"{at}.experts.{{expert}}.{name}" for name in moe.names)
        held = self._reader.slice_of(self._tensors[f"{names[0]}.weight"])
        mine = range(held.first_expert, held.last_expert)
        local = LocalExperts(tuple(self._expert(moe, names, i) for i in mine), held.first_expert)
        if self._ep is None:
            return local
        reader = self._reader
        return self._ep.over(
            local,
            experts=moe.experts,
            top_k=moe.top_k,
            hidden=reader.spec.hidden,
            dtype=reader.dtype,
            device=reader.device,
        )

    def _expert(self, moe: feedforward.Moe, names: tuple[str, ...], expert: int) -> Mlp:
        """One expert; of those ranks that share it, the first adds the bias of its results."""

        def bias(*modules: str) -> torch.Tensor | None:
            tensors = (self._tensors[f"{module}.bias"] for module in modules)
            return self._reader.read(*tensors, expert=expert) if moe.bias else None

        *into, down = names
        of_results = bias(down)
        return Mlp(
            self._product(*into, bias=bias(*into), expert=expert),
            self._product(
                down, bias=of_results if self._is_first_of_expert() else None, expert=expert
            ),
            self._style.gate,
        )

    def _is_first_of_expert(self) -> bool:
        layout, at = self._reader.layout, self._reader.at
        rank = at["dp"] * layout.tp + at["tp"] if layout.ep > 1 else at["tp"]
        return rank % expert_tp(layout) == 0
