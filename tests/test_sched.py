"""The scheduler by hand: scenarios small enough to write down every entry."""

import math
from array import array

import msgspec
import pytest

from sched_fake import FakeEngine, create_requests, create_scheduler, token_at
from wirecut.errors import UsageError
from wirecut.sched.blocks import BlockPool
from wirecut.sched.request import Request
from wirecut.sched.sampling import Sampling
from wirecut.sched.scheduler import Finished, Scheduler
from wirecut.sched.step import Entry, Step
from wirecut.sched.weight import Weights


def shares(step: Step | None) -> list[tuple]:
    """(request, start, number of tokens, samples) per entry."""
    return [(e.request_id, e.start, len(e.tokens), e.samples) for e in step.entries]


def started(lengths, *, max_tokens=4, fields=None, **changes) -> FakeEngine:
    engine = FakeEngine(create_scheduler(**changes))
    engine.add(*create_requests(lengths, max_tokens=max_tokens, **(fields or {})))
    return engine


def test_one_request_is_prefilled_then_decoded_token_by_token():
    engine = started([5], max_tokens=3)
    assert shares(engine.schedule()) == [("a", 0, 5, True)]
    assert engine.schedule() is None
    assert engine.commit() == []
    assert shares(engine.schedule()) == [("a", 5, 1, True)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 6, 1, True)]
    assert engine.commit() == [Finished("a", "length")]
    assert engine.requests["a"].output == [token_at("a", p) for p in (5, 6, 7)]
    assert engine.schedule() is None
    assert not engine.scheduler.has_work
    engine.check_empty()


def test_prompts_are_cut_to_the_budget_and_mixed_with_decodes():
    engine = started([3, 20], max_batched_tokens=8)
    assert shares(engine.schedule()) == [("a", 0, 3, True), ("b", 0, 5, False)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 3, 1, True), ("b", 5, 7, False)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 4, 1, True), ("b", 12, 7, False)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 5, 1, True), ("b", 19, 1, True)]
    assert engine.commit() == [Finished("a", "length")]
    assert shares(engine.schedule()) == [("b", 20, 1, True)]


def test_an_entry_carries_all_that_a_rank_needs():
    hot = Sampling(temperature=0.5, seed=7, presence_penalty=1.0)
    engine = started([6], max_tokens=2, fields={"sampling": hot}, max_batched_tokens=4)
    prompt, written = (1000, 1001, 1002, 1003, 1004, 1005), token_at("a", 6)
    assert engine.schedule().entries == (Entry("a", 0, (1000, 1001, 1002, 1003), (0, 1), False),)
    engine.commit()
    assert engine.schedule().entries == (
        Entry("a", 4, (1004, 1005), (0, 1), True, hot, 0, array("i", prompt).tobytes()),
    )
    engine.commit()
    step = engine.schedule()
    seen = array("i", (*prompt, written)).tobytes()
    assert step.entries == (Entry("a", 6, (written,), (0, 1), True, hot, 1, seen),)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(step), type=Step) == step


def test_a_stop_token_ends_a_request_and_stands_in_its_output():
    stop = frozenset({token_at("a", 6)})
    engine = started([5], fields={"stop_tokens": stop})
    engine.run()
    assert engine.finished == {"a": "stop"}
    assert engine.requests["a"].output == [token_at("a", 5), token_at("a", 6)]


def test_ignore_eos_goes_on_past_a_stop_token():
    stop = frozenset({token_at("a", 6)})
    engine = started([5], fields={"stop_tokens": stop, "ignore_eos": True})
    engine.run()
    assert engine.finished == {"a": "length"}
    assert len(engine.requests["a"].output) == 4


def test_max_seqs_bounds_the_running():
    engine = started([2, 2, 2], max_tokens=2, max_seqs=2)
    assert shares(engine.schedule()) == [("a", 0, 2, True), ("b", 0, 2, True)]
    engine.commit()
    engine.schedule()
    assert engine.commit() == [Finished("a", "length"), Finished("b", "length")]
    assert shares(engine.schedule()) == [("c", 0, 2, True)]


