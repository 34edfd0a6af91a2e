"""From logits to tokens, for all rows of a batch at once. A request draws the same tokens for the
same seed in any batch and layout: what a draw depends on is in its entry.

Shapes: T rows that sample, R of them that do more than take the likeliest token, V vocabulary, K
the likeliest tokens of a row.
"""

from hashlib import blake2b
from math import inf, isfinite

import torch

from wirecut.engine.messages import Draws, Logprobs
from wirecut.sched.sampling import Sampling
from wirecut.sched.step import Entry

FIRST_LOOK = 256  # of a row's likeliest tokens: most nuclei are smaller
# A 32-bit finalizer whose every output bit depends on every input bit (Wellons, "hash prospector",
# lowbias32), and 2**32 over the golden ratio to spread token ids.
SHIFTS_AND_FACTORS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32))
SPREAD = 0x9E3779B9 - 2**32


def sample(logits_TV: torch.Tensor, entries: list[Entry]) -> Draws:
    """One token per row, None where the logits are not finite. Of equals it is the lowest id."""
    most_T, tokens_T = logits_TV.max(dim=-1)  # a third of the time that argmax takes
    if rows := [i for i, entry in enumerate(entries) if not entry.sampling.takes_likeliest]:
        tokens_T[rows] = _draw(logits_TV[rows].float(), [entries[i] for i in rows])
    # All that the host asks of the device, which it waits for once; doubles hold tokens exactly.
    found = torch.stack([tokens_T, most_T.double()], dim=1).tolist()
    tokens = [int(token) if isfinite(most) else None for token, most in found]  # NaN is largest
    return Draws(tokens, _logprobs(logits_TV, tokens, entries))


def _draw(logits_RV: torch.Tensor, entries: list[Entry]) -> torch.Tensor:
    """Gumbel's trick: the maximum of logits / temperature + noise falls as the softmax does. Works
    in place, for the sake of CPUs: fresh memory costs them more than arithmetic.
    """
    asked, device = [entry.sampling for entry in entries], logits_RV.device
    if any(each.penalises for each in asked):
        _penalise(logits_RV, entries)
    heat_R1 = _column([each.temperature for each in asked], device)
    logits_RV -= logits_RV.amax(dim=-1, keepdim=True)
    logits_RV /= heat_R1.where(heat_R1 > 0, 1.0)
    logits_RV.masked_fill_(logits_RV < _cutoffs(logits_RV, asked), -inf)
    logits_RV += _noise(entries, logits_RV.shape[1], device).mul_(heat_R1 > 0)
    return logits_RV.argmax(dim=-1)


