"""The two tables that a person scans: how the layouts rank, and where each one's time goes.

[*ranking_table(plan, rows), *budget_table(128, rows)]
"""

import math
from collections.abc import Mapping, Sequence

from wirecut.cost.terms import Kind
from wirecut.explain.budget import KINDS, Row, by_kind, in_steps, whole_request
from wirecut.explain.duel import has_targets, token_price, worst_miss
from wirecut.explain.page import INDENT, WIDTH, Block, Grid, Heading, Paragraph
from wirecut.explain.words import (
    counted,
    kind_name,
    listed,
    load_in_words,
    show_price,
    targets_in_words,
    tokens_per_s,
    used_bytes,
)
from wirecut.layout.plan import PlanFile
from wirecut.planner.plan import Ranking
from wirecut.units import show_bytes, show_seconds

# How a bar is filled in a terminal, told apart without colour.
FILLS: dict[Kind, str] = {
    "compute": "█",
    "memory": "▓",
    "all-reduce": "▒",
    "all-to-all": "▚",
    "hand-off": "░",
    "bubble": "·",
    "overhead": "▄",
    "wait": "─",
}
LONGEST_BAR, SHORTEST_BAR = 28, 8
GAP = 2  # between columns of a Grid
MOST_TIMES = 6  # of the shortest request: what a bar shows whole
DIGITS = 4  # of the longest bar
SHOWN_ALIKE = 4


def ranking_table(plan: PlanFile, ranking: Ranking, rows: Sequence[Row]) -> list[Block]:
    """TTFT, TPOT, throughput and memory of the layouts shown, and how many are not."""
    limits = targets_in_words(plan.traffic)
    title = f"Ranking for {plan.goal}" + (f", within {limits}" if limits else "")
    columns, cells = ranking_cells(plan, rows)
    grid = Grid((*columns, ""), [(*row, "") for row in cells], frozenset({0}))
    words = _not_shown(plan, ranking, rows)
    return [Heading(title), grid, *([Paragraph(words)] if words else [])]


