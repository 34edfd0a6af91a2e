"""`wirecut estimate`: price one layout, every term."""

import sys

import typer

from wirecut.cli.options import (
    ConcurrencyOpt,
    DeviceOpt,
    DtypeOpt,
    Engine,
    EngineOpt,
    FabricOpt,
    InputOpt,
    JsonOpt,
    LayoutOpt,
    MemoryShareOpt,
    ModelArg,
    OutputOpt,
    RateOpt,
)
from wirecut.errors import UsageError, WirecutError
from wirecut.spec.traffic import Traffic

# Exit codes of a layout that does not work; with --json its object is printed all the same.
TOO_LITTLE_MEMORY, NOT_ALLOWED = WirecutError.exit_code, UsageError.exit_code


def estimate(
    model: ModelArg,
    layout: LayoutOpt,
    fabric: FabricOpt = None,
    device: DeviceOpt = None,
    input_tokens: InputOpt = 512,
    output_tokens: OutputOpt = 128,
    concurrency: ConcurrencyOpt = None,
    rate: RateOpt = None,
    engine: EngineOpt = Engine.wirecut,
    dtype: DtypeOpt = None,
    memory_share: MemoryShareOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Price one layout of MODEL, with every term and its formula."""
    from wirecut.api import estimate as price
    from wirecut.cost.terms import Estimate, Rejected
    from wirecut.explain.estimate import page, rejection
    from wirecut.explain.page import show

    traffic = Traffic(
        input_tokens=input_tokens, output_tokens=output_tokens, concurrency=concurrency, rate=rate
    )
    outcome = price(
        model,
        fabric,
        layout=layout,
        traffic=traffic,
        engine=engine,
        dtype=dtype,
        device=device,
        memory_share=memory_share,
    )
    if as_json:
        import msgspec

        print(msgspec.json.encode(outcome).decode())
    elif isinstance(outcome, Estimate):
        show(page(outcome, traffic))
    else:
        print(f"error: {rejection(outcome)}", file=sys.stderr)
    if isinstance(outcome, Rejected):
        raise typer.Exit(TOO_LITTLE_MEMORY if outcome.memory else NOT_ALLOWED)