def test_the_next_chunk_goes_out_while_the_first_is_in_flight():
    engine = started([10], max_batched_tokens=4, max_in_flight=2)
    assert shares(engine.schedule()) == [("a", 0, 4, False)]
    assert shares(engine.schedule()) == [("a", 4, 4, False)]
    assert engine.schedule() is None  # as many in flight as stages
    engine.commit()
    assert shares(engine.schedule()) == [("a", 8, 2, True)]
    engine.commit()
    assert engine.schedule() is None  # the token sampled is not back
    engine.commit()
    assert shares(engine.schedule()) == [("a", 10, 1, True)]


def test_decodes_are_dealt_evenly_over_the_stages():
    engine = started([2] * 5, max_tokens=6, max_in_flight=2)
    assert len(engine.schedule().entries) == 5
    engine.commit()
    assert [e.request_id for e in engine.schedule().entries] == ["a", "b", "c"]
    assert [e.request_id for e in engine.schedule().entries] == ["d", "e"]
    engine.commit()
    assert [e.request_id for e in engine.schedule().entries] == ["a", "b", "c"]
    engine.commit()
    assert [e.request_id for e in engine.schedule().entries] == ["d", "e"]


def test_a_budget_smaller_than_the_decodes_serves_them_in_turn():
    engine = started([1] * 3, max_tokens=4, max_batched_tokens=2)
    seen = []
    for _ in range(6):
        seen.append([e.request_id for e in engine.schedule().entries])
        engine.commit()
    assert seen == [["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"], ["c"], ["c"]]


def test_the_youngest_is_preempted_and_computes_the_same_again():
    # 5 blocks of 4 tokens; a and b start with two each, a takes the fifth for its 9th token
    engine = started([7, 7], max_tokens=9, num_blocks=5)
    assert shares(engine.schedule()) == [("a", 0, 7, True), ("b", 0, 7, True)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 7, 1, True), ("b", 7, 1, True)]
    for start in (8, 9, 10, 11):
        engine.commit()
        assert shares(engine.schedule()) == [("a", start, 1, True)]  # b is stuck, and keeps its two
    assert engine.scheduler.num_preemptions == 0
    engine.commit()
    assert shares(engine.schedule()) == [("a", 12, 1, True)]  # a's 13th token takes b's blocks
    assert engine.scheduler.num_preemptions == 1
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (1, 1)
    assert len(engine.requests["b"].output) == 2  # kept
    while "a" not in engine.finished:
        engine.commit()
        step = engine.schedule()
    assert shares(step) == [("b", 4, 5, True)]  # a took one block, the other is found again
    assert engine.scheduler.num_recomputed_tokens == 4
    known = (*engine.requests["b"].prompt, *engine.requests["b"].output)
    assert step.entries[0].tokens == known[4:]
    engine.run()
    assert engine.requests["b"].output == engine.expected_output("b")


def test_a_request_in_flight_is_not_preempted():
    engine = started([6, 7], max_tokens=8, num_blocks=5, max_in_flight=2)
    engine.schedule()
    engine.commit()
    assert shares(engine.schedule()) == [("a", 6, 1, True)]
    assert shares(engine.schedule()) == [("b", 7, 1, True)]
    engine.commit()
    assert shares(engine.schedule()) == [("a", 7, 1, True)]
    engine.commit()
    assert shares(engine.schedule()) == [("b", 8, 1, True)]  # into the fifth block
    engine.commit()
    assert engine.schedule() is None  # a wants a third block; b, younger, is in flight
    assert engine.scheduler.num_preemptions == 0
    engine.commit()
    assert shares(engine.schedule()) == [("a", 8, 1, True)]
    assert engine.scheduler.num_preemptions == 1
    engine.run()
    assert engine.requests["b"].output == engine.expected_output("b")


def test_an_older_request_never_gives_way_to_a_younger():
    engine = started([6, 7], max_tokens=8, num_blocks=5)
    engine.schedule()
    engine.commit()
    engine.schedule()
    engine.commit()
    assert shares(engine.schedule()) == [("a", 7, 1, True), ("b", 8, 1, True)]  # b has the fifth
    engine.commit()
    assert shares(engine.schedule()) == [("a", 8, 1, True)]  # and gives it to a
    assert engine.scheduler.num_preemptions == 1
    engine.run()
    assert engine.requests["a"].num_computed == 13  # never set back: all but the last token
    assert all(r.output == engine.expected_output(r.id) for r in engine.requests.values())


