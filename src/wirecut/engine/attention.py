"""Attention over the paged cache. A sequence whose blocks lie in a row is read in place, any other
is gathered.

Shapes: T tokens, H query heads, K key-value heads, G = H / K, D head dim, L positions, S cache
places.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from wirecut.engine.batch import Batch, Span


class KvCache:
    """Keys and values of one stage's layers on one rank: per layer (K, S, D), S = blocks x
    block_tokens.

    Memory is taken from the system only where it is written.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        kv_heads: int,
        num_places: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (kv_heads, num_places, head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]


def attend(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    batch: Batch,
) -> torch.Tensor:
    """Store this step's keys and values, then let each sequence's rows attend to its own. Returns
    (T, H x D).
    """
    keys_KSD.index_copy_(1, batch.slots_T, k_TKD.transpose(0, 1))
    values_KSD.index_copy_(1, batch.slots_T, v_TKD.transpose(0, 1))
    out_THD = torch.empty_like(q_THD)
    for span in batch.spans:
        k_KLD, v_KLD = _read(keys_KSD, span), _read(values_KSD, span)
        rows = slice(span.first, span.last)
        if span.last - span.first == 1:
            out_THD[rows] = _one_row(q_THD[rows], k_KLD, v_KLD)
        else:
            out_THD[rows] = _many_rows(q_THD[rows], k_KLD, v_KLD, span)
    return out_THD.flatten(1)


def _read(cache_KSD: torch.Tensor, span: Span) -> torch.Tensor:
    if isinstance(span.slots, int):
        return cache_KSD[:, span.slots : span.slots + span.length]
    return cache_KSD.index_select(1, span.slots)


def _one_row(q_1HD: torch.Tensor, k_KLD: torch.Tensor, v_KLD: torch.Tensor) -> torch.Tensor:
    """A decode: the G query heads that share a key head are its rows, so nothing is copied or
    masked.
    """
    kv_heads, head_dim = k_KLD.shape[0], k_KLD.shape[2]
    q_1KGD = q_1HD.view(1, kv_heads, -1, head_dim)
    return scaled_dot_product_attention(q_1KGD, k_KLD[None], v_KLD[None]).view(q_1HD.shape)


def _many_rows(
    q_THD: torch.Tensor, k_KLD: torch.Tensor, v_KLD: torch.Tensor, span: Span
) -> torch.Tensor:
    """A prompt or a chunk of one. Key heads are the batch, the G that share one its heads."""
    (rows, heads, head_dim), kv_heads, length = q_THD.shape, k_KLD.shape[0], span.length
    shared = (kv_heads, heads // kv_heads, length, head_dim)
    out_KGTD = scaled_dot_product_attention(
        q_THD.view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3),
        k_KLD[:, None].expand(shared),
        v_KLD[:, None].expand(shared),
        attn_mask=span.mask_TL,
        is_causal=span.mask_TL is None,
    )
    return out_KGTD.permute(2, 0, 1, 3).reshape(rows, heads, head_dim)
