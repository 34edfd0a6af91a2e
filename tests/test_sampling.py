"""Drawing tokens: each knob against transformers' own, distributions against the softmax, seeds in
any company.
"""

import math
from array import array

import msgspec
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wirecut.engine import sampling
from wirecut.engine.messages import Draws
from wirecut.engine.sampling import sample
from wirecut.errors import UsageError
from wirecut.sched.sampling import Sampling
from wirecut.sched.step import Entry

VOCAB = 1000


def entry(*, index=0, prompt=(), written=(), **fields) -> Entry:
    asked = Sampling(**fields)
    seen = array("i", (*prompt, *written)).tobytes() if asked.penalises else b""
    return Entry("a", 0, (1,), (0,), True, asked, index or len(written), seen)


def logits_of(rows: int, *, vocab=VOCAB, seed=0, spread=3.0) -> torch.Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def draws(logits_V: torch.Tensor, count: int, **fields) -> torch.Tensor:
    """How often each token is drawn in `count` draws with as many indices."""
    rows = logits_V.expand(count, -1)
    drawn = sample(rows, [entry(index=i + 1, **fields) for i in range(count)]).tokens
    return torch.bincount(torch.tensor(drawn), minlength=logits_V.numel()).double()


def chi_square_is_fine(seen_V: torch.Tensor, chance_V: torch.Tensor) -> bool:
    """Of tokens due at least 5 times; within 5 standard deviations of its mean."""
    due_V = chance_V * seen_V.sum()
    many_V = due_V >= 5
    seen, due = ([*part[many_V].tolist(), part[~many_V].sum().item()] for part in (seen_V, due_V))
    cells = [(s, d) for s, d in zip(seen, due, strict=True) if d >= 5]
    square, freedom = sum((s - d) ** 2 / d for s, d in cells), len(cells) - 1
    return square < freedom + 5 * math.sqrt(2 * freedom)


