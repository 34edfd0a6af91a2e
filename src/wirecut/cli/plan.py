"""`wirecut plan`: choose the cut and say why."""

from wirecut.cli.options import (
    ConcurrencyOpt,
    DeviceOpt,
    DtypeOpt,
    Engine,
    EngineOpt,
    FabricsOpt,
    Goal,
    GoalOpt,
    HtmlOpt,
    InputOpt,
    JsonOpt,
    MemoryShareOpt,
    ModelArg,
    OutOpt,
    OutputOpt,
    PriceOpt,
    RateOpt,
    TpotOpt,
    TtftOpt,
    check_outs,
    write_page,
)
from wirecut.spec.traffic import Traffic


def plan(
    model: ModelArg,
    fabric: FabricsOpt = None,
    device: DeviceOpt = None,
    goal: GoalOpt = Goal.throughput,
    input_tokens: InputOpt = 512,
    output_tokens: OutputOpt = 128,
    concurrency: ConcurrencyOpt = None,
    rate: RateOpt = None,
    ttft_ms: TtftOpt = None,
    tpot_ms: TpotOpt = None,
    price: PriceOpt = None,
    engine: EngineOpt = Engine.wirecut,
    dtype: DtypeOpt = None,
    memory_share: MemoryShareOpt = None,
    out: OutOpt = None,
    html: HtmlOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Choose the cut of MODEL for this load, and say why."""
    from wirecut.api import plan_file_of, report
    from wirecut.layout.plan import save_plan
    from wirecut.planner.prices import read_prices

    traffic = Traffic(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        concurrency=concurrency,
        rate=rate,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
    )
    check_outs(out, html)
    plan_file = plan_file_of(
        model,
        fabric,
        goal=goal,
        traffic=traffic,
        engine=engine,
        dtype=dtype,
        device=device,
        memory_share=memory_share,
        prices=read_prices(price or []),
    )
    if out is not None:
        save_plan(plan_file, out)
    if html is not None:
        write_page(report(plan_file), html)
    if as_json:
        import msgspec

        print(msgspec.json.encode(plan_file).decode())
        return
    from wirecut.explain.answer import answer
    from wirecut.explain.page import show

    show(answer(plan_file))
    if out is not None:
        print(f"\nWritten to {out}: `wirecut explain {out}` prints this again.")
    if html is not None:
        print(f"\nWritten to {html}: open it in a browser.")
