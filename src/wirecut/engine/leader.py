"""The first rank of a replica: owns the scheduler, tells the others each step, hears the tokens.

Leader(rank, process.channel).run()     # until the front says Stop and nothing is left to do
"""

from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING

import msgspec

from wirecut.engine.messages import Cancel, Dealt, Draws, News, Sampled, Stop, Submit
from wirecut.errors import during
from wirecut.machine.channel import Channel
from wirecut.sched.request import Request
from wirecut.sched.scheduler import Scheduler
from wirecut.sched.step import END, JOIN, REST, Step

if TYPE_CHECKING:
    from wirecut.engine.worker import Rank

IDLE_S = 20.0  # an idle replica sends an empty step this often, so that no socket times out

_encode = msgspec.msgpack.Encoder().encode
_decode_draws = msgspec.msgpack.Decoder(Draws).decode


class Leader:
    """The loop of a replica: requests in, steps out, tokens back, as many steps in flight as
    stages.
    """

    def __init__(self, rank: "Rank", channel: Channel) -> None:
        self._rank, self._channel = rank, channel
        limits, layout = rank.task.limits, rank.cut.layout
        self._scheduler = Scheduler(
            num_blocks=rank.num_blocks,
            block_tokens=rank.task.block_tokens,
            max_batched_tokens=limits.max_batched_tokens,
            max_seqs=limits.max_seqs,
            max_in_flight=layout.pp,
            max_positions=rank.max_positions,
            attention_tokens=rank.attention_tokens,
            prefix_cache=limits.prefix_cache,
            longest_short=rank.longest_short,
        )
        self._in_flight: deque[tuple[Step, Draws | None]] = deque()
        self._heard = 0  # messages
        self._stopping = False

    def run(self) -> None:
        """Serve until told to stop and nothing is left to do."""
        depth, rounds, idle = self._rank.cut.layout.pp, self._rank.wires.rounds, True
        while not (idle and self._stopping):
            self._hear(idle=idle)
            step = self._scheduler.schedule()
            anyone, alike = rounds.agree(step is not None, self._heard)
            if anyone:
                step = step or JOIN
                self._tell(step)
                self._in_flight.append((step, self._rank.forward(step)))
            idle = alike and not self._in_flight
            if self._in_flight and (len(self._in_flight) == depth or not anyone):
                self._commit()
        self._tell(END)
        self._channel.send(self._dealt())

    def _hear(self, *, idle: bool) -> None:
        """Take what the front has sent; when idle, wait for it."""
        while (idle and not self._stopping) or self._channel.waiting():
            try:
                with self._rank.log.span("wait for requests"):
                    message = self._channel.receive(timeout_s=IDLE_S)
            except TimeoutError:
                self._tell(REST)
                continue
            idle = False
            self._heard += 1
            if isinstance(message, Stop):
                self._stopping = True
                return
            if isinstance(message, Submit):
                self._scheduler.add(_request(message))
            elif isinstance(message, Cancel) and (done := self._scheduler.cancel(message.id)):
                self._channel.send(Sampled([News(message.id, reason=done.reason)]))

    def _dealt(self) -> Dealt:
        dealt = self._scheduler
        return Dealt(
            prompt_tokens=dealt.num_prompt_tokens,
            cached_tokens=dealt.num_cached_tokens,
            preemptions=dealt.num_preemptions,
            outgrown=dealt.num_outgrown,
            recomputed_tokens=dealt.num_recomputed_tokens,
        )

    def _tell(self, step: Step) -> None:
        if self._rank.wires.steps:
            self._rank.wires.steps.send(_encode(step))

    def _commit(self) -> None:
        """Take the tokens of the oldest step, and pass them on."""
        step, draws = self._in_flight.popleft()
        if step == JOIN:
            return
        if self._rank.wires.tokens:
            with during(step.name):
                draws = _decode_draws(self._rank.wires.tokens.receive())
        assert draws is not None
        ids = [entry.request_id for entry in step.entries if entry.samples]
        by_request = dict(zip(ids, draws.tokens, strict=True))
        reasons = {f.request_id: f.reason for f in self._scheduler.commit(step, by_request)}
        news = [
            News(int(i), token, reasons.pop(i, None), self._failure(step, token), logprobs, logits)
            for (i, token), logprobs, logits in zip_longest(
                by_request.items(), draws.logprobs, draws.logits
            )
        ]
        news += [News(int(i), reason=reason) for i, reason in reasons.items()]  # cancelled
        if news:
            self._channel.send(Sampled(news))

    def _failure(self, step: Step, token: int | None) -> str:
        if token is not None:
            return ""
        layout, at = self._rank.cut.layout, self._rank.at
        drawn_by = layout.rank(dp=at["dp"], pp=layout.pp - 1)
        return (
            f"rank {drawn_by}, {step.name}: the logits are not finite (NaN, or nothing is "
            "possible). The weights hold such values, or they overflow: try --dtype fp32"
        )


def _request(message: Submit) -> Request:
    return Request(
        id=message.id,
        prompt=message.prompt,
        max_tokens=message.max_tokens,
        stop_tokens=frozenset(message.stop_tokens),
        ignore_eos=message.ignore_eos,
        sampling=message.sampling,
    )
