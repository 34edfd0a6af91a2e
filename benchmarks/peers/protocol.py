"""What every engine is asked, so that their figures compare: prompts, runs, lines printed.

    measure(run, load_s=load_s, versions=["torch 2.13.0"])     # run(prompts, tokens) -> tokens out
    measure(run, load_s=load_s, versions=[...], crowd=crowd)   # and how evenly tokens come

Each engine's environment imports this, so it needs the standard library alone.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Sequence

PROMPT_TOKENS, NEW_TOKENS = 128, 64
BATCHES = (1, 8, 16)
FIRST_ID, LAST_ID = 10, 7999
CROWD, CROWD_TOKENS = 8, 1024  # users and their prompts, right behind one who has written little
WRITER_TOKENS = 16

Tokens = list[int]
Run = Callable[[list[Tokens], int], Sequence[Sequence[int]]]
Crowd = Callable[[Tokens, int, list[Tokens]], Sequence[float]]


def measure(
    run: Run,
    *,
    load_s: float,
    versions: Sequence[str],
    batches: Sequence[int] = BATCHES,
    crowd: Crowd | None = None,
) -> None:
    """Warm up, then time each batch twice: for one token, and for NEW_TOKENS more.

    Prints a line READY, and a line RESULT for each batch. `run` serves the prompts together, greedy
    and without end tokens. What the longer run takes beyond the shorter one is the decode.
    `crowd(prompt, tokens, behind)` serves a prompt and others that come right behind it, and gives
    the seconds at which its tokens came: the worst gap between two of them is what its user sees of
    the others' prompts.
    """
    print("READY", flush=True)
    prompts = random_prompts(max(batches, default=1))
    run(prompts[:1], 4)
    for batch in batches:
        first_s, _ = _timed(run, prompts[:batch], 1)
        full_s, out = _timed(run, prompts[:batch], NEW_TOKENS + 1)
        result = {
            "batch": batch,
            "load_s": round(load_s, 2),
            "prefill_s": round(first_s, 4),
            "decode_tok_s": round(batch * NEW_TOKENS / (full_s - first_s), 1),
            "first_tokens": list(out[0][:8]),
            "versions": list(versions),
        }
        print("RESULT", json.dumps(result), flush=True)
    if crowd:
        (writer,) = random_prompts(1, WRITER_TOKENS)
        at_s = crowd(writer, NEW_TOKENS, random_prompts(CROWD, CROWD_TOKENS))
        gap_s = max(b - a for a, b in itertools.pairwise(at_s))
        print("RESULT", json.dumps({"crowd": CROWD, "gap_s": round(gap_s, 4)}), flush=True)


def random_prompts(count: int, tokens: int = PROMPT_TOKENS) -> list[Tokens]:
    """The same prompts for every engine."""
    draw = random.Random(0)
    return [[draw.randint(FIRST_ID, LAST_ID) for _ in range(tokens)] for _ in range(count)]


def _timed(run: Run, prompts: list[Tokens], tokens: int) -> tuple[float, Sequence[Sequence[int]]]:
    begin = time.perf_counter()
    out = run(prompts, tokens)
    seconds = time.perf_counter() - begin
    if [len(each) for each in out] != [tokens] * len(prompts):
        raise SystemExit(f"{tokens} tokens for each prompt expected, got {[len(x) for x in out]}")
    return seconds, out
