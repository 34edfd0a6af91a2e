"""The words of a plan: the choice, the ranking, where time goes, what decided, what was rejected,
and where it flips.

    show(answer(load_plan(Path("plan.json"))))

Reads plan files only, so that `wirecut plan` and `wirecut explain` cannot disagree. Computes
nothing of its own.
"""

import re

from wirecut.cost.terms import Rejected
from wirecut.explain.budget import runner_up, shown_rows, thrifty
from wirecut.explain.duel import Duel, duel_blocks, token_price
from wirecut.explain.flips import flip_rows, nowhere
from wirecut.explain.notes import notes
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.explain.tables import budget_table, elsewhere_cells, ranking_table
from wirecut.explain.words import (
    counted,
    devices_in_words,
    fabric_name,
    layout_in_words,
    memory_in_words,
    model_name,
    percent,
    placed_in_words,
    show_price,
    tokens_per_s,
    used_bytes,
    within,
)
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import PlanFile
from wirecut.planner.plan import Ranking
from wirecut.planner.plan_file import ranking_of
from wirecut.planner.prices import hourly
from wirecut.units import show_bytes, show_seconds

SHOWN_REASONS = 6
SHOWN_LAYOUTS = 4  # of those that a reason holds for


def answer(plan: PlanFile) -> list[Block]:
    """The whole answer. Raises PlanError when the plan's estimates are damaged."""
    ranking = ranking_of(plan)
    rows = shown_rows(ranking.ranked, plan.traffic.output_tokens)
    duel = duel_of(plan, ranking)
    blocks = [
        *notes(plan, ranking),
        Paragraph(question(plan)),
        Paragraph(devices_in_words(plan.fabric)),
        *_head(plan, ranking, duel),
        *ranking_table(plan, ranking, rows),
        *budget_table(plan.traffic.output_tokens, rows),
        *_elsewhere(plan, ranking),
    ]
    if duel is not None:
        blocks.append(Heading(f"Why {duel.ours.layout} and not {duel.theirs.layout}"))
        blocks += duel_blocks(duel, plan.traffic.output_tokens)
    return [*blocks, *_rejections(ranking), *_flips(plan, ranking)]


def question(plan: PlanFile) -> str:
    """'llama-70b in bf16: 512 tokens in, 128 out, 8 at once, for latency, on vllm'."""
    name = model_name(plan.model)
    return (
        f"{name} in {plan.stored}: {plan.traffic.describe()}, for {plan.goal}, engine {plan.engine}"
    )


def duel_of(plan: PlanFile, ranking: Ranking) -> Duel | None:
    """The choice against its runner-up; None when nothing else works."""
    other = runner_up(ranking.ranked)
    return None if other is None else Duel.of(plan, ranking.chosen, other)


def headline(fabric: Fabric, ranking: Ranking, duel: Duel | None) -> str:
    """The choice in one sentence; that it is too close to call is part of it."""
    choice = f"Run it as {ranking.chosen.layout}: {choice_in_words(fabric, ranking)}."
    if duel is None or not duel.close:
        return choice
    return f"{choice} Too close to call: {duel.theirs.layout} may be as good."


def choice_in_words(fabric: Fabric, ranking: Ranking) -> str:
    """How the choice cuts the model and on which devices; of several fabrics, on which."""
    chosen = ranking.chosen
    words = f"{layout_in_words(chosen)}, {placed_in_words(chosen)}"
    return f"{words} of {fabric_name(fabric)}" if ranking.elsewhere else words


def reasons(ranking: Ranking, duel: Duel | None) -> list[str]:
    """Why, in numbers: against the runner-up, and what fewer devices would give."""
    said = [] if duel is None else [duel.sentence]
    if (few := thrifty(ranking.ranked)) is not None:
        share = few.output_tokens_per_s / ranking.chosen.output_tokens_per_s
        said.append(
            f"On {counted(few.devices_used, 'device')} of its {ranking.chosen.devices_used}, "
            f"{few.layout} gives {percent(share)} of its tokens per second."
        )
    return said


def headline_rows(plan: PlanFile, ranking: Ranking) -> list[tuple[str, str, str]]:
    """(name, value, how sure) of what the choice gives."""
    chosen, memory = ranking.chosen, ranking.chosen.memory
    low, high = chosen.interval["output_tokens_per_s"]
    rows = [
        ("first token", show_seconds(chosen.ttft_s), within(chosen.interval["ttft_s"])),
        ("each token after", show_seconds(chosen.tpot_s), within(chosen.interval["tpot_s"])),
        (
            "output",
            f"{tokens_per_s(chosen.output_tokens_per_s)} tok/s",
            f"{tokens_per_s(low)} to {tokens_per_s(high)} tok/s",
        ),
        ("memory", show_bytes(used_bytes(memory)), memory_in_words(memory, chosen.placement)),
    ]
    if not plan.prices:
        return rows
    each = f"{show_price(hourly(plan.fabric, chosen.placement, plan.prices))} per hour"
    return [*rows, ("price", show_price(token_price(plan, chosen)), f"per 1M tokens; {each}")]


def _head(plan: PlanFile, ranking: Ranking, duel: Duel | None) -> list[Block]:
    return [
        Heading(headline(plan.fabric, ranking, duel)),
        *(Paragraph(one) for one in reasons(ranking, duel)),
        Grid(("", ">", ""), headline_rows(plan, ranking)),
    ]


def _elsewhere(plan: PlanFile, ranking: Ranking) -> list[Block]:
    if not ranking.elsewhere:
        return []
    columns, cells = elsewhere_cells(plan, ranking)
    return [Heading("On the other fabrics, at best"), Grid(columns, cells)]


def rejection_rows(ranking: Ranking) -> list[tuple[str, str]]:
    """(layout, reason), those with the same reason (but for its numbers) together."""
    alike: dict[str, list[Rejected]] = {}
    for rejected in ranking.rejected:
        alike.setdefault(re.sub(r"\d[\d.]*", "#", rejected.reason), []).append(rejected)
    rows: list[tuple[str, str]] = []
    for group in alike.values():
        others = [one.layout for one in group[1:]]
        more = len(others) - SHOWN_LAYOUTS
        few = ", ".join(others[:SHOWN_LAYOUTS]) + (f" and {more} more" if more > 0 else "")
        rows.append((group[0].layout, group[0].reason + (f"  (so too {few})" if few else "")))
    return rows


def _rejections(ranking: Ranking) -> list[Block]:
    if not ranking.rejected:
        return []
    rows = rejection_rows(ranking)
    blocks: list[Block] = [
        Heading(f"Does not work: {counted(len(ranking.rejected), 'layout')}"),
        Grid(("", ""), rows[:SHOWN_REASONS]),
    ]
    if len(rows) > SHOWN_REASONS:
        more = len(rows) - SHOWN_REASONS
        blocks.append(Paragraph(f"and {counted(more, 'other reason')}"))
    return blocks


def _flips(plan: PlanFile, ranking: Ranking) -> list[Block]:
    rows = flip_rows(plan, ranking)
    heading = Heading("Where it flips")
    if not rows:
        return [heading, Paragraph(nowhere(plan))]
    return [heading, Grid(("", ""), [(to, when) for when, to in rows])]
