"""The scheduler by hand: scenarios small enough to write down every entry."""

from array import array

import msgspec

from sched_fake import shares, started, token_at
from wirecut.sched.request import Request
from wirecut.sched.sampling import Sampling
from wirecut.sched.scheduler import Finished
from wirecut.sched.step import Entry, Step


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
