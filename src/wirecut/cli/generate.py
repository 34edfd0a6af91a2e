"""`wirecut generate`: run prompts once on the built-in engine, and check what was predicted and
counted.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wirecut.cli.options import DtypeOpt, FabricOpt, JsonOpt, check_outs, write_file
from wirecut.cli.progress import Bar
from wirecut.errors import UsageError

if TYPE_CHECKING:
    from wirecut.bench.run import Run
    from wirecut.engine.engine import Prompt
    from wirecut.engine.text import Text

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
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For a temperature above 0.")] = 0,
    max_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a step; longer prompts go in chunks.  [2048]")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what each rank did when there, for Perfetto."),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Run it once: stream the text, then predicted beside measured, and what crossed the wires."""
    from wirecut.bench.run import run_cut, traffic_of
    from wirecut.cli.source import choose_cut, find_source, limits_for
    from wirecut.engine.chrome import trace_json
    from wirecut.engine.engine import Prompt, check_runnable
    from wirecut.engine.text import Stream, Text

    _check(max_tokens, temperature, seed)
    check_outs(trace, kept=Path(model))
    source = find_source(model, fabric=fabric, dtype=dtype)
    spec = source.pricing.spec
    check_runnable(spec)
    text = Text(source.folder)
    asked = [
        Prompt(text.encode(each), max_tokens, temperature, seed, spec.stop_tokens)
        for each in prompt
    ]
    if not all(each.tokens for each in asked):
        raise UsageError("a --prompt is empty, expected some text to go on from")
    limits = limits_for(
        source,
        [len(each.tokens) for each in asked],
        max_tokens,
        max_batched_tokens=max_batched_tokens,
    )
    cut = choose_cut(source, layout, traffic_of(asked))
    stream, alone = Stream(text), len(prompt) == 1 and not as_json

    def on_loaded() -> None:
        bar.clear()
        if alone:
            print(prompt[0], end="", flush=True)
            line.callback(print, flush=True)  # ends the line, whatever happens

    def on_token(_: int, token: int) -> None:
        if alone:
            print(stream.add(token), end="", flush=True)

    with Bar(f"Loading {cut.layout}") as bar, ExitStack() as line:
        run = run_cut(
            source.folder,
            source.pricing,
            cut,
            asked,
            limits=limits,
            trace=trace is not None,
            on_loaded=on_loaded,
            on_token=on_token,
            progress=bar.update,
        )
    if trace is not None:
        write_file(trace_json(run.timeline), trace)
    if as_json:
        _print_json(run, asked, text)
        return
    if not alone:
        for i, (before, answer) in enumerate(zip(prompt, run.answers, strict=True)):
            print(f"[{i}] {before}{text.decode(answer.tokens)}\n")
    _show(run)


def _check(max_tokens: int, temperature: float, seed: int) -> None:
    if not 1 <= max_tokens <= MOST_NEW_TOKENS:
        raise UsageError(f"--max-tokens is {max_tokens}, expected 1 to {MOST_NEW_TOKENS}")
    if not 0 <= temperature <= 100:
        raise UsageError(f"--temperature is {temperature}, expected 0 (greedy) to 100")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed is {seed}, expected 0 to 2**63 - 1")


def _print_json(run: "Run", asked: "list[Prompt]", text: "Text") -> None:
    import msgspec

    outputs = [
        {
            "text": text.decode(answer.tokens),
            "prompt_token_ids": prompt.tokens,
            "token_ids": answer.tokens,
            "ttft_s": answer.ttft_s,
            "tpot_s": answer.tpot_s,
            "stopped_by": answer.reason,
        }
        for prompt, answer in zip(asked, run.answers, strict=True)
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
        "comm_seconds": run.timeline.comm_seconds(),
        "bubble_fraction": run.timeline.bubble_fraction,
        "rank_shares": [run.timeline.shares(rank) for rank in range(run.cut.layout.world_size)],
        "predicted": run.predicted,
        "bytes_read": run.bytes_read,
        "outputs": outputs,
    }
    print(msgspec.json.encode(told).decode())


def _show(run: "Run") -> None:
    from wirecut.bench.report import comm_table, timing_table
    from wirecut.bench.seen import seen_tables
    from wirecut.explain.page import Paragraph, show
    from wirecut.units import show_bytes, show_seconds

    read = ", ".join(show_bytes(count) for count in run.bytes_read)
    loaded = f"Loaded in {show_seconds(run.load_s)}; bytes that each rank read: {read}."
    print(flush=True)
    show([*timing_table([run]), *comm_table(run), *seen_tables(run.timeline), Paragraph(loaded)])
