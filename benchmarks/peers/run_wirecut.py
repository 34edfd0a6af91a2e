#!/usr/bin/env python3
"""wirecut's engine under one layout.   python run_wirecut.py MODEL tp2 [--fabric fabric.json]

The stages of a pipeline are the planner's. Without --fabric the cores' rates are assumed.
"""

import argparse
from pathlib import Path

import torch
from protocol import (
    BATCHES,
    CROWD,
    CROWD_TOKENS,
    NEW_TOKENS,
    PROMPT_TOKENS,
    WRITER_TOKENS,
    measure,
)

from wirecut.api import pricing_of
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Prompt
from wirecut.fabric.discover import assumed_fabric
from wirecut.fabric.fabric import load_fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Limits
from wirecut.planner.cutting import cut_for
from wirecut.version import __version__

BUDGET = 192  # tokens a step: beyond it a CPU computes no faster, and others wait longer
KV_TOKENS = max(
    2 * max(BATCHES) * (PROMPT_TOKENS + NEW_TOKENS),
    CROWD * (CROWD_TOKENS + NEW_TOKENS) + WRITER_TOKENS + NEW_TOKENS,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("layout", type=parse_layout)
    parser.add_argument("--budget", type=int, default=BUDGET, help="tokens of a step")
    parser.add_argument("--crowd-only", action="store_true", help="no batches")
    parser.add_argument("--fabric", type=Path, help="what `wirecut probe` wrote")
    args = parser.parse_args()
    fabric = load_fabric(args.fabric) if args.fabric else assumed_fabric(args.layout.world_size)
    limits = Limits(
        max_batched_tokens=args.budget,
        kv_tokens=KV_TOKENS,
        prefix_cache=False,  # rounds repeat their prompts
    )
    pricing = pricing_of(args.model, fabric, dtype="bf16", limits=limits)
    ranks = tuple(range(args.layout.world_size))
    cut = cut_for(pricing, args.layout, ranks, context=PROMPT_TOKENS + NEW_TOKENS / 2, sequences=8)

    with Engine(args.model, cut, fabric, limits=limits, dtype="bf16") as engine:

        def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
            asked = [Prompt(tuple(prompt), tokens) for prompt in prompts]
            return [answer.tokens for answer in engine.generate(asked)]

        def crowd(prompt: list[int], tokens: int, behind: list[list[int]]) -> list[float]:
            asked = [Prompt(tuple(prompt), tokens), *(Prompt(tuple(each), 2) for each in behind)]
            return engine.generate(asked)[0].at_s

        versions = [f"wirecut {__version__}", f"torch {torch.__version__}"]
        batches = () if args.crowd_only else BATCHES
        measure(run, load_s=engine.load_s, versions=versions, batches=batches, crowd=crowd)


if __name__ == "__main__":
    main()
