"""A forward as data: what it works on, and what it was found to cost.

    Batch(decodes=4, context=550)                     # one token for each of 4 sequences
    Batch(decodes=4, context=550, chunk=512, prompts=1, prefills=1)   # and a prompt beside them

Knows no prices: `step` fills it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from wirecut.cost.terms import Kind
from wirecut.fabric.fabric import Source
from wirecut.facts import fact


@fact
class Piece:
    """One named share of a forward, summed over its stages; `between_stages`: on a token's way, at
    no stage. `kind` is what the time is spent on; the words are made when asked for.
    """

    name: str
    seconds: float
    words: Callable[[], str]
    source: Source
    spread: float
    kind: Kind
    between_stages: bool = False

    @property
    def because(self) -> str:
        return self.words()


@dataclass(frozen=True)
class Forward:
    """One forward: per stage the seconds of compute and of wires, and its pieces, which are made
    when asked for.

    `handoffs_s` is per boundary, `back_s` for the tokens' return to the first stage.
    """

    make_pieces: Callable[[], tuple[Piece, ...]]
    compute_s: tuple[float, ...]
    wire_s: tuple[float, ...]
    handoffs_s: tuple[float, ...]
    back_s: float

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        return self.make_pieces()


@fact
class Batch:
    """What one forward works on: one token for each of `decodes` sequences that have `context`
    tokens (mean), and `chunk` tokens of `prompts` prompts, of each of which `before` tokens are in
    the cache (mean). `prefills` of the prompts end in it and want logits.

    `busy` devices work meanwhile, in all replicas; 0 means as many as when the fabric was measured.
    `replicas` have such a batch at the same time, which matters where they share experts; 0: all.
    """

    decodes: int = 0
    context: float = 0.0
    chunk: int = 0
    prompts: int = 0
    before: float = 0.0
    prefills: int = 0
    busy: int = 0
    replicas: int = 0

    def beside(self, busy: int, replicas: int) -> "Batch":
        """The same while so many devices and replicas are at work."""
        return Batch(
            self.decodes,
            self.context,
            self.chunk,
            self.prompts,
            self.before,
            self.prefills,
            busy,
            replicas,
        )

    @property
    def rows(self) -> int:
        return self.decodes + self.chunk

    @property
    def sequences(self) -> int:
        return self.decodes + self.prompts

    @property
    def logit_rows(self) -> int:
        return self.decodes + self.prefills

    @property
    def chunk_keys(self) -> float:
        """Keys that a token of the chunk sees, mean: what was before, and half of its own."""
        return self.before + (self.chunk / self.prompts + 1) / 2 if self.prompts else 0.0
