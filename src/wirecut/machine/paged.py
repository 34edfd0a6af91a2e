"""Attention over a paged cache by our own kernels: many sequences in one call.

    where = Paged(rows_N, counts_N, lengths_N, blocks_NB, block_tokens=32)
    if takes_decodes(q_THD, values_KSD, 32):
        attend(q_THD, keys_KSD, values_KSD, out_THD, where, scale=0.125)

Shapes: T rows of the step, H query heads, K key-value heads, S places of the cache, D head dim,
N sequences, B blocks of the longest.
"""

from dataclasses import dataclass

import torch

from wirecut.errors import RankFailed
from wirecut.machine import kernels, native
from wirecut.machine.sizes import LANES, MOST_WIDTH, fits_prompts

MOST_BLOCK, PROMPT_BLOCK = 64, 32  # as c/attention.h has them
native.agree(MOST_BLOCK=MOST_BLOCK, PROMPT_BLOCK=PROMPT_BLOCK, MOST_WIDTH=MOST_WIDTH)


@dataclass(frozen=True, slots=True)
class Paged:
    """N sequences of a step: rows `rows_N` and on, `counts_N` of them, which are the last of
    `lengths_N` positions; these lie in blocks `blocks_NB` (filled up with 0). All int32.
    """

    rows_N: torch.Tensor
    counts_N: torch.Tensor
    lengths_N: torch.Tensor
    blocks_NB: torch.Tensor
    block_tokens: int


def takes_decodes(q_THD: torch.Tensor, values_KSD: torch.Tensor, block_tokens: int) -> bool:
    """Whether `attend` serves sequences of one row with queries and caches like these."""
    return (
        kernels.fits(q_THD, q_THD.shape[2])
        and values_KSD.shape[2] == q_THD.shape[2]
        and values_KSD.is_contiguous()
        and takes_block(block_tokens)
    )


def takes_prompts(q_THD: torch.Tensor, values_KSD: torch.Tensor, block_tokens: int) -> bool:
    """Whether it serves sequences of many rows."""
    return (
        takes_decodes(q_THD, values_KSD, block_tokens)
        and q_THD.dtype == torch.bfloat16
        and takes_prompt(q_THD.shape[2], block_tokens)
    )


def takes_block(block_tokens: int) -> bool:
    """Whether the kernel for sequences of one row reads blocks of this size."""
    return block_tokens % LANES == 0 and block_tokens <= MOST_BLOCK


def takes_prompt(head_dim: int, block_tokens: int) -> bool:
    """Whether the one for sequences of many rows takes heads and blocks like these."""
    return kernels.HAS_PRODUCTS and block_tokens == PROMPT_BLOCK and fits_prompts(head_dim)


def attend(
    q_THD: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    out_THD: torch.Tensor,
    where: Paged,
    *,
    prompts: bool = False,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sinks_H: torch.Tensor | None = None,
) -> None:
    """Attention of these sequences, one row each, or with `prompts` any number. `window`: positions
    that a row sees at most, its own among them; `cap`: scores become cap x tanh(score / cap);
    `sinks_H` (fp32): scores that take their share of the softmax and give nothing.
    """
    (_, heads, head_dim), (kv_heads, places, _) = q_THD.shape, keys_KSD.shape
    assert q_THD.stride()[1:] == (head_dim, 1), q_THD.stride()
    tensors = (q_THD, keys_KSD, values_KSD, out_THD, where.blocks_NB, where.lengths_N, where.rows_N)
    asked = native.Attention(
        *(each.data_ptr() for each in tensors),
        None if sinks_H is None else sinks_H.data_ptr(),
        *(*where.blocks_NB.shape, heads, kv_heads, head_dim, places, where.block_tokens),
        *(window or 0, q_THD.stride(0), scale, cap or 0.0),
    )
    library = native.load()
    if prompts:
        check_memory(library.prompt_attention(asked, where.counts_N.data_ptr()))
    else:
        library.decode_attention(asked, q_THD.dtype == torch.bfloat16)


def check_memory(code: int) -> None:
    """Raise RankFailed where a call that attends to prompts says that memory is missing."""
    if code < 0:
        raise RankFailed(
            "there is no memory left to pack the keys and values of a prompt's head for the "
            "attention kernel: serve shorter or fewer prompts at once, or take more devices"
        )
