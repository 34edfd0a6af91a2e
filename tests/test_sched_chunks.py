"""Chunks of prompts: their weight, and how stages share them."""

import math

import pytest

from sched_fake import create_scheduler
from wirecut.sched.request import Request
from wirecut.sched.scheduler import Scheduler
from wirecut.sched.weight import Weights


def test_later_chunks_of_a_long_prompt_take_fewer_tokens_for_the_same_weight():
    scheduler = create_scheduler(
        num_blocks=512, max_batched_tokens=100, max_seqs=8, attention_tokens=200
    )
    scheduler.add(Request("long", tuple(range(1000)), 4))
    sizes, weights = [], []
    while (step := scheduler.schedule()) is not None and not step.entries[0].samples:
        sizes.append(step.num_tokens)
        weights.append(scheduler.weights.of(step.entries[0].start, step.num_tokens))
        scheduler.commit(step, {})
    assert sizes[0] == 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 30
    assert max(weights) <= scheduler.weights.of(0, 100) + 1e-9
    assert min(weights) > 0.95 * max(weights)


def test_decodes_far_into_their_text_leave_less_room_for_a_prompt():
    scheduler = create_scheduler(num_blocks=512, max_batched_tokens=100, attention_tokens=200)
    scheduler.add(Request("old", tuple(range(80)), 4))
    scheduler.commit(scheduler.schedule(), {"old": 1})
    scheduler.add(Request("new", tuple(range(500, 700)), 4))
    decode, chunk = scheduler.schedule().entries
    assert len(decode.tokens) == 1
    whole = scheduler.weights.of(0, 100)
    assert len(chunk.tokens) == scheduler.weights.most(0, whole - scheduler.weights.of(80, 1))


@pytest.mark.parametrize("attention_tokens", [math.inf, 5.0, 28_000.0])
@pytest.mark.parametrize("start", [0, 1, 700, 100_000])
@pytest.mark.parametrize("count", [1, 7, 2048])
def test_the_most_that_fits_a_weight_is_what_weighs_it(attention_tokens, start, count):
    weights = Weights(attention_tokens)
    by_hand = sum(1 + p / attention_tokens for p in range(start, start + count))
    assert weights.of(start, count) == pytest.approx(by_hand)
    assert weights.most(start, by_hand + 1e-3) == count
    assert weights.most(start, by_hand - 1e-3) == count - 1


def test_stages_share_the_prompts_that_wait():
    scheduler = Scheduler(
        num_blocks=64, max_batched_tokens=512, max_seqs=8, max_in_flight=2, min_chunk_tokens=64
    )
    scheduler.add(Request("long", tuple(range(300)), 4))
    steps = [scheduler.schedule(), scheduler.schedule()]
    assert [step.num_tokens for step in steps] == [75, 64]
    assert scheduler.schedule() is None
