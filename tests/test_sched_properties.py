"""The scheduler under random traffic: FakeEngine checks every step, here stand traces and ends."""

from math import inf

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from sched_fake import VOCAB, FakeEngine, create_scheduler
from wirecut.sched.request import Request

BLOCK_TOKENS = 4

shapes = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(4, 24),
        "max_batched_tokens": st.integers(1, 40),
        "max_seqs": st.integers(1, 6),
        "max_in_flight": st.integers(1, 4),
        "attention_tokens": st.sampled_from([inf, 40.0, 3.0]),
        "prefix_cache": st.booleans(),
        "longest_short": st.sampled_from([None, 10]),
    }
)
asks = st.tuples(
    st.integers(1, 40),  # prompt tokens
    st.integers(1, 30),  # max_tokens
    st.booleans(),  # ignore_eos
    st.integers(0, 40),  # prompt tokens that every request begins with, as far as they go
)


def request_of(number: int, ask, scheduler) -> Request:
    """A request cut down to what the pool can hold at all; some tokens stop it."""
    num_prompt, max_tokens, ignore_eos, num_shared = ask
    room = scheduler.pool.num_blocks * BLOCK_TOKENS
    num_prompt = min(num_prompt, room - 1)
    return Request(
        number,
        tuple(p if p < num_shared else 100 * number + p for p in range(num_prompt)),
        min(max_tokens, room - num_prompt),
        stop_tokens=frozenset(range(0, VOCAB, 20)),
        ignore_eos=ignore_eos,
    )


def check_end(engine: FakeEngine, cancelled: set) -> None:
    """Every request came to its end with exactly the tokens it would have had alone, and gave back
    its blocks.
    """
    engine.check_empty()
    assert set(engine.finished) == set(engine.requests)
    for name, reason in engine.finished.items():
        output, expected = engine.requests[name].output, engine.expected_output(name)
        if reason == "cancelled":
            assert name in cancelled
            assert output == expected[: len(output)]
        else:
            assert output == expected
            stopped = output[-1] % 20 == 0 and not engine.requests[name].ignore_eos
            assert reason == ("stop" if stopped else "length")


@settings(max_examples=150, deadline=None)
@given(shapes, st.lists(asks, max_size=12))
def test_everything_finishes_with_the_tokens_it_would_have_alone(shape, many):
    engine = FakeEngine(create_scheduler(block_tokens=BLOCK_TOKENS, **shape))
    engine.add(*(request_of(i, ask, engine.scheduler) for i, ask in enumerate(many)))
    engine.run()
    check_end(engine, set())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 5), st.integers(1, 3))
def test_a_tight_pool_preempts_and_still_finishes_in_order_of_arrival(num_requests, depth):
    """All alike, so none may overtake an older one by more than what is in flight."""
    engine = FakeEngine(
        create_scheduler(block_tokens=BLOCK_TOKENS, num_blocks=8, max_in_flight=depth)
    )
    for i in range(num_requests):
        engine.add(Request(i, (i,) * 6, 24))
    engine.run()
    assert engine.scheduler.num_preemptions > 0
    assert list(engine.finished) == sorted(engine.finished)


class Traffic(RuleBasedStateMachine):
    """Arrivals, cancels, steps and commits in any order."""

    ids = Bundle("ids")

    @initialize(shape=shapes)
    def start(self, shape) -> None:
        self.engine = FakeEngine(create_scheduler(block_tokens=BLOCK_TOKENS, **shape))
        self.cancelled = set()

    @rule(target=ids, ask=asks)
    def arrive(self, ask):
        number = len(self.engine.requests)
        self.engine.add(request_of(number, ask, self.engine.scheduler))
        return number

    @rule(name=ids)
    def cancel(self, name) -> None:
        self.cancelled.add(name)
        self.engine.cancel(name)

    @rule(times=st.integers(1, 8))
    def schedule(self, times) -> None:
        for _ in range(times):
            if self.engine.schedule() is None:
                break

    @rule(times=st.integers(1, 8))
    def commit(self, times) -> None:
        for _ in range(min(times, len(self.engine.in_flight))):
            self.engine.commit()

    @rule(times=st.integers(1, 30))
    def run_full(self, times) -> None:
        for _ in range(times):
            while self.engine.schedule() is not None:
                pass
            if self.engine.in_flight:
                self.engine.commit()

    @invariant()
    def work_is_known(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            alive = set(engine.requests) - set(engine.finished)
            assert engine.scheduler.has_work == bool(alive)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.run()
            check_end(self.engine, self.cancelled)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