def ranking_cells(
    plan: PlanFile, rows: Sequence[Row]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names and a row a layout; '>' before a name aligns its column right."""
    target = ("target",) if has_targets(plan) else ()
    priced = (">per 1M tokens",) if plan.prices else ()
    between = () if priced else ("from, to",)  # a terminal has room for one of the two
    columns = (">", "layout", ">devices", ">TTFT", ">TPOT", ">tok/s", *between, ">memory")
    cells: list[tuple[str, ...]] = []
    for row in rows:
        one = row.estimate
        met = worst_miss(plan, one) is None
        low, high = one.interval["output_tokens_per_s"]
        cells.append(
            (
                str(row.place),
                one.layout,
                str(one.devices_used),
                show_seconds(one.ttft_s),
                show_seconds(one.tpot_s),
                tokens_per_s(one.output_tokens_per_s),
                *((f"{tokens_per_s(low)} to {tokens_per_s(high)}",) if between else ()),
                show_bytes(used_bytes(one.memory)),
                *((show_price(token_price(plan, one)),) if priced else ()),
                *((("met" if met else "missed"),) if target else ()),
            )
        )
    return (*columns, *priced, *target), cells


def elsewhere_cells(
    plan: PlanFile, ranking: Ranking
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The best layout of each other fabric that was asked about, the same way; the last column says
    what would do where nothing works.
    """
    priced = (">per hour", ">per 1M tokens") if plan.prices else ()
    columns = ("fabric", "layout", ">devices", ">TTFT", ">TPOT", ">tok/s", *priced, "")
    cells: list[tuple[str, ...]] = []
    for one in ranking.elsewhere:
        best = one.chosen
        if best is None:
            empty = ("-",) * (len(columns) - 2)
            cells.append((one.fabric, *empty, (one.reason or "nothing works").splitlines()[-1]))
            continue
        prices = (show_price(one.price_per_hour), show_price(one.price_per_million))
        cells.append(
            (
                one.fabric,
                best.layout,
                str(best.devices_used),
                show_seconds(best.ttft_s),
                show_seconds(best.tpot_s),
                tokens_per_s(best.output_tokens_per_s),
                *(prices if priced else ()),
                "" if worst_miss(plan, best) is None else "misses targets",
            )
        )
    return columns, cells


def _not_shown(plan: PlanFile, ranking: Ranking, rows: Sequence[Row]) -> str:
    alike = [row for row in rows if row.alike]
    more = len(ranking.ranked) - len(rows) - sum(len(row.alike) for row in alike)
    words: list[str] = []
    if alike:
        stands = [f"{row.estimate.layout} for {_few(row.alike)}" for row in alike]
        if len(stands) > SHOWN_ALIKE:
            stands = [*stands[:SHOWN_ALIKE], "so on"]
        words.append(
            f"{load_in_words(plan.traffic)}: too small a load to tell more replicas apart (1% or "
            f"less), so one row stands for all: {listed(stands)}."
        )
    if more:
        words.append(f"{counted(more, 'other layout')} work{'s' if more == 1 else ''} too.")
    return " ".join(words)


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_ALIKE
    return listed([*names[:SHOWN_ALIKE], *([f"{more} more"] if more > 0 else [])])


def budget_table(output_tokens: int, rows: Sequence[Row]) -> list[Block]:
    """Seconds of one request by kind of time, a row a layout, with a bar; each row adds up to the
    request as printed.
    """
    parts = [by_kind(row.estimate, output_tokens) for row in rows]
    longest = longest_shown([whole_request(row.estimate, output_tokens) for row in rows])
    unit, name, digits = scale_of(longest)
    step = unit / 10**digits
    kinds: list[Kind] = [kind for kind in KINDS if any(kind in one for one in parts)]
    cells: list[list[str]] = []
    for row, one in zip(rows, parts, strict=True):
        counts = in_steps(one, step)
        shown = [_cell(counts[kind], digits) if kind in counts else "-" for kind in kinds]
        cells.append([row.estimate.layout, _cell(sum(counts.values()), digits), *shown])
    columns = ["layout", ">total"]
    columns += [f">{kind_name(kind)}" for kind in kinds]
    widths = [
        max(len(columns[i].removeprefix(">")), *(len(row[i]) for row in cells))
        for i in range(len(columns))
    ]
    taken, columns_parted = sum(widths) + INDENT, len(widths)
    gap = GAP if WIDTH - taken - GAP * columns_parted >= SHORTEST_BAR else 1
    room = min(LONGEST_BAR, WIDTH - taken - gap * columns_parted)
    heading = Heading(
        f"Where the time of one request goes, in {name} (TTFT + {output_tokens - 1} x TPOT)"
    )
    if room < SHORTEST_BAR:
        rows_alone = [(*row, "") for row in cells]
        return [heading, Grid((*columns, ""), rows_alone, frozenset({0}), gap)]
    bars = [bar(one, longest, room) for one in parts]
    rows_with_bars = [(*row, drawn) for row, drawn in zip(cells, bars, strict=True)]
    legend = "  ".join(f"{FILLS[kind]} {kind_name(kind)}" for kind in kinds)
    grid = Grid((*columns, ""), rows_with_bars, frozenset({0}), gap)
    return [heading, grid, Paragraph(legend)]


def scale_of(longest_s: float) -> tuple[float, str, int]:
    """(seconds a unit, its name, digits after the point) in which a column of times is shown."""
    unit, name = next(
        (one for one in ((1.0, "s"), (1e-3, "ms")) if longest_s >= 10 * one[0]), (1e-6, "us")
    )
    return unit, name, max(0, DIGITS - 1 - math.floor(math.log10(longest_s / unit)))


def longest_shown(requests: Sequence[float]) -> float:
    """Seconds of a bar as long as its track: of the longest request, but for those that would
    leave the others no room.
    """
    return min(max(requests), MOST_TIMES * min(requests))


def _cell(count: int, digits: int) -> str:
    return f"{count / 10**digits:.{digits}f}"


def bar(parts: Mapping[Kind, float], longest_s: float, width: int) -> str:
    """A bar of block characters, `width` for `longest_s`; a longer one is cut off with a mark."""
    counts = in_steps(parts, longest_s / width)
    drawn = "".join(FILLS[kind] * count for kind, count in counts.items())
    return drawn if len(drawn) <= width else drawn[: width - 1] + "»"
