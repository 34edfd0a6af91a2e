#!/usr/bin/env python3
"""The bubble of pipelines, measured and by arithmetic, and their throughput beside replicas'.

    make bench-pipeline

A stage's seconds are what it worked on a step: all but its waits for other stages. Prompts are
random tokens, all there at the start. The arithmetic lets every stage work its own seconds on each
step, in order, as soon as the stage before is done with it and, in the first stage, the step as
many before as there are stages is done everywhere: the bubble that no engine could avoid.
"""

import argparse
import random
import statistics
from pathlib import Path

from wirecut.api import pricing_of
from wirecut.bench.run import Run, run_cut, traffic_of
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Rejected
from wirecut.engine.prompt import Prompt
from wirecut.engine.timeline import Timeline
from wirecut.fabric.discover import assumed_fabric, now
from wirecut.fabric.host import cpu_name, usable_cores
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Limits
from wirecut.planner.plan import outcome_of

USERS, INPUT, OUTPUT, ROUNDS = 16, 32, 64, 5
LIMITS = Limits(kv_tokens=4096)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    runs = {name: run_layout(args.model, name) for name in ("dp2", "pp2", "pp3")}
    print(f"# Pipelines: the bubble, and throughput beside replicas\n\n{now()}, ", end="")
    print(f"{len(usable_cores())} cores of {cpu_name()}; {args.model.name}, {USERS} sequences, ")
    print(f"{INPUT} tokens in, {OUTPUT} out, the median of {ROUNDS} rounds.")
    print("`make bench-pipeline`\n")
    print(
        "Bubble: of the time in which steps were under way, what a stage waited for another. Even"
    )
    print("stages and m alike steps would wait (p-1)/(m+p-1); `by arithmetic` has the seconds that")
    print("each stage worked on each step.\n")
    print("| layout | steps | ms of a step, by stage | bubble | even | by arithmetic | off by |")
    print("|---|---|---|---|---|---|---|")
    for name in ("pp2", "pp3"):
        print(bubble_row(name, runs[name].timeline))
    print("\n| layout | tokens/s | of dp2 |\n|---|---|---|")
    for name, run in runs.items():
        share = run.output_tokens_per_s / runs["dp2"].output_tokens_per_s
        print(f"| {name} | {run.output_tokens_per_s:.0f} | {share:.0%} |")


def run_layout(model: Path, name: str) -> Run:
    layout = parse_layout(name)
    pricing: Pricing = pricing_of(model, assumed_fabric(layout.world_size), limits=LIMITS)
    draw = random.Random(0)
    prompts = [
        Prompt(tuple(draw.randrange(10, pricing.spec.vocab) for _ in range(INPUT)), OUTPUT)
        for _ in range(USERS)
    ]
    outcome = outcome_of(pricing, layout, traffic_of(prompts))
    if isinstance(outcome, Rejected):
        raise SystemExit(f"{layout}: {outcome.reason}")
    return run_cut(model, pricing, outcome.cut, prompts, limits=LIMITS, rounds=ROUNDS, trace=True)


def bubble_row(name: str, timeline: Timeline) -> str:
    stages = timeline.layout.pp
    seconds = [stage_seconds(timeline, stage) for stage in range(stages)]
    steps = len(seconds[0]) // ROUNDS
    times = [statistics.mean(each) for each in seconds]
    even = (stages - 1) / (steps + stages - 1)
    rounds = [
        least_bubble([each[i * steps : (i + 1) * steps] for each in seconds]) for i in range(ROUNDS)
    ]
    least = statistics.median(rounds)
    measured = timeline.bubble_fraction
    assert measured is not None
    told = " + ".join(f"{1000 * each:.2f}" for each in times)
    return (
        f"| {name} | {steps} | {told} | {measured:.1%} | {even:.1%} | {least:.1%} | "
        f"{100 * (measured - least):+.1f} points |"
    )


def least_bubble(seconds: list[list[float]]) -> float:
    """Share of all stages' time that they wait at least; given, by stage, seconds of each step."""
    stages = len(seconds)
    done: list[list[float]] = []  # by step, when each stage is
    for i, works in enumerate(zip(*seconds, strict=True)):
        at = done[i - stages][-1] if i >= stages else 0.0
        own = []
        for stage, work in enumerate(works):
            at = max(at, done[-1][stage] if done else 0.0) + work
            own.append(at)
        done.append(own)
    return 1 - sum(map(sum, seconds)) / (stages * done[-1][-1])


def stage_seconds(timeline: Timeline, stage: int) -> list[float]:
    """Of each step, what a stage's first rank worked on it."""
    spans = timeline.spans[timeline.layout.rank(pp=stage)]
    steps = [span for span in spans if span.what == "step"]
    waits = [span for span in spans if span.what == "receive from the stage before"]
    waited = [each.waited for each in waits] or [0] * len(steps)
    return [(step.end - step.begin - wait) / 1e9 for step, wait in zip(steps, waited, strict=True)]


if __name__ == "__main__":
    main()