KNOBS = [
    ({"top_k": 7}, [TopKLogitsWarper(7)]),
    ({"top_k": 400}, [TopKLogitsWarper(400)]),
    ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
    ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
    ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
    (
        {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
        [TopKLogitsWarper(50), TopPLogitsWarper(0.8), MinPLogitsWarper(0.01)],
    ),
]


@pytest.mark.parametrize(("fields", "warpers"), KNOBS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_what_is_left_is_what_transformers_leaves(fields, warpers, temperature):
    logits_TV = logits_of(6)
    scaled_TV = TemperatureLogitsWarper(temperature)(None, logits_TV)
    theirs_TV = LogitsProcessorList(warpers)(torch.empty(6, 0), scaled_TV)
    asked = [Sampling(temperature=temperature, **fields)] * 6
    ours_TV = scaled_TV - scaled_TV.amax(dim=-1, keepdim=True)
    kept_TV = ours_TV >= sampling._cutoffs(ours_TV, asked)
    assert torch.equal(kept_TV, theirs_TV > -math.inf)


def test_a_nucleus_wider_than_the_first_look_is_whole():
    flat_TV = logits_of(2, spread=0.01)
    theirs_TV = TopPLogitsWarper(0.9)(torch.empty(2, 0), flat_TV)
    ours_TV = flat_TV - flat_TV.amax(dim=-1, keepdim=True)
    kept_TV = ours_TV >= sampling._cutoffs(ours_TV, [Sampling(temperature=1, top_p=0.9)] * 2)
    assert kept_TV.sum(dim=-1).tolist() == (theirs_TV > -math.inf).sum(dim=-1).tolist()
    assert kept_TV.sum() > 2 * sampling.FIRST_LOOK


def test_rows_with_knobs_of_their_own_do_not_touch_each_other():
    logits_TV = logits_of(4)
    mixed = [
        entry(),
        entry(temperature=1.0, top_k=3, seed=1),
        entry(temperature=0.5, top_p=0.5, seed=2),
        entry(repetition_penalty=1.8, prompt=range(VOCAB)[::2]),
    ]
    together = sample(logits_TV, mixed).tokens
    alone = [sample(logits_TV[i : i + 1], [mixed[i]]).tokens[0] for i in range(4)]
    assert together == alone
    assert together[0] == logits_TV[0].argmax().item()


@pytest.mark.parametrize("penalty", [0.6, 1.3, 5.0])
def test_repetition_penalty_is_transformers(penalty):
    logits_TV, seen = logits_of(3), [(5, 9, 5, 900), (1,), tuple(range(400))]
    entries = [entry(prompt=each, repetition_penalty=penalty) for each in seen]
    ours_TV = logits_TV.clone()
    sampling._penalise(ours_TV, entries)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for ours_V, row_V, each in zip(ours_TV, logits_TV, seen, strict=True):
        torch.testing.assert_close(ours_V[None], processor(torch.tensor([each]), row_V[None]))


def test_presence_and_frequency_count_the_answer_and_not_the_prompt():
    logits_TV = logits_of(2)
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    entries = [entry(prompt=(7, 8), written=(3, 3, 3, 7), **penalties), entry(prompt=(3,), seed=1)]
    ours_TV = logits_TV.clone()
    sampling._penalise(ours_TV, entries)
    expected_TV = logits_TV.clone()
    expected_TV[0, 3] -= 0.5 + 3 * 0.25
    expected_TV[0, 7] -= 0.5 + 0.25
    torch.testing.assert_close(ours_TV, expected_TV)


@pytest.mark.parametrize("fields", [{}, {"top_k": 12}, {"top_p": 0.6}, {"min_p": 0.1}])
def test_draws_fall_as_the_softmax_of_what_is_left(fields):
    logits_V = logits_of(1, vocab=200, spread=1.5)[0]
    heat = 0.8
    scaled_1V = (logits_V - logits_V.max())[None] / heat
    cutoff = sampling._cutoffs(scaled_1V, [Sampling(temperature=heat, **fields)])
    chance_V = scaled_1V.masked_fill(scaled_1V < cutoff, -math.inf).softmax(dim=-1)[0].double()
    seen_V = draws(logits_V, 20_000, temperature=heat, seed=3, **fields)
    assert seen_V[chance_V == 0].sum() == 0
    assert chi_square_is_fine(seen_V, chance_V)
    wrong_V = (scaled_1V * 0.9).softmax(dim=-1)[0].double()
    assert not chi_square_is_fine(seen_V, wrong_V)


def test_tokens_drawn_one_after_another_and_of_neighbouring_seeds_are_independent():
    logits_V = torch.zeros(8)
    for seeds, indices in (([5] * 8001, range(8001)), (range(8001), [2] * 8001)):
        rows = [
            entry(index=i, temperature=1.0, seed=s) for s, i in zip(seeds, indices, strict=True)
        ]
        tokens = torch.tensor(sample(logits_V.expand(8001, -1), rows).tokens)
        pairs = torch.bincount(8 * tokens[:-1] + tokens[1:], minlength=64).double()
        assert chi_square_is_fine(pairs, torch.full((64,), 1 / 64, dtype=torch.float64))


def test_a_seed_draws_the_same_in_any_batch_and_row():
    logits_TV = logits_of(5)
    one = entry(index=4, temperature=1.5, seed=99)
    alone = sample(logits_TV[2:3], [one]).tokens[0]
    others = [entry(temperature=2.0, seed=i) for i in range(5)]
    others[2] = one
    assert sample(logits_TV, others).tokens[2] == alone
    rounded = logits_TV + 1e-6 * logits_of(5, seed=1)  # as another layout adds up
    assert sample(rounded, others).tokens[2] == alone


def test_an_only_candidate_is_taken_whatever_the_noise():
    logits_V = logits_of(1)[0]
    assert draws(logits_V, 500, temperature=5.0, top_k=1)[logits_V.argmax()] == 500


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_p": 0.9, "logprobs": 2}])
def test_a_row_that_is_not_finite_is_none_and_its_neighbours_go_on(bad, fields):
    logits_TV = logits_of(3)
    expected = sample(logits_TV, [entry(**fields)] * 3).tokens
    spoilt_TV = logits_TV.clone()
    spoilt_TV[1] = bad
    drawn = sample(spoilt_TV, [entry(**fields)] * 3)
    assert drawn.tokens == [expected[0], None, expected[2]]
    one_nan_TV = logits_TV.clone()
    one_nan_TV[1, 17] = math.nan
    assert sample(one_nan_TV, [entry(**fields)] * 3).tokens[1] is None


def test_masked_logits_are_never_drawn():
    logits_V = torch.full((50,), -math.inf)
    logits_V[[3, 30]] = 0.0
    seen_V = draws(logits_V, 400, temperature=1.0, top_p=0.95)
    assert seen_V[3] + seen_V[30] == 400
    assert min(seen_V[3], seen_V[30]) > 120


@pytest.mark.parametrize(
    ("fields", "waits"),
    [
        ({}, 1),
        ({"temperature": 1.0, "top_p": 0.9, "frequency_penalty": 0.5, "prompt": (1, 2)}, 1),
        ({"logprobs": 3}, 2),
    ],
)
def test_the_host_waits_once_for_tokens_and_once_for_logprobs(fields, waits, monkeypatch):
    asked, tolist = [], torch.Tensor.tolist

    def counted(x):
        asked.append(x)
        return tolist(x)

    def refused(x):
        raise AssertionError("one number at a time")

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(torch.Tensor, "item", refused)
    assert None not in sample(logits_of(3), [entry(**fields)] * 3).tokens
    assert len(asked) == waits


def test_logprobs_are_the_models_own():
    logits_TV = logits_of(3)
    asked = [
        entry(logprobs=0),
        entry(),
        entry(temperature=2.0, top_k=5, seed=4, logprobs=3, presence_penalty=2.0, prompt=(1,)),
    ]
    drawn = sample(logits_TV, asked)
    own_TV = logits_TV.log_softmax(dim=-1)
    assert drawn.logprobs[0].top == []
    assert drawn.logprobs[1] is None
    for row in (0, 2):
        chosen = own_TV[row, drawn.tokens[row]].item()
        assert drawn.logprobs[row].chosen == pytest.approx(chosen)
    values, ids = own_TV[2].topk(3)
    assert [token for token, _ in drawn.logprobs[2].top] == ids.tolist()
    assert [value for _, value in drawn.logprobs[2].top] == pytest.approx(values.tolist())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(drawn), type=Draws) == drawn
    assert sample(logits_TV, [entry()] * 3).logprobs == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", -0.1, "temperature is -0.1, expected 0.0 to 100.0"),
        ("temperature", math.nan, "temperature is nan"),
        ("temperature", math.inf, "temperature is inf"),
        ("top_k", -1, "top_k is -1"),
        ("top_p", 0.0, "top_p is 0.0, expected more than 0.0 to 1.0"),
        ("top_p", 1.1, "top_p is 1.1"),
        ("min_p", -0.5, "min_p is -0.5"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0.0, expected more than"),
        ("presence_penalty", 2.5, "presence_penalty is 2.5, expected -2.0 to 2.0"),
        ("frequency_penalty", math.nan, "frequency_penalty is nan"),
        ("seed", -1, "seed is -1"),
        ("logprobs", 21, "logprobs is 21, expected 0 to 20"),
    ],
)
def test_what_means_nothing_is_refused(name, value, words):
    Sampling().check()
    with pytest.raises(UsageError, match=words):
        Sampling(**{name: value}).check()


def test_a_greedy_entry_is_as_short_as_one_without_knobs():
    assert len(msgspec.msgpack.encode(Entry(7, 300, (5,), (1, 2), True, index=9))) < 20
    asked = entry(temperature=0.5, seed=2**62)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Entry) == asked
