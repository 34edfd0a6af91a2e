"""One run of a cut on the built-in engine, with what was predicted beside what happened.

    run = run_cut(folder, pricing, cut, prompts, limits=limits)
    run.predicted.tpot_s, run.tpot_s, run.counted == run.formula

Prompts are token ids; answers have text where a tokenizer is given.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wirecut.cost.estimate import estimate
from wirecut.cost.exchange import copies_sent
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.cost.wire import WireItem, exchange_items, wire_items, wire_traffic
from wirecut.engine.engine import Engine, Totals
from wirecut.engine.load import Load
from wirecut.engine.messages import Dealt
from wirecut.engine.prompt import Answer, Prompt, kv_room
from wirecut.engine.text import Text
from wirecut.engine.timeline import Timeline
from wirecut.layout.plan import Cut, Limits
from wirecut.machine.world import RankHost
from wirecut.spec.traffic import Traffic

Comm = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run did. `counted` is what the ranks counted by axis, `formula` what the cost model
    says of it, `dealt` what the schedulers did, `load` who picked which experts, and
    `expected_copies` how many copies of rows that were to send had picks been random; `timeline`
    what each rank did when.
    """

    cut: Cut
    answers: tuple[Answer, ...]
    load_s: float
    bytes_read: tuple[int, ...]
    counted: Comm
    formula: Comm
    dealt: Dealt
    load: Load
    expected_copies: float
    predicted: Estimate | Rejected
    timeline: Timeline

    @property
    def ttft_s(self) -> float:
        """Mean seconds to the first token, over the answers that have one."""
        return statistics.mean(each.ttft_s for each in self.answers if each.ttft_s is not None)

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per token after the first; None when no answer has a second one."""
        known = [answer.tpot_s for answer in self.answers if answer.tpot_s is not None]
        return statistics.mean(known) if known else None

    @property
    def total_s(self) -> float:
        """Seconds from the submission to the last token of the last answer."""
        return _total_s(self.answers)

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens written per second, from the submission to the last token."""
        return sum(len(answer.tokens) for answer in self.answers) / self.total_s


def run_cut(
    folder: Path,
    pricing: Pricing,
    cut: Cut,
    prompts: Sequence[Prompt],
    *,
    limits: Limits,
    rounds: int = 1,
    trace: bool = False,
    hosts: Sequence[RankHost] = (),
    on_loaded: Callable[[], None] = lambda: None,
    text: Text | None = None,
    on_text: Callable[[int, str], None] = lambda index, piece: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Run:
    """Load, serve `prompts` together `rounds` times, count. Answers are those of the round that
    took the median time. With `text`, `on_text` hears (prompt, more of its answer) as it comes.
    With `trace` the timeline is of the whole run. Prompts that cannot be served fail in their
    answers; raises WirecutError when none can be.
    """
    on_gpus = any(pricing.fabric.devices[device].kind == "gpu" for device in cut.placement)
    room = kv_room(limits.kv_tokens, on_gpus=on_gpus)
    errors = [prompt.error(pricing.spec, room) for prompt in prompts]
    if errors[0] and all(errors):
        raise errors[0]
    good = [prompt for prompt, error in zip(prompts, errors, strict=True) if not error]
    passes = [[Answer() for _ in prompts] for _ in range(rounds)]
    with Engine(
        folder,
        cut,
        pricing.fabric,
        limits=limits,
        dtype=pricing.dtype,
        weights=pricing.spec.weights.linear,
        trace=trace,
        hosts=hosts,
        text=text,
        progress=progress,
    ) as engine:
        on_loaded()
        for answers in passes:
            for index, piece in engine.stream(prompts, answers):
                on_text(index, piece)
            if answers[0].error and all(answer.error for answer in answers):
                raise answers[0].error
        totals = engine.finish()
    return Run(
        cut=cut,
        answers=tuple(sorted(passes, key=_total_s)[rounds // 2]),
        load_s=engine.load_s,
        bytes_read=tuple(loaded.bytes_read for loaded in engine.loaded),
        counted=totals.comm,
        dealt=totals.dealt,
        load=totals.load,
        expected_copies=copies_sent(pricing, cut.layout, sum(r.tokens for r in totals.replicas)),
        formula=formula_of(pricing, cut, totals),
        predicted=estimate(pricing, cut, traffic_of(good)),
        timeline=totals.timeline,
    )


def _total_s(answers: Sequence[Answer]) -> float:
    return max(answer.at_s[-1] for answer in answers if answer.at_s)


def median_run(runs: Sequence[Run]) -> Run:
    """Of runs of one cut, the one whose whole answer took the median time."""
    return sorted(runs, key=lambda run: run.total_s)[len(runs) // 2]


def traffic_of(prompts: Sequence[Prompt]) -> Traffic:
    """The load that these prompts are: all there at the start."""
    return Traffic(
        input_tokens=round(statistics.mean(len(prompt.tokens) for prompt in prompts)),
        output_tokens=max(prompt.max_tokens for prompt in prompts),
        rate=float("inf"),
        num_requests=len(prompts),
    )


def formula_of(pricing: Pricing, cut: Cut, totals: Totals) -> Comm:
    """Calls and bytes by axis as the cost model has them, for the forwards that were run."""
    spec, layout, dtype = pricing.spec, cut.layout, pricing.dtype
    items: list[WireItem] = []
    for replica in totals.replicas:
        items += wire_items(
            spec,
            layout,
            forwards=replica.forwards,
            tokens=replica.tokens,
            logit_rows=replica.sampled_rows,
            gathers=replica.sampling_forwards,
            dtype=dtype,
        )
    together = totals.replicas[0].forwards + totals.replicas[0].joined
    items += exchange_items(spec, layout, forwards=together, copies=totals.load.copies, dtype=dtype)
    traffic = wire_traffic(items)
    return {axis: {"calls": one.calls, "bytes": one.bytes} for axis, one in traffic.items()}
