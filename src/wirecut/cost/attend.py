"""What looking at other tokens takes, whatever the mixer: bytes of cache read and FLOPs.

    cache_bytes(work, sequences=8, context=576, size=2)
    chunk_flops(work, tokens=512, before=0)

Means over positions are taken where a window or a choice of keys bounds what a token sees.
"""

from wirecut.cost.work import LayerWork

POSITIONS = 8  # at which the mean over a chunk is taken
STATE_BYTES = 4.0  # recurrent states are kept in fp32


def mean_keys(work: LayerWork, before: float, tokens: float) -> float:
    """Keys that a token sees, mean over `tokens` that follow `before` others."""
    if work.mixer is None:
        return 0.0
    places = (before + tokens * (i + 0.5) / POSITIONS + 0.5 for i in range(POSITIONS))
    return sum(work.mixer.keys(place) for place in places) / POSITIONS  # pyright: ignore[reportArgumentType]


def cache_bytes(work: LayerWork, *, sequences: int, context: float, size: float) -> float:
    """Bytes of cache and state that one token of each of `sequences` reads, on one rank."""
    mixer = work.mixer
    if mixer is None or not sequences:
        return 0.0
    whole = int(context)
    seen = min(mixer.keys(whole), mixer.cached_tokens(whole) or mixer.keys(whole))
    scored = sum(held.elements for held in mixer.kv[1:]) * mixer.index_keys(whole)
    per_key = work.kv_elements - sum(held.elements for held in mixer.kv[1:])
    read = (seen * per_key + scored) * size + 2 * work.state_elements * STATE_BYTES
    return sequences * read


def decode_flops(work: LayerWork, *, sequences: int, context: float) -> float:
    """FLOPs of one token of each of `sequences`, on one rank."""
    mixer = work.mixer
    if mixer is None or not sequences:
        return 0.0
    pairs = mixer.keys(int(context)) * mixer.pair_flops(decode=True)
    other = mixer.index_keys(int(context)) * mixer.index_flops + mixer.token_flops
    return sequences * (pairs + other) * work.heads / mixer.heads


def chunk_flops(work: LayerWork, *, tokens: int, keys: float) -> float:
    """FLOPs of `tokens` of prompts that see `keys` each on average, on one rank."""
    mixer = work.mixer
    if mixer is None or not tokens:
        return 0.0
    pairs = mixer.pair_flops(decode=False) * mixer.keys(int(max(1.0, keys)))
    other = mixer.index_flops * mixer.index_keys(int(keys)) + mixer.token_flops
    return tokens * (pairs + other) * work.heads / mixer.heads
