"""Attention of a whole step over a GPU's paged cache, in one call of torch's own FlashAttention.

    step = together(counts=[1, 3], lengths=[40, 3], blocks=[[7], [2]], block_tokens=256, device=gpu)
    if takes(q_THD, keys_KSD, values_KSD, 256):
        out_THD = attend(q_THD, keys_KSD, values_KSD, step, scale=0.125, window=None)

`torch.nn.attention.varlen.varlen_attn` reads pages (pages, places of a page, K, D) with any strides
but the last: a cache (K, S, D) is one, seen from aside, and nothing is copied. FlashAttention 2,
which torch brings along, wants pages of 256 places, bf16 or fp16, heads of at most 256 dims in
steps of 8, and an Ampere or newer; it has no caps and no sinks.

Shapes: T rows of the step, H query heads, K key-value heads, S places of the cache, D head dim,
N sequences, X = N + 1, B blocks of the longest.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import scaled_dot_product_attention

PAGE, HEAD_STEP, MOST_HEAD = 256, 8, 256  # FlashAttention 2's
AMPERE = (8, 0)
TOLERANCE = 2e-2  # between two roundings to bf16 of values near 1


@dataclass(frozen=True, slots=True)
class Together:
    """N sequences whose rows follow one another: `firsts_X` their first rows and the end, the last
    of `lengths_N` positions each, in blocks `blocks_NB`. `room_firsts_X`: where their rooms for
    B blocks would begin. All int32. `most_rows`: of one sequence.
    """

    firsts_X: torch.Tensor
    room_firsts_X: torch.Tensor
    lengths_N: torch.Tensor
    blocks_NB: torch.Tensor
    most_rows: int
    block_tokens: int


@cache
def varlen() -> Callable[..., torch.Tensor] | None:
    """torch's `varlen_attn`; None: torch below 2.10. Imported on first use: torch's compiler comes
    with it, which takes more than a second, and ranks on CPUs need neither.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def together(
    counts: Sequence[int],
    lengths: Sequence[int],
    blocks: Sequence[Sequence[int]],
    *,
    block_tokens: int,
    device: torch.device,
) -> Together:
    """Sequences of so many rows and positions, in these blocks, told to the device at once."""
    number, width = len(counts), max(map(len, blocks))
    firsts = [sum(counts[:i]) for i in range(number + 1)]
    rooms = [i * width * block_tokens for i in range(number + 1)]
    table = [block for row in blocks for block in (*row, *[0] * (width - len(row)))]
    told = torch.tensor([*firsts, *rooms, *lengths, *table], dtype=torch.int32, device=device)
    parts = told.split([number + 1, number + 1, number, number * width])
    return Together(*parts[:3], parts[3].view(number, width), max(counts), block_tokens)


def takes(
    q_THD: torch.Tensor, keys_KSD: torch.Tensor, values_KSD: torch.Tensor, block_tokens: int
) -> bool:
    """Whether `attend` serves queries and caches like these."""
    (_, heads, dim), kv_heads = q_THD.shape, keys_KSD.shape[0]
    if not q_THD.is_cuda or keys_KSD.shape != values_KSD.shape:
        return False
    return fits(q_THD.dtype, dim, block_tokens) and trusted(
        q_THD.device, q_THD.dtype, heads, kv_heads, dim
    )


def fits(dtype: torch.dtype, head_dim: int, block_tokens: int) -> bool:
    """Whether FlashAttention 2 is made for these."""
    return (
        varlen() is not None
        and dtype in (torch.bfloat16, torch.float16)
        and block_tokens % PAGE == 0
        and head_dim % HEAD_STEP == 0
        and head_dim <= MOST_HEAD
    )


def attend(
    q_THD: torch.Tensor,
    keys_KSD: torch.Tensor,
    values_KSD: torch.Tensor,
    step: Together,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Attention of all sequences, (T, H, D). `window`: positions that a row sees at most, its own
    among them.
    """
    varlen_attn = varlen()
    assert varlen_attn is not None
    behind = -1 if window is None else window - 1
    # A single row has nothing ahead of it; told so, the kernel deals a long sequence to many cores.
    ahead = 0 if step.most_rows > 1 or window is not None else -1
    out = varlen_attn(
        q_THD,
        _pages(keys_KSD, step.block_tokens),
        _pages(values_KSD, step.block_tokens),
        step.firsts_X,
        step.room_firsts_X,
        step.most_rows,
        step.blocks_NB.shape[1] * step.block_tokens,
        scale=scale,
        window_size=(behind, ahead),
        enable_gqa=q_THD.shape[1] != keys_KSD.shape[0],
        seqused_k=step.lengths_N,
        block_table=step.blocks_NB,
    )
    assert isinstance(out, torch.Tensor)
    return out


def _pages(cache_KSD: torch.Tensor, block_tokens: int) -> torch.Tensor:
    return cache_KSD.unflatten(1, (-1, block_tokens)).permute(1, 2, 0, 3)


@cache
def trusted(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> bool:
    """Whether a small step comes out right here; says once why not. Tried before it is used, for
    what torch's kernel takes depends on its version and on the GPU.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE:
        return False
    try:
        wrong = _largest_error(device, dtype, heads, kv_heads, head_dim)
    except (RuntimeError, TypeError, ValueError) as error:
        said = f"{error}".partition("\n")[0]
    else:
        if wrong <= TOLERANCE:
            return True
        said = f"a trial is wrong by {wrong:.3g}"
    print(f"wirecut: attention goes sequence by sequence on {device} ({said})", file=sys.stderr)
    return False


def _largest_error(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> float:
    """Of a decode and a chunk behind a page's end, with and without a window."""
    here = {"device": device, "dtype": dtype}
    random = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(**here)

    keys_KSD, values_KSD = some(kv_heads, 3 * PAGE, head_dim), some(kv_heads, 3 * PAGE, head_dim)
    lengths, rows = (40, PAGE + 2), ((0, 1), (1, 5))
    places = [list(range(PAGE, PAGE + 40)), [*range(2 * PAGE, 3 * PAGE), 0, 1]]
    for cache_KSD in (keys_KSD, values_KSD):  # what was never written may be anything
        cache_KSD[:, 2:PAGE] = cache_KSD[:, PAGE + 40 : 2 * PAGE] = float("nan")
    q_THD, scale = some(5, heads, head_dim), head_dim**-0.5
    step = together([1, 4], lengths, [[1], [2, 0]], block_tokens=PAGE, device=device)
    worst: list[torch.Tensor] = []
    for window in (None, 8):
        out_THD = attend(q_THD, keys_KSD, values_KSD, step, scale=scale, window=window)
        for (first, last), at in zip(rows, places, strict=True):
            seen_TL = _seen(last - first, len(at), window).to(device)
            expected_HTD = scaled_dot_product_attention(
                q_THD[first:last].transpose(0, 1).float(),
                keys_KSD[:, at].repeat_interleave(heads // kv_heads, 0).float(),
                values_KSD[:, at].repeat_interleave(heads // kv_heads, 0).float(),
                attn_mask=seen_TL,
                scale=scale,
            )
            apart = out_THD[first:last].transpose(0, 1) - expected_HTD
            worst.append(apart.abs().max())
    return torch.stack(worst).max().item()


def _seen(rows: int, length: int, window: int | None) -> torch.Tensor:
    """Which of `length` positions the last `rows` of them see."""
    seen_TL = torch.ones(rows, length, dtype=torch.bool).tril(length - rows)
    return seen_TL if window is None else seen_TL.triu(length - rows - window + 1)
