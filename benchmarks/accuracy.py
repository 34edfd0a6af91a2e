#!/usr/bin/env python3
"""Predicted beside measured on this machine, layout by layout: a Markdown table.

    wirecut probe --out fabric.json
    python benchmarks/accuracy.py fabric.json MODEL [MODEL ...] > benchmarks/accuracy.md

Each cell is the median round of one start of the engine, whose first round is seldom that one.
Prompts are random tokens, all there at the start; answers have 64 tokens.
"""

import argparse
import random
import statistics
import sys
from pathlib import Path

from wirecut.api import pricing_of
from wirecut.bench.run import run_cut, traffic_of
from wirecut.cost.terms import Rejected
from wirecut.engine.prompt import Prompt
from wirecut.fabric.discover import now
from wirecut.fabric.fabric import load_fabric
from wirecut.fabric.host import cpu_name
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Limits
from wirecut.planner.plan import outcome_of
from wirecut.units import show_seconds
from wirecut.version import __version__

LAYOUTS = ("tp1", "tp2", "pp2", "dp2")
USERS = (1, 8, 16)
INPUT, OUTPUT, ROUNDS = 128, 64, 3
LIMITS = Limits(kv_tokens=8192, prefix_cache=False)  # rounds repeat their prompts


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("fabric", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    args = parser.parse_args()
    fabric = load_fabric(args.fabric)
    print(f"# Predicted and measured\n\n{now()}, {len(fabric.devices)} x {cpu_name()}, ", end="")
    print(f"wirecut {__version__}, {INPUT} tokens in, {OUTPUT} out, {ROUNDS} rounds.")
    errors: dict[str, list[float]] = {"TTFT": [], "TPOT": []}
    for model in args.models:
        pricing = pricing_of(model, fabric, limits=LIMITS)
        print(
            f"\n## {model.name}, {pricing.spec.parameters / 1e6:.0f} M parameters, {pricing.dtype}"
        )
        print("\n| layout | users | TTFT predicted | measured | off | TPOT predicted |", end="")
        print(" measured | off |\n|---|---|---|---|---|---|---|---|")
        best: dict[int, list[tuple[float, float, str]]] = {users: [] for users in USERS}
        for layout in LAYOUTS:
            for users in USERS:
                row, rates = cell(model, pricing, parse_layout(layout), users, errors)
                print(row, flush=True)
                best[users].append((*rates, layout))
                print(f"{model.name} {layout} {users}", file=sys.stderr)
        for users, rates in best.items():
            predicted = max(rates)[2]
            measured = max(rates, key=lambda rate: rate[1])
            lost = measured[1] / next(r[1] for r in rates if r[2] == predicted) - 1
            print(f"\n{users} at once: {predicted} predicted fastest, {measured[2]} was; ", end="")
            print(f"regret {lost:.1%}.")
    for name, values in errors.items():
        print(f"\nMedian error of {name}: {statistics.median(map(abs, values)):.0%}, ", end="")
        print(f"worst {max(map(abs, values)):.0%}, bias {statistics.median(values):+.0%}.")


def cell(
    model: Path, pricing, layout: Layout, users: int, errors: dict[str, list[float]]
) -> tuple[str, tuple[float, float]]:
    """One row of the table, and (predicted, measured) output tokens per second."""
    draw = random.Random(users)
    prompts = [
        Prompt(tuple(draw.randrange(10, pricing.spec.vocab) for _ in range(INPUT)), OUTPUT)
        for _ in range(users)
    ]
    outcome = outcome_of(pricing, layout, traffic_of(prompts))
    if isinstance(outcome, Rejected):
        raise SystemExit(f"{layout}: {outcome.reason}")
    run = run_cut(model, pricing, outcome.cut, prompts, limits=LIMITS, rounds=ROUNDS)
    assert not isinstance(run.predicted, Rejected)
    assert run.tpot_s is not None
    assert run.counted == run.formula
    parts = [str(layout), str(users)]
    for name, guess, measured in (
        ("TTFT", run.predicted.ttft_s, run.ttft_s),
        ("TPOT", run.predicted.tpot_s, run.tpot_s),
    ):
        errors[name].append(guess / measured - 1)
        parts += [show_seconds(guess), show_seconds(measured), f"{guess / measured - 1:+.0%}"]
    row = f"| {' | '.join(parts)} |"
    return row, (run.predicted.output_tokens_per_s, run.output_tokens_per_s)


if __name__ == "__main__":
    main()
