"""Attention over the paged cache: where our own kernels or a GPU's serve a step, in one call. Else
sequence by sequence: one whose blocks lie in a row is read in place, any other is gathered.

    out_TX = attend(q_THD, k_TKD, v_TKD, cache.keys_KSD, cache.values_KSD, batch, look)

Shapes: T tokens, H query heads, K key-value heads, G = H / K, D head dim, L positions, S cache
places, X = H x the values' D.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from wirecut.engine.batch import Batch, Sight, Span
from wirecut.machine import kernels, paged, paged_gpu


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of one layer on one rank. They may share memory, where values are a part of
    keys.
    """

    keys_KSD: torch.Tensor
    values_KSD: torch.Tensor


@dataclass(frozen=True, slots=True)
class Look:
    """How queries look at keys. The defaults are Llama's.

    `scale`: of scores; None: 1 / sqrt(D). `window`: keys that a query sees at most, its own among
    them. `cap`: scores are bent to stay below it, cap x tanh(score / cap). `sinks_H`: a score per
    head that takes its share of the softmax and gives nothing.
    """

    scale: float | None = None
    window: int | None = None
    cap: float | None = None
    sinks_H: torch.Tensor | None = None

    @property
    def is_fused(self) -> bool:
        """Whether scores are made and weighed in one operation."""
        return self.cap is None and self.sinks_H is None


PLAIN = Look()


def attend(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    batch: Batch,
    look: Look = PLAIN,
) -> torch.Tensor:
    """Store this step's keys and values, then let each sequence's rows attend to its own. Returns
    (T, X). Raises NotImplementedError for a batch without spans that is not served in one call.
    """
    kernels.keep(k_TKD, keys_KSD, batch.slots_T)
    kernels.keep(v_TKD, values_KSD, batch.slots_T)
    step = batch.together if look.is_fused else None
    if step and paged_gpu.takes(q_THD, keys_KSD, values_KSD, batch.block_tokens):
        scale, window = _scale(q_THD, look), look.window
        together_THD = paged_gpu.attend(
            q_THD, keys_KSD, values_KSD, step, scale=scale, window=window
        )
        return together_THD.flatten(1)
    if not batch.spans:
        raise NotImplementedError("attention goes sequence by sequence here")
    out_THD = q_THD.new_empty(*q_THD.shape[:2], values_KSD.shape[2])
    spans = _in_one_call(q_THD, keys_KSD, values_KSD, out_THD, batch, look)
    for span in spans:
        sight = span.sights[look.window]
        k_KLD, v_KLD = _read(keys_KSD, span, sight), _read(values_KSD, span, sight)
        rows = slice(span.first, span.last)
        if not look.is_fused:
            out_THD[rows] = _scored(q_THD[rows], k_KLD, v_KLD, sight, look)
        elif span.last - span.first == 1:
            out_THD[rows] = _one_row(q_THD[rows], k_KLD, v_KLD, look.scale)
        else:
            out_THD[rows] = _many_rows(q_THD[rows], k_KLD, v_KLD, sight, look.scale)
    return out_THD.flatten(1)


def _in_one_call(
    q_THD: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    out_THD: torch.Tensor,
    batch: Batch,
    look: Look,
) -> tuple[Span, ...]:
    """Serve what our own kernels take, all sequences at once; returns the spans that are left."""
    block_tokens = batch.block_tokens
    if not paged.takes_decodes(q_THD, values_KSD, block_tokens):
        return batch.spans
    look_of_kernel = {
        "scale": _scale(q_THD, look),
        "window": look.window,
        "cap": look.cap,
        "sinks_H": None if look.sinks_H is None else look.sinks_H.float(),
    }
    serve = partial(paged.attend, q_THD, keys_KSD, values_KSD, out_THD, **look_of_kernel)
    if batch.decodes:
        serve(batch.decodes)
    if not batch.prompts or not paged.takes_prompts(q_THD, values_KSD, block_tokens):
        return batch.longer_spans
    serve(batch.prompts, prompts=True)
    return ()


def _scale(q_THD: torch.Tensor, look: Look) -> float:
    return q_THD.shape[2] ** -0.5 if look.scale is None else look.scale


def _read(cache_KSD: torch.Tensor, span: Span, sight: Sight) -> torch.Tensor:
    if isinstance(span.slots, int):
        return cache_KSD[:, span.slots + sight.first : span.slots + span.length]
    return cache_KSD.index_select(1, span.slots[sight.first :])


def _one_row(
    q_1HD: torch.Tensor, k_KLD: torch.Tensor, v_KLD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """A decode: the G query heads that share a key head are its rows, so nothing is copied or
    masked.
    """
    q_1KGD = q_1HD.view(1, k_KLD.shape[0], -1, k_KLD.shape[2])
    out_1KGD = scaled_dot_product_attention(q_1KGD, k_KLD[None], v_KLD[None], scale=scale)
    return out_1KGD.view(1, -1, v_KLD.shape[2])


def _many_rows(
    q_THD: torch.Tensor,
    k_KLD: torch.Tensor,
    v_KLD: torch.Tensor,
    sight: Sight,
    scale: float | None,
) -> torch.Tensor:
    """A prompt or a chunk of one. Key heads are the batch, the G that share one its heads."""
    (rows, heads, _), kv_heads = q_THD.shape, k_KLD.shape[0]
    shared = (kv_heads, heads // kv_heads, -1, -1)
    out_KGTD = scaled_dot_product_attention(
        q_THD.view(rows, kv_heads, heads // kv_heads, -1).permute(1, 2, 0, 3),
        k_KLD[:, None].expand(shared),
        v_KLD[:, None].expand(shared),
        attn_mask=sight.mask_TL,
        is_causal=sight.mask_TL is None,
        scale=scale,
    )
    return out_KGTD.permute(2, 0, 1, 3).reshape(rows, heads, -1)


def _scored(
    q_THD: torch.Tensor, k_KLD: torch.Tensor, v_KLD: torch.Tensor, sight: Sight, look: Look
) -> torch.Tensor:
    """Any rows, step by step: scores, what is done to them, their weights."""
    (rows, heads, dim), (kv_heads, length, _) = q_THD.shape, k_KLD.shape
    scale = _scale(q_THD, look)
    q_KRD = q_THD.view(rows, kv_heads, -1, dim).permute(1, 2, 0, 3).flatten(1, 2)
    scores_HTL = (q_KRD @ k_KLD.transpose(1, 2)).view(heads, rows, length).float() * scale
    if look.cap is not None:
        scores_HTL = (scores_HTL / look.cap).tanh_().mul_(look.cap)
    if sight.mask_TL is not None:
        scores_HTL += sight.mask_TL
    elif rows > 1:
        scores_HTL += _causal(rows, scores_HTL)
    if look.sinks_H is not None:
        sinks_HT1 = look.sinks_H.float()[:, None, None].expand(-1, rows, 1)
        weights_HTL = torch.cat([scores_HTL, sinks_HT1], -1).softmax(-1)[..., :-1]
    else:
        weights_HTL = scores_HTL.softmax(-1)
    weights_KRL = weights_HTL.to(v_KLD.dtype).reshape(kv_heads, -1, length)
    out_KGTD = (weights_KRL @ v_KLD).view(kv_heads, heads // kv_heads, rows, -1)
    return out_KGTD.permute(2, 0, 1, 3).reshape(rows, heads, -1)


def _causal(rows: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full((rows, rows), float("-inf"), device=like.device).triu_(1)
