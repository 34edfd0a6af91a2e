"""What is asked of an engine, and what comes back.

Prompt((1, 2, 3), max_tokens=16, sampling=Sampling(temperature=0.8, seed=7), stop=("\\n",))
"""

from dataclasses import dataclass, field, replace
from hashlib import blake2b

import msgspec

from wirecut.engine.messages import Logprobs
from wirecut.errors import UsageError, WirecutError
from wirecut.sched.request import Reason
from wirecut.sched.sampling import GREEDY, Sampling
from wirecut.spec.model import ModelSpec

BLOCK_TOKENS, GPU_BLOCK_TOKENS = 32, 256  # the latter are pages that a GPU's kernel reads
MOST_COPIES = 128


def block_tokens(*, on_gpus: bool) -> int:
    """Positions of a block of KV room."""
    return GPU_BLOCK_TOKENS if on_gpus else BLOCK_TOKENS


def kv_room(kv_tokens: int, *, on_gpus: bool) -> int:
    """What of so much KV room is whole blocks."""
    return kv_tokens - kv_tokens % block_tokens(on_gpus=on_gpus)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: token ids in, at most `max_tokens` out.

    The answer ends with a token of `stop_tokens`, unless they are to be ignored, or before the
    first of the strings `stop`.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY
    stop_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def copies(self, count: int) -> list["Prompt"]:
        """The same asked `count` times: the first as it is, the others with seeds made from its
        own. They share the prompt's keys and values. Raises UsageError.
        """
        if not 1 <= count <= MOST_COPIES:
            raise UsageError(f"n is {count}, expected 1 to {MOST_COPIES}")
        if count > 1 and self.sampling.temperature == 0:
            raise UsageError(
                f"n is {count} at temperature 0, which gives {count} equal answers: expected a "
                "temperature above 0, or n 1"
            )
        seeds = (self.sampling.seed, *(_seed(self.sampling.seed, i) for i in range(1, count)))
        return [
            replace(self, sampling=msgspec.structs.replace(self.sampling, seed=seed))
            for seed in seeds
        ]

    def check(self, spec: ModelSpec, kv_tokens: int | None = None) -> None:
        """Raise UsageError when this model cannot serve it, with KV room for `kv_tokens`."""
        if not self.tokens:
            raise UsageError("a prompt is empty: expected at least one token")
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}, expected at least 1")
        self.sampling.check()
        for what, tokens in (("token ids", self.tokens), ("stop tokens", self.stop_tokens)):
            if not all(0 <= token < spec.vocab for token in tokens):
                raise UsageError(f"the prompt has {what} outside 0 to {spec.vocab - 1}")
        if not all(self.stop):
            raise UsageError("a stop string is empty, expected some text")
        most = len(self.tokens) + self.max_tokens
        asked = f"{len(self.tokens)} tokens of prompt and {self.max_tokens} to write are {most}"
        if most > spec.max_positions:
            raise UsageError(f"{asked}, the model's window is {spec.max_positions}")
        if kv_tokens is not None and most > kv_tokens:
            raise UsageError(f"{asked}, there is KV room for {kv_tokens}")

    def error(self, spec: ModelSpec, kv_tokens: int | None = None) -> UsageError | None:
        """What `check` raises, as a value."""
        try:
            self.check(spec, kv_tokens)
        except UsageError as error:
            return error
        return None


@dataclass(slots=True)
class Answer:
    """What came back for one prompt: tokens, seconds from submission to each, why it ended, and
    the error if it failed. `text` only where the engine was given a tokenizer.
    """

    tokens: list[int] = field(default_factory=list[int])
    at_s: list[float] = field(default_factory=list[float])
    text: str = ""
    reason: Reason | None = None
    error: WirecutError | None = None
    logprobs: list[Logprobs] = field(default_factory=list[Logprobs])
    logits: list[bytes] = field(default_factory=list[bytes])

    def fail(self, error: WirecutError) -> None:
        """It ends here."""
        self.reason, self.error = "failed", error

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token; None when there is none."""
        return self.at_s[0] if self.at_s else None

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per token after the first; None when there is none."""
        return (self.at_s[-1] - self.at_s[0]) / (len(self.at_s) - 1) if len(self.at_s) > 1 else None


def _seed(seed: int, copy: int) -> int:
    digest = blake2b(f"{seed} {copy}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
