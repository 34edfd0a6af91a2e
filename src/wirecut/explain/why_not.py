"""Why a plan did not take a layout: the term or the constraint that lost, with its numbers.

show(why_not_answer(load_plan(Path("plan.json")), "tp8"))
"""

from collections.abc import Callable

from wirecut.cost.terms import Estimate, Memory, Rejected
from wirecut.errors import PlanError
from wirecut.explain.budget import Row, replica_of
from wirecut.explain.duel import Duel, duel_blocks
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.explain.tables import budget_table
from wirecut.explain.words import counted, layout_in_words, listed
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import PlanFile
from wirecut.planner.plan import Ranking
from wirecut.planner.plan_file import ranking_of
from wirecut.units import show_bytes

Reprice = Callable[[Layout], Estimate | Rejected]
SHOWN_NAMES = 12


def why_not_answer(plan: PlanFile, name: str, reprice: Reprice | None = None) -> list[Block]:
    """Why a plan did not take the layout `name`; `reprice` prices one that the plan does not hold.

    Raises PlanError when it was not considered and cannot be priced, LayoutError if unreadable.
    """
    ranking, layout = ranking_of(plan), parse_layout(name)
    heading = Heading(f"Why not {layout}")
    if str(layout) == ranking.chosen.layout:
        return [heading, Paragraph(f"It is the choice: {layout_in_words(ranking.chosen)}.")]
    for place, estimate in enumerate(ranking.ranked, start=1):
        if estimate.layout == str(layout):
            return [heading, *_worse(plan, ranking, Row(place, estimate))]
    if rejected := _rejection(ranking, layout):
        return [heading, *_does_not_work(rejected, layout)]
    if layout.world_size > (devices := len(plan.fabric.devices)):
        needs = f"It needs {counted(layout.world_size, 'device')}, the fabric has {devices}."
        return [heading, Paragraph(needs)]
    if reprice is None:
        names = [one.layout for one in ranking.ranked[:SHOWN_NAMES]]
        more = len(ranking.ranked) - len(names)
        known = listed([*names, *([f"{more} more"] if more else [])])
        raise PlanError(f"the plan did not consider {layout}; it ranks {known}")
    outcome = reprice(layout)
    if isinstance(outcome, Rejected):
        return [heading, *_does_not_work(outcome, layout)]
    return [heading, *_worse(plan, ranking, Row(0, outcome))]


def _rejection(ranking: Ranking, layout: Layout) -> Rejected | None:
    """The layout's own rejection, else that of one replica of it."""
    wanted = (str(layout), str(replica_of(layout)))
    found = {one.layout: one for one in ranking.rejected if one.layout in wanted}
    return next((found[name] for name in wanted if name in found), None)


def _does_not_work(rejected: Rejected, layout: Layout) -> list[Block]:
    who = "It" if rejected.layout == str(layout) else f"One replica, {rejected.layout},"
    blocks: list[Block] = [Paragraph(f"{who} does not work: {rejected.reason}.")]
    return [*blocks, _memory_grid(rejected.memory)] if rejected.memory else blocks


def _memory_grid(memory: Memory) -> Grid:
    """What the fullest rank would have to hold, against what there is."""
    parts = (
        ("weights", memory.weights_bytes),
        ("KV of running requests", memory.kv_bytes),
        ("activations", memory.activation_bytes),
        ("buffers and graphs", memory.buffer_bytes),
    )
    needed = sum(size for _, size in parts)
    room = memory.capacity_bytes - needed
    rows = [(name, show_bytes(size)) for name, size in parts if size]
    rows += [("together", show_bytes(needed)), ("a device has", show_bytes(memory.capacity_bytes))]
    rows.append(("left for KV" if room >= 0 else "missing", show_bytes(abs(room))))
    return Grid((f"rank {memory.rank}", ">", ""), [(*row, "") for row in rows])


def _worse(plan: PlanFile, ranking: Ranking, row: Row) -> list[Block]:
    """A layout that works and lost: its place, the duel with the choice, both time budgets."""
    outputs = plan.traffic.output_tokens
    place = f", and ranks {row.place} of {len(ranking.ranked)}" if row.place else ""
    chosen, duel = Row(1, ranking.chosen), Duel.of(plan, ranking.chosen, row.estimate)
    return [
        Paragraph(f"It works{place}: {layout_in_words(row.estimate)}."),
        Paragraph(duel.sentence),
        *duel_blocks(duel, outputs),
        *budget_table(outputs, [chosen, row]),
    ]