def test_a_waiting_request_needs_room_for_all_it_knows_and_for_others_to_grow():
    engine = started([7, 4], max_tokens=8, num_blocks=4)
    # a holds 2 of 4 blocks and may grow; b needs 1: 1 + 1 (a's next) + none to spare
    assert [e.request_id for e in engine.schedule().entries] == ["a", "b"]
    engine = started([7, 8], max_tokens=8, num_blocks=4)
    assert [e.request_id for e in engine.schedule().entries] == ["a"]
    engine.run()
    assert engine.scheduler.num_preemptions == 0


def test_a_pool_made_for_the_requests_takes_them_all_at_any_time():
    engine = started([9, 9, 9], max_tokens=7, num_blocks=16)
    engine.schedule()
    for _ in range(5):
        engine.commit()
        engine.schedule()
    engine.add(Request("late", (1,) * 9, 7))
    engine.commit()
    assert engine.schedule().entries[-1].request_id == "late"
    engine.run()
    assert engine.scheduler.num_preemptions == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("x", (1,) * 100, 157), r"257 tokens .* 256 tokens of KV room"),
        (Request("x", (), 4), "0 prompt tokens"),
        (Request("x", (1,), 0), "max_tokens 0"),
        (Request("a", (1,), 4), "in use"),
    ],
)
def test_add_refuses_what_could_never_be_served(request_, words):
    engine = started([5])
    with pytest.raises(UsageError, match=words):
        engine.scheduler.add(request_)
    engine.run()
    assert engine.finished == {"a": "length"}


def test_add_refuses_more_than_the_model_has_positions():
    scheduler = create_scheduler(max_positions=16)
    scheduler.add(Request("fits", (1,) * 10, 6))
    with pytest.raises(UsageError, match=r"17 tokens .* 16 positions of the model"):
        scheduler.add(Request("long", (1,) * 10, 7))


@pytest.mark.parametrize("name", ["num_blocks", "block_tokens", "max_batched_tokens", "max_seqs"])
def test_a_scheduler_without_room_is_refused(name):
    with pytest.raises(UsageError, match=name):
        create_scheduler(**{name: 0})


def test_a_request_that_fills_the_pool_to_the_last_token_finishes():
    engine = started([10], max_tokens=6, num_blocks=4)
    engine.run()
    assert engine.requests["a"].output == engine.expected_output("a")


def test_a_request_that_nothing_can_be_drawn_for_fails_alone_and_its_blocks_are_not_found():
    engine = FakeEngine(create_scheduler())
    engine.add(Request("bad", tuple(range(9)), 3), Request("good", tuple(range(50, 59)), 3))
    step = engine.scheduler.schedule()
    assert engine.scheduler.commit(step, {"bad": None, "good": 7}) == [Finished("bad", "failed")]
    assert engine.scheduler.num_running == 1
    engine.scheduler.add(Request("again", tuple(range(9)), 3))
    assert shares(engine.scheduler.schedule()) == [("good", 9, 1, True), ("again", 0, 9, True)]


def test_cancel_while_waiting_running_and_in_flight():
    engine = started([4, 4, 4, 4], max_seqs=3, max_tokens=3)
    assert engine.scheduler.cancel("d") == Finished("d", "cancelled")  # waiting
    assert engine.scheduler.cancel("d") is None
    assert engine.scheduler.cancel("nobody") is None
    engine.schedule()
    engine.commit()
    assert engine.scheduler.cancel("a") == Finished("a", "cancelled")  # between steps
    step = engine.schedule()
    assert [e.request_id for e in step.entries] == ["b", "c"]
    free = engine.scheduler.pool.num_free
    assert engine.scheduler.cancel("b") is None  # in flight
    assert engine.scheduler.pool.num_free == free
    assert engine.commit() == [Finished("b", "cancelled")]
    assert engine.scheduler.pool.num_free > free
    assert len(engine.requests["b"].output) == 1  # the token that came with the cancel is dropped
    assert shares(engine.schedule()) == [("c", 5, 1, True)]
    assert engine.commit() == [Finished("c", "length")]
    engine.check_empty()


def test_cancel_between_two_chunks_in_flight_waits_for_both():
    engine = started([12], max_batched_tokens=4, max_in_flight=2)
    engine.schedule()
    engine.schedule()
    engine.cancel("a")
    assert engine.commit() == []
    assert engine.schedule() is None
    assert engine.commit() == [Finished("a", "cancelled")]
    engine.check_empty()


