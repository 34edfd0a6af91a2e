"""Requests that are refused, cancelled or fail, and all that can happen to them meanwhile."""

import pytest

from sched_fake import FakeEngine, create_scheduler, shares, started
from wirecut.errors import UsageError
from wirecut.sched.request import Request
from wirecut.sched.scheduler import Finished, Scheduler


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
