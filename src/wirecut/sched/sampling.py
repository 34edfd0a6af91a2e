"""How a request wants its tokens drawn, as plain data that is checked at the edge and travels in
every step.

    Sampling(temperature=0.8, top_p=0.95, seed=7).check()      # raises UsageError
"""

from math import isfinite

import msgspec

from wirecut.errors import UsageError

MOST_LOGPROBS = 20
MOST_TEMPERATURE = 100.0
MOST_PENALTY = 2.0  # either way, of presence and frequency; as in OpenAI's API
MOST_REPETITION_PENALTY = 100.0


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The defaults take the likeliest token.

    Penalties change the logits first: `repetition_penalty` divides those above 0 and multiplies
    those below of every token that the prompt or the answer has; of the answer's tokens,
    `presence_penalty` is subtracted once and `frequency_penalty` as often as they are in it. Then,
    with a `temperature`, logits are divided by it and a token is drawn from the softmax of those
    that are left by `top_k` (0: all), of these by `top_p` (the likeliest that together reach it),
    of these by `min_p` (as likely as that share of the likeliest). Tokens as likely as the last one
    that is left are left too. At temperature 0 the three change nothing.

    `logprobs` asks for the log-probability of each token and of so many likeliest ones, before any
    of this.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logprobs: int | None = None

    @property
    def penalises(self) -> bool:
        """Whether a draw asks which tokens are there already."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the token is the likeliest, and that is all."""
        return self.temperature == 0 and not self.penalises

    def check(self) -> None:
        """Raise UsageError for a value that means nothing."""
        _within("temperature", self.temperature, 0.0, MOST_TEMPERATURE)
        _within("top_k", self.top_k, 0, 2**31 - 1)
        _within("top_p", self.top_p, 0.0, 1.0, above=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within(
            "repetition_penalty", self.repetition_penalty, 0.0, MOST_REPETITION_PENALTY, above=True
        )
        _within("presence_penalty", self.presence_penalty, -MOST_PENALTY, MOST_PENALTY)
        _within("frequency_penalty", self.frequency_penalty, -MOST_PENALTY, MOST_PENALTY)
        _within("seed", self.seed, 0, 2**63 - 1)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MOST_LOGPROBS)


GREEDY = Sampling()


def _within(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Raise UsageError unless `value` lies from `low` (or `above` it) to `high`; NaN does not."""
    if not isfinite(value) or not low <= value <= high or (above and value == low):
        lowest = f"more than {low}" if above else f"{low}"
        raise UsageError(f"{name} is {value}, expected {lowest} to {high}")
