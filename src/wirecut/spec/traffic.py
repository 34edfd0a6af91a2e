"""What is asked of the deployment: how long prompts and answers are, and how many come at once."""

import math

from wirecut.errors import UsageError
from wirecut.facts import fact

MOST_TOKENS = 10**8
LEAST, MOST = 1e-9, 1e9  # of rates and targets: beyond them a number is a mistake


@fact
class Traffic:
    """Load on the whole deployment.

    Closed loop: `concurrency` users, each asking again when answered (default: 1). Open loop:
    `rate` requests per second, `math.inf` for all at the start. `num_requests` makes the run
    finite. `static_batch`: one batch started together and run to its end.
    """

    input_tokens: int = 512
    output_tokens: int = 128
    concurrency: int | None = None
    rate: float | None = None
    num_requests: int | None = None
    static_batch: bool = False
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "concurrency", "num_requests"):
            value = getattr(self, name)
            optional = name in ("concurrency", "num_requests")
            if value is None and optional:
                continue
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or not 1 <= value <= MOST_TOKENS
            ):
                raise UsageError(
                    f"{name} is {value!r}, expected a whole number from 1 to {MOST_TOKENS}"
                )
        for name in ("rate", "ttft_ms", "tpot_ms"):
            value = getattr(self, name)
            endless = name == "rate" and value == math.inf
            if value is not None and not endless and not LEAST <= value <= MOST:
                raise UsageError(f"{name} is {value!r}, expected a number from {LEAST} to {MOST:g}")
        if self.concurrency is not None and self.rate is not None:
            raise UsageError(
                "both concurrency and rate are given: a load is closed (concurrency) or open (rate)"
            )

    @property
    def requests_at_once(self) -> int | None:
        """The most requests that are there at the same time; None: any number, of an open load
        without an end.
        """
        if self.rate is not None and not self.static_batch:
            return self.num_requests
        if self.static_batch:
            return self.num_requests or self.concurrency or 1
        return min(self.concurrency or 1, self.num_requests or MOST_TOKENS)

    def describe(self) -> str:
        """'512 tokens in, 128 out, 8 at once'."""
        load = (
            f"{self.rate:g} requests/s"
            if self.rate is not None
            else f"{self.requests_at_once} at once"
        )
        return f"{self.input_tokens} tokens in, {self.output_tokens} out, {load}"
