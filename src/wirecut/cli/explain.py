"""`wirecut explain`: why this cut, why not that one, where it flips; all of it from a plan.json."""

from pathlib import Path
from typing import Annotated

import typer

from wirecut.cli.options import HtmlOpt, check_outs, write_page


def explain(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan.json.", show_default=False)
    ],
    why_not: Annotated[
        str | None, typer.Option("--why-not", metavar="LAYOUT", help="Why not this one: tp8.")
    ] = None,
    html: HtmlOpt = None,
) -> None:
    """Say why a plan is what it is, or why it is not another one."""
    from wirecut.api import report, reprice
    from wirecut.explain.answer import answer
    from wirecut.explain.page import show
    from wirecut.explain.why_not import why_not_answer
    from wirecut.layout.plan import load_plan

    check_outs(html, kept=plan_file)
    plan = load_plan(plan_file)
    if html is not None:
        write_page(report(plan), html)
    if why_not is None:
        show(answer(plan))
    else:
        show(why_not_answer(plan, why_not, lambda layout: reprice(plan, layout)))
    if html is not None:
        print(f"\nWritten to {html}: open it in a browser.")
