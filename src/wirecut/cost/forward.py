"""A forward as data: what it works on, and what it was found to cost.

    Batch(rows=4, sequences=4, kv_tokens=2200, pairs=2200, logit_rows=4)  # decode of 4

Knows no prices: `step` fills it.
"""

from dataclasses import dataclass

from wirecut.fabric.fabric import Source


@dataclass(frozen=True, slots=True)
class Piece:
    """One named share of a forward, summed over its stages; `between_stages`: on a token's way, at
    no stage.
    """

    name: str
    seconds: float
    because: str
    source: Source
    spread: float
    between_stages: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward: its pieces, and per stage the seconds of compute and of wires.

    `handoffs_s` is per boundary, `back_s` for the tokens' return to the first stage.
    """

    pieces: tuple[Piece, ...]
    compute_s: tuple[float, ...]
    wire_s: tuple[float, ...]
    handoffs_s: tuple[float, ...]
    back_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward works on: `rows` tokens of `sequences` requests.

    `kv_tokens` are read from the cache, `pairs` is query tokens times the keys each sees,
    `logit_rows` rows want logits. `busy` devices work meanwhile, in all replicas; 0 means as many
    as when the fabric was measured.
    """

    rows: int
    sequences: int
    kv_tokens: float
    pairs: float
    logit_rows: int
    busy: int = 0
