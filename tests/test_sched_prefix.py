"""Prompts that begin as an earlier one find what is computed of them."""

import pytest

from sched_fake import FakeEngine, create_scheduler, shares, started
from wirecut.sched.request import Request


def shared_prompts(*lengths, max_tokens=3) -> list[Request]:
    """Requests a, b, ... whose prompts are the beginnings of one text."""
    return [Request(chr(97 + i), tuple(range(n)), max_tokens) for i, n in enumerate(lengths)]


def test_a_prompt_seen_before_is_found_up_to_its_last_full_block():
    engine = FakeEngine(create_scheduler())
    first, longer, same = shared_prompts(12, 15, 12)
    engine.add(first)
    engine.run()
    engine.add(longer)
    assert shares(engine.schedule()) == [("b", 12, 3, True)]
    engine.add(same)
    engine.commit()
    assert shares(engine.schedule()) == [("b", 15, 1, True), ("c", 8, 4, True)]  # its last token is
    engine.run()
    assert all(r.output == engine.expected_output(r.id) for r in engine.requests.values())
    assert (engine.scheduler.num_prompt_tokens, engine.scheduler.num_cached_tokens) == (39, 20)


def test_requests_that_come_together_share_what_the_first_of_them_computes():
    engine = FakeEngine(create_scheduler(num_blocks=6))
    engine.add(*shared_prompts(13, 13, 13))
    assert shares(engine.schedule()) == [("a", 0, 13, True), ("b", 12, 1, True), ("c", 12, 1, True)]
    blocks = [engine.requests[name].blocks for name in "abc"]
    assert [b[:3] for b in blocks] == [blocks[0][:3]] * 3
    assert len({b[3] for b in blocks}) == 3
    engine.run()


def test_what_was_written_is_found_too():
    engine = FakeEngine(create_scheduler())
    engine.add(Request("a", tuple(range(6)), 7))
    engine.run()
    turn = (*range(6), *engine.requests["a"].output, 1, 2)
    engine.add(Request("b", turn, 2))
    assert shares(engine.schedule()) == [("b", 12, 3, True)]


def test_other_tokens_before_a_block_make_it_another():
    engine = FakeEngine(create_scheduler())
    engine.add(Request("a", (1, 2, 3, 4, 5, 6, 7, 8, 9), 1))
    engine.run()
    engine.add(Request("b", (1, 2, 3, 0, 5, 6, 7, 8, 9), 1))
    assert shares(engine.schedule()) == [("b", 0, 9, True)]


@pytest.mark.parametrize(("prefix_cache", "recomputed"), [(True, 4), (False, 8)])
def test_a_preempted_request_finds_what_nobody_took(prefix_cache, recomputed):
    engine = started([7, 7], max_tokens=9, num_blocks=5, prefix_cache=prefix_cache)
    engine.run()
    assert engine.scheduler.num_preemptions == 1
    assert engine.scheduler.num_recomputed_tokens == recomputed
    assert all(r.output == engine.expected_output(r.id) for r in engine.requests.values())


def test_without_a_prefix_cache_nothing_is_found():
    engine = FakeEngine(create_scheduler(prefix_cache=False))
    engine.add(*shared_prompts(12, 12))
    assert shares(engine.schedule()) == [("a", 0, 12, True), ("b", 0, 12, True)]
    engine.run()
    assert engine.scheduler.num_cached_tokens == 0


def test_cached_blocks_count_as_room_and_new_requests_mostly_get_stretches():
    engine, num_whole = FakeEngine(create_scheduler(num_blocks=16)), 0
    for i in range(20):
        engine.add(Request(i, tuple(range(100 * i, 100 * i + 12)), 8))
        engine.run()
        table = [e.blocks for step in engine.steps for e in step.entries if e.request_id == i][-1]
        num_whole += table == tuple(range(table[0], table[0] + 5))
    assert num_whole >= 15