def test_commit_out_of_order_is_our_own_bug():
    engine = started([12], max_batched_tokens=4, max_in_flight=2)
    engine.schedule()
    second = engine.schedule()
    with pytest.raises(AssertionError, match="step 1 came back, 0 is"):
        engine.scheduler.commit(second, {})


def test_ids_may_be_whole_numbers():
    scheduler = Scheduler(num_blocks=4, max_batched_tokens=8, max_seqs=1)
    scheduler.add(Request(3, (1, 2), 1))
    step = scheduler.schedule()
    assert scheduler.commit(step, {3: 9}) == [Finished(3, "length")]


# -- blocks that are shared


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


# -- equal time


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


# -- the pool of blocks


def test_a_growing_request_gets_the_next_block_though_others_start_after_it():
    pool = BlockPool(16)
    a, b = pool.lend(5), pool.lend(5)
    assert pool.grow(a, 2)
    assert pool.grow(b, 2)
    assert pool.grow(a, 3)
    assert (a.blocks, b.blocks) == ((0, 1, 2, 3, 4), (5, 6))


def test_a_request_goes_into_the_tightest_run_that_holds_all_of_it():
    pool = BlockPool(20)
    leases = [pool.lend(n) for n in (6, 1, 3, 1)]
    for lease in leases:
        assert pool.grow(lease, lease.most)
    pool.give_back(leases[0])  # free: 0-5, 7-9, 11-19
    pool.give_back(leases[2])
    late = pool.lend(3)
    assert pool.grow(late, 1)
    assert late.blocks == (7,)
    later = pool.lend(4)
    assert pool.grow(later, 1)
    assert later.blocks == (0,)


def test_blocks_meant_for_another_are_taken_last_and_from_their_far_half():
    pool = BlockPool(8)
    a, b = pool.lend(8), pool.lend(3)
    assert pool.grow(a, 2)
    assert pool.grow(b, 2)
    assert b.blocks == (5, 6)  # of 2-7 meant for a, the far half
    assert pool.grow(b, 1)
    assert b.blocks == (5, 6, 7)
    assert pool.grow(a, 3)
    assert a.blocks == (0, 1, 2, 3, 4)
    assert not pool.grow(a, 1)
    pool.give_back(b)
    assert pool.grow(a, 3)
    assert a.blocks == tuple(range(8))


def test_a_request_whose_run_was_cut_goes_on_behind_its_last_block():
    pool = BlockPool(11)
    x, a, b = pool.lend(3), pool.lend(8), pool.lend(2)
    for lease, count in ((x, 3), (a, 2), (b, 2), (a, 3)):
        assert pool.grow(lease, count)
    assert (a.blocks, b.blocks) == ((3, 4, 5, 6, 7), (8, 9))
    pool.give_back(x)  # 0-2 would hold the rest of a too
    pool.give_back(b)
    assert pool.grow(a, 1)
    assert a.blocks == (3, 4, 5, 6, 7, 8)


def test_grow_gives_all_or_nothing():
    pool = BlockPool(4)
    a, b = pool.lend(3), pool.lend(4)
    assert pool.grow(a, 3)
    assert not pool.grow(b, 2)
    assert (pool.num_free, b.blocks) == (1, ())
    assert pool.grow(b, 1)
    assert b.blocks == (3,)


def test_stages_share_the_prompts_that_wait():
    scheduler = Scheduler(
        num_blocks=64, max_batched_tokens=512, max_seqs=8, max_in_flight=2, min_chunk_tokens=64
    )
    scheduler.add(Request("long", tuple(range(300)), 4))
    steps = [scheduler.schedule(), scheduler.schedule()]
    assert [step.num_tokens for step in steps] == [150, 75]
    assert scheduler.schedule() is None


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning():
    pool = BlockPool(6)
    for name in (b"a", b"b"):
        lease = pool.lend(3)
        assert pool.grow(lease, 3)
        for i, block in enumerate(lease.blocks):
            pool.name(block, name + bytes([i]))
        pool.give_back(lease)
    first, second = ([name + bytes([i]) for i in range(3)] for name in (b"a", b"b"))
    pool.give_back(pool.lend(3, first[:2]))  # used later than the rest
    other = pool.lend(2)
    assert pool.grow(other, 2)
    assert other.blocks == (2, 5)
    assert pool.lend(3, first).blocks == (0, 1)
    assert pool.lend(3, second).blocks == (3, 4)
    assert pool.num_free == 0
