"""What looking at other tokens takes, whatever the mixer: bytes of cache read and FLOPs.

    cache_bytes(work, sequences=8, context=576, size=2)
    chunk_flops(work, tokens=512, keys=256)

Means over positions are taken where a window or a choice of keys bounds what a token sees.
"""

from wirecut.cost.work import LayerWork
from wirecut.spec.mixer import Mixer
from wirecut.spec.recurrent import Recurrent

POSITIONS = 8  # at which the mean over a chunk is taken
STATE_BYTES = 4.0  # recurrent states are kept in fp32


def mean_keys(work: LayerWork, before: float, tokens: float) -> float:
    """Keys that a token sees, mean over `tokens` that follow `before` others."""
    if work.mixer is None:
        return 0.0
    places = (before + tokens * (i + 0.5) / POSITIONS + 0.5 for i in range(POSITIONS))
    return sum(work.mixer.keys(place) for place in places) / POSITIONS


def cache_bytes(work: LayerWork, *, sequences: int, context: float, size: float) -> float:
    """Bytes of cache that one token of each of `sequences` reads on one rank, and of recurrent
    states that it reads and writes.
    """
    mixer = work.mixer
    if mixer is None or not sequences:
        return 0.0
    state = work.state_elements if isinstance(mixer, Recurrent) else 0
    read = mixer.read_elements(context, work.kv_heads) * size + 2 * state * STATE_BYTES
    return sequences * read


def decode_flops(work: LayerWork, *, sequences: int, context: float) -> float:
    """FLOPs of one token of each of `sequences`, on one rank."""
    mixer = work.mixer
    if mixer is None or not sequences:
        return 0.0
    return sequences * _flops(work, mixer, context, decode=True)


def chunk_flops(work: LayerWork, *, tokens: int, keys: float) -> float:
    """FLOPs of `tokens` of prompts that see `keys` each on average, on one rank."""
    mixer = work.mixer
    if mixer is None or not tokens:
        return 0.0
    return tokens * _flops(work, mixer, max(1.0, keys), decode=False)


def _flops(work: LayerWork, mixer: Mixer, context: float, *, decode: bool) -> float:
    """FLOPs of the last of `context` tokens: its rank's share of the heads, and all of an indexer,
    which every rank runs for itself.
    """
    pairs = mixer.keys(context) * mixer.pair_flops(decode=decode) + mixer.token_flops
    return pairs * work.heads / mixer.heads + mixer.index_keys(context) * mixer.index_flops
