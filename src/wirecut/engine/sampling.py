"""From logits to tokens. A request draws the same tokens for the same seed in any batch."""

import torch

from wirecut.sched.step import Entry


def sample(logits_TV: torch.Tensor, entries: list[Entry]) -> list[int]:
    """One token per row. Temperature 0 takes the likeliest (the lowest id of equals)."""
    tokens = logits_TV.argmax(dim=-1).tolist()
    for row, entry in enumerate(entries):
        if entry.temperature > 0:
            tokens[row] = _draw(logits_TV[row], entry)
    return tokens


def _draw(logits_V: torch.Tensor, entry: Entry) -> int:
    """Gumbel's trick: the maximum of logits / temperature + noise falls as the softmax does.

    The noise depends on the request's seed and the number of the token alone.
    """
    generator = torch.Generator().manual_seed((entry.seed * 1_000_003 + entry.index) % 2**63)
    uniform_V = torch.rand(logits_V.shape, generator=generator, dtype=torch.float64)
    noise_V = -torch.log(-torch.log(uniform_V.clamp_min(1e-300)))
    return int((logits_V.cpu().double() / entry.temperature + noise_V).argmax())
