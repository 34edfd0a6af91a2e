#!/usr/bin/env python3
"""The whole product in a minute, on this machine: `make demo`.

Probes the wires, plans the demo checkpoint, runs it, and sets what was predicted beside what
happened, for the chosen layout and for the runner-up.
"""

import os
import subprocess
import sys
from pathlib import Path

from wirecut.api import pricing_of
from wirecut.bench.report import comm_table, timing_table, winner
from wirecut.bench.run import Run, median_run, run_cut
from wirecut.engine.engine import Prompt
from wirecut.engine.text import Text
from wirecut.errors import WirecutError
from wirecut.explain.page import Block, Heading, Paragraph, show
from wirecut.layout.plan import load_plan

MODEL = Path(__file__).parent / "demo-model"
OUT = Path(__file__).parents[1] / "build" / "demo"
USERS, NEW_TOKENS = 8, 64
STARTS, ROUNDS = 3, 3  # of each layout by turns, and rounds after each start
QUESTIONS = (
    "What does os.path.join do?",
    "What does heapq.heappush do?",
    "What does str.split do?",
    "What does list.append do?",
    "What does json.dumps do?",
    "What does socket.bind do?",
    "What does random.shuffle do?",
    "What does time.sleep do?",
)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    fabric, plan = OUT / "fabric.json", OUT / "plan.json"
    typed("probe", "--out", fabric)
    load = ("--input-tokens", 16, "--output-tokens", NEW_TOKENS, "--concurrency", USERS)
    typed("plan", MODEL, "--fabric", fabric, *load, "--out", plan)
    typed("generate", plan, "--prompt", ask(QUESTIONS[0]), "--max-tokens", NEW_TOKENS)
    race(plan)


def typed(*words: object) -> None:
    """Run a wirecut command as a person would type it, and show it."""
    plain = [os.path.relpath(word) if isinstance(word, Path) else str(word) for word in words]
    shown = " ".join(f'"{word}"' if " " in word else word for word in ["wirecut", *plain])
    print(f"\n\033[1m$ {shown}\033[0m" if sys.stdout.isatty() else f"\n$ {shown}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name("wirecut")), *plain], check=True)


def race(path: Path) -> None:
    """Serve the questions together, in the chosen layout and the runner-up by turns."""
    plan = load_plan(path)
    layouts = [str(entry["layout"]) for entry in plan.ranking[:2]]
    times = f"{STARTS} starts of {ROUNDS} rounds"
    print(f"\n{USERS} questions at once in {' and '.join(layouts)}, {times} each ...\n", flush=True)
    pricing = pricing_of(MODEL, plan.fabric, dtype=plan.dtype, limits=plan.limits)
    text = Text(MODEL)
    prompts = [Prompt(text.encode(ask(question)), NEW_TOKENS) for question in QUESTIONS]
    runs: dict[str, list[Run]] = {layout: [] for layout in layouts}
    for _ in range(STARTS):
        for layout in layouts:
            cut = plan.cut_of(layout)
            run = run_cut(MODEL, pricing, cut, prompts, limits=plan.limits, rounds=ROUNDS)
            runs[layout].append(run)
    medians = [median_run(runs[layout]) for layout in layouts]
    blocks: list[Block] = [Heading("What it wrote")]
    stop = pricing.spec.stop_tokens
    for question, answer in list(zip(QUESTIONS, medians[0].answers, strict=True))[:3]:
        blocks.append(Paragraph(f"{question} {text.decode(until(answer.tokens, stop))}"))
    blocks += timing_table(medians)
    for run in medians:
        blocks += comm_table(run)
    show([*blocks, *winner(medians)])


def until(tokens: list[int], stop: tuple[int, ...]) -> list[int]:
    """Tokens before the first that ends a text: the race goes on behind it, to equal lengths."""
    ends = [i for i, token in enumerate(tokens) if token in stop]
    return tokens[: min(ends, default=len(tokens))]


def ask(question: str) -> str:
    """A question in the checkpoint's chat template."""
    return f"<|begin|><|user|>{question}<|assistant|>"


if __name__ == "__main__":
    try:
        main()
    except WirecutError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