def _penalise(logits_RV: torch.Tensor, entries: list[Entry]) -> None:
    """Change the logits of tokens that are there already, S of them over all rows: W written ones
    among them, U of these different. Which they are is worked out on the host.
    """
    asked, device = [entry.sampling for entry in entries], logits_RV.device
    seen = bytearray().join(entry.seen for entry in entries)
    tokens_S = torch.frombuffer(seen, dtype=torch.int32).long()
    counts_R = torch.tensor([len(entry.seen) // 4 for entry in entries])
    rows_S = torch.arange(len(entries)).repeat_interleave(counts_R)
    left_R = counts_R.cumsum(0) - torch.tensor([entry.index for entry in entries])
    written_S = torch.arange(len(rows_S)) >= left_R[rows_S]
    at_2S = torch.stack([rows_S, tokens_S])
    at_2W = at_2S[:, written_S]
    (rows_S, tokens_S), (rows_W, tokens_W), (rows_U, tokens_U) = (
        at.to(device) for at in (at_2S, at_2W, at_2W.unique(dim=1))
    )
    factor_S = _column([each.repetition_penalty for each in asked], device)[rows_S, 0]
    before_S = logits_RV[rows_S, tokens_S]
    logits_RV[rows_S, tokens_S] = torch.where(
        before_S > 0, before_S / factor_S, before_S * factor_S
    )
    often_R1 = _column([each.frequency_penalty for each in asked], device)
    once_R1 = _column([each.presence_penalty for each in asked], device)
    logits_RV.index_put_((rows_W, tokens_W), -often_R1[rows_W, 0], accumulate=True)
    logits_RV[rows_U, tokens_U] -= once_R1[rows_U, 0]


def _cutoffs(scaled_RV: torch.Tensor, asked: list[Sampling]) -> torch.Tensor:
    """The least that a row's logits may be, (R, 1): its largest is 0."""
    device = scaled_RV.device
    cutoff_R1 = _column([each.min_p for each in asked], device).log()
    rows = [i for i, each in enumerate(asked) if each.top_k or each.top_p < 1]
    if rows:
        some_RV, some = scaled_RV[rows], [asked[i] for i in rows]
        look = max(FIRST_LOOK, *(each.top_k for each in some))
        if device.type != "cpu":  # sorting all takes less than asking whether some were enough
            look = scaled_RV.shape[1]
        cutoff_R1[rows] = torch.maximum(cutoff_R1[rows], _nucleus(some_RV, some, look))
    return cutoff_R1


def _nucleus(scaled_RV: torch.Tensor, asked: list[Sampling], look: int) -> torch.Tensor:
    """The smallest logit that `top_k` and then `top_p` leave in each row, found among the `look`
    likeliest where that is enough.
    """
    device, vocab = scaled_RV.device, scaled_RV.shape[1]
    top_RK = scaled_RV.topk(min(look, vocab)).values
    most_R1 = _column([each.top_k or vocab for each in asked], device).clamp_max(vocab)
    share_R1 = _column([each.top_p if each.top_p < 1 else inf for each in asked], device)
    top_RK = top_RK.masked_fill(torch.arange(top_RK.shape[1], device=device) >= most_R1, -inf)
    all_R1 = torch.where(
        most_R1 < vocab,
        top_RK.logsumexp(dim=-1, keepdim=True),
        scaled_RV.logsumexp(dim=-1, keepdim=True),
    )
    chance_RK = (top_RK - all_R1).exp()
    before_RK = chance_RK.cumsum(dim=-1) - chance_RK
    left_R1 = ((before_RK < share_R1) & (top_RK > -inf)).sum(dim=-1, keepdim=True)
    if look < vocab and bool(((left_R1 == top_RK.shape[1]) & (left_R1 < most_R1)).any()):
        return _nucleus(scaled_RV, asked, 8 * look)
    return top_RK.gather(1, left_R1.clamp_min(1) - 1)


def _noise(entries: list[Entry], vocab: int, device: torch.device) -> torch.Tensor:
    """Gumbel noise (R, V) that depends on the request's seed, the number of the token drawn and the
    token's id alone.
    """
    keys = [_keys(entry.sampling.seed, entry.index) for entry in entries]
    first_R1, second_R1 = torch.tensor(keys, dtype=torch.int32, device=device).T[:, :, None]
    bits_RV = torch.arange(vocab, dtype=torch.int32, device=device) * SPREAD + first_R1
    for key_R1 in (second_R1, first_R1):
        for shift, factor in SHIFTS_AND_FACTORS:
            bits_RV ^= (bits_RV >> shift).bitwise_and_(2 ** (32 - shift) - 1)
            bits_RV *= factor
        bits_RV += key_R1
    uniform_RV = bits_RV.bitwise_and_(0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    waited_RV = uniform_RV.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()  # exponential
    return waited_RV.log_().neg_()


def _keys(seed: int, index: int) -> tuple[int, int]:
    """Two signed 32-bit numbers for token number `index` of a request."""
    digest = blake2b(
        seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8
    ).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4))


def _logprobs(
    logits_TV: torch.Tensor, tokens: list[int | None], entries: list[Entry]
) -> list[Logprobs | None]:
    """What each row asked for of the model's own log-probabilities; empty when none did."""
    rows = {
        i: asked
        for i, (entry, token) in enumerate(zip(entries, tokens, strict=True))
        if (asked := entry.sampling.logprobs) is not None and token is not None
    }
    if not rows:
        return []
    at = list(rows)
    all_RV = logits_TV[at].float().log_softmax(dim=-1)
    chosen = all_RV.gather(1, torch.tensor([[tokens[i]] for i in at], device=all_RV.device))
    most = min(max(rows.values()), all_RV.shape[1])
    values, ids = all_RV.topk(most)
    found = torch.cat([chosen, values, ids.double()], dim=1).tolist()
    told: list[Logprobs | None] = [None] * len(entries)
    for place, (i, count) in enumerate(rows.items()):
        of_chosen, *rest = found[place]
        top = list(zip(map(int, rest[most:][:count]), rest[:most][:count], strict=True))
        told[i] = Logprobs(of_chosen, top)
    return told


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    """(R, 1), one value per row."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]
