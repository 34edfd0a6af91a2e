"""`wirecut generate`: run prompts once on the built-in engine, and check what was predicted and
counted.
"""

import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wirecut.cli.options import DtypeOpt, FabricOpt, JsonOpt, check_outs, write_file
from wirecut.cli.progress import Bar
from wirecut.cli.sampling import (
    FrequencyOpt,
    IgnoreEosOpt,
    LogprobsOpt,
    MinPOpt,
    NumberOpt,
    PresenceOpt,
    RepetitionOpt,
    SeedOpt,
    StopOpt,
    TemperatureOpt,
    TopKOpt,
    TopPOpt,
)
from wirecut.errors import UsageError, WirecutError

if TYPE_CHECKING:
    from wirecut.bench.run import Run
    from wirecut.engine.prompt import Prompt
    from wirecut.fabric.fabric import Fabric

MOST_NEW_TOKENS = 1_000_000


def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|plan.json", help="A model folder or id, or a plan.")
    ],
    prompt: Annotated[
        list[str], typer.Option(help="The text to go on from; repeat it to serve several together.")
    ],
    layout: Annotated[
        str | None, typer.Option(help="Run this layout in place of the chosen one.")
    ] = None,
    fabric: FabricOpt = None,
    dtype: DtypeOpt = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 64,
    temperature: TemperatureOpt = 0.0,
    top_k: TopKOpt = 0,
    top_p: TopPOpt = 1.0,
    min_p: MinPOpt = 0.0,
    repetition_penalty: RepetitionOpt = 1.0,
    presence_penalty: PresenceOpt = 0.0,
    frequency_penalty: FrequencyOpt = 0.0,
    seed: SeedOpt = 0,
    n: NumberOpt = 1,
    stop: StopOpt = None,
    ignore_eos: IgnoreEosOpt = False,
    logprobs: LogprobsOpt = None,
    max_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a step; longer prompts go in chunks.  [2048]")
    ] = None,
    prefix_cache: Annotated[
        bool, typer.Option(help="Prompts that begin alike share what is computed of them.")
    ] = True,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what each rank did when there, for Perfetto."),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Run it once: stream the text, then predicted beside measured, and what crossed the wires."""
    from wirecut.bench.report import kv_room
    from wirecut.bench.run import run_cut, traffic_of
    from wirecut.cli.source import choose_cut, find_source, limits_for
    from wirecut.cost.estimate import estimate
    from wirecut.engine.chrome import trace_json
    from wirecut.engine.engine import check_runnable
    from wirecut.engine.prompt import Prompt
    from wirecut.engine.text import Text
    from wirecut.sched.sampling import Sampling

    if not 1 <= max_tokens <= MOST_NEW_TOKENS:
        raise UsageError(f"--max-tokens is {max_tokens}, expected 1 to {MOST_NEW_TOKENS}")
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        logprobs=logprobs,
    )
    sampling.check()
    check_outs(trace, kept=Path(model))
    source = find_source(model, fabric=fabric, dtype=dtype)
    spec = source.pricing.spec
    check_runnable(spec)
    text = Text(source.folder)
    ends = tuple(stop or ())
    asked = [
        copy
        for each in prompt
        for copy in Prompt(
            text.encode(each), max_tokens, sampling, spec.stop_tokens, ends, ignore_eos
        ).copies(n)
    ]
    errors = [each.error(spec) for each in asked]
    if errors[0] and all(errors):
        raise errors[0]
    good = [each for each, error in zip(asked, errors, strict=True) if not error]
    limits = limits_for(
        source,
        [len(each.tokens) for each in good],
        max_tokens,
        max_batched_tokens=max_batched_tokens,
        prefix_cache=prefix_cache,
    )
    cut = choose_cut(source, layout, traffic_of(good))
    alone = len(asked) == 1 and not as_json

    def on_loaded() -> None:
        bar.clear()
        predicted = estimate(source.pricing, cut, traffic_of(good))
        print(kv_room(predicted, limits.kv_tokens), file=sys.stderr)
        if alone:
            print(prompt[0], end="", flush=True)
            line.callback(print, flush=True)  # ends the line, whatever happens

    def on_text(_: int, piece: str) -> None:
        if alone:
            print(piece, end="", flush=True)

    with Bar(f"Loading {cut.layout}") as bar, ExitStack() as line:
        run = run_cut(
            source.folder,
            source.pricing,
            cut,
            asked,
            limits=limits,
            trace=trace is not None,
            on_loaded=on_loaded,
            text=text,
            on_text=on_text,
            progress=bar.update,
        )
    if trace is not None:
        write_file(trace_json(run.timeline), trace)
    if as_json:
        _print_json(run, asked, n)
    else:
        if not alone:
            for i, answer in enumerate(run.answers):
                print(f"[{i}] {prompt[i // n]}{answer.text}\n")
        _show(run, source.pricing.fabric)
    if failed := [answer.error for answer in run.answers if answer.error]:
        raise WirecutError(f"{len(failed)} of {len(asked)} answers failed, as in: {failed[0]}")


def _print_json(run: "Run", asked: "list[Prompt]", n: int) -> None:
    import msgspec

    from wirecut.bench.report import load_json

    outputs = [
        {
            "prompt": i // n,
            "text": answer.text,
            "prompt_token_ids": prompt.tokens,
            "token_ids": answer.tokens,
            "ttft_s": answer.ttft_s,
            "tpot_s": answer.tpot_s,
            "stopped_by": answer.reason,
            "logprobs": [{"chosen": e.chosen, "top": e.top} for e in answer.logprobs],
            "error": str(answer.error or ""),
        }
        for i, (prompt, answer) in enumerate(zip(asked, run.answers, strict=True))
    ]
    first = outputs[0]
    told: dict[str, Any] = {
        "text": first["text"],
        "prompt_token_ids": first["prompt_token_ids"],
        "token_ids": first["token_ids"],
        "layout": str(run.cut.layout),
        "load_s": run.load_s,
        "ttft_s": run.ttft_s,
        "tpot_s": run.tpot_s,
        "comm": run.counted,
        "comm_formula": run.formula,
        "experts": load_json(run),
        "comm_seconds": run.timeline.comm_seconds(),
        "bubble_fraction": run.timeline.bubble_fraction,
        "rank_shares": [run.timeline.shares(rank) for rank in range(run.cut.layout.world_size)],
        "predicted": run.predicted,
        "bytes_read": run.bytes_read,
        "scheduled": msgspec.structs.asdict(run.dealt),
        "outputs": outputs,
    }
    print(msgspec.json.encode(told).decode())


def _show(run: "Run", fabric: "Fabric") -> None:
    from wirecut.bench.report import comm_table, dealt, load_table, timing_table
    from wirecut.bench.seen import seen_tables
    from wirecut.explain.page import Paragraph, show
    from wirecut.units import show_bytes, show_seconds

    read = ", ".join(show_bytes(count) for count in run.bytes_read)
    loaded = f"Loaded in {show_seconds(run.load_s)}; bytes that each rank read: {read}."
    print(flush=True)
    tables = (timing_table([run]), comm_table(run), load_table(run), seen_tables(run.timeline))
    notes = [Paragraph(loaded), dealt(run)]
    if any(device.source == "assumed" for device in fabric.devices):
        notes.append(Paragraph("Rates are assumed: `wirecut probe` measures this machine."))
    show([*chain.from_iterable(tables), *notes])
