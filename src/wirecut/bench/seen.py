"""What each rank of a run did and waited for, as tables and strips for a terminal.

show(seen_tables(run.timeline))
"""

from bisect import bisect_left
from collections.abc import Sequence

from wirecut.cost.terms import Kind
from wirecut.engine.timeline import Timeline
from wirecut.explain.budget import KINDS
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.explain.tables import FILLS
from wirecut.explain.words import kind_name
from wirecut.units import show_seconds

STRIP = 60  # characters
SHOWN_STEPS = 4  # of each stage


def seen_tables(timeline: Timeline) -> list[Block]:
    """Shares of each rank's time, the bubble fraction, and some steps as strips. Nothing when
    no spans were kept.
    """
    if not any(timeline.spans):
        return []
    return [*_share_table(timeline), *_strips(timeline)]


def _share_table(timeline: Timeline) -> list[Block]:
    ranks = range(timeline.layout.world_size)
    shares = [timeline.shares(rank) for rank in ranks]
    kinds = _kinds(shares)
    rows = [
        (timeline.name(rank), *(f"{shares[rank].get(kind, 0.0):.1%}" for kind in kinds))
        for rank in ranks
    ]
    blocks: list[Block] = [
        Heading("What each rank's time went into, from its first step to its last"),
        Grid(("", *(f">{kind_name(kind)}" for kind in kinds)), rows),
    ]
    if timeline.layout.pp > 1 and timeline.bubble_fraction is not None:
        blocks.append(
            Paragraph(
                f"Bubble fraction {timeline.bubble_fraction:.1%}: of the time in which steps were "
                "under way, what a stage waited for another (the mean over stages)."
            )
        )
    return blocks


def _strips(timeline: Timeline) -> list[Block]:
    """The middle of the run: a character is the kind that took most of its time."""
    steps = [span for span in timeline.spans[0] if span.what == "step"]
    if not steps:
        return []
    count = SHOWN_STEPS * timeline.layout.pp
    first = max(0, (len(steps) - count) // 2)
    shown = steps[first : first + count]
    begin, end = shown[0].begin, shown[-1].end
    drawn = [
        (timeline.name(rank), _strip(timeline, rank, begin, end))
        for rank in range(timeline.layout.world_size)
    ]
    width = show_seconds((end - begin) / STRIP / 1e9)
    used = [kind for kind in KINDS if any(FILLS[kind] in strip for _, strip in drawn)]
    return [
        Heading(
            f"Steps {shown[0].number} to {shown[-1].number} of rank 0; a character is {width}, by "
            "what took most of it"
        ),
        Grid(("", ""), drawn),
        Paragraph("  ".join(f"{FILLS[kind]} {kind_name(kind)}" for kind in used)),
    ]


def _strip(timeline: Timeline, rank: int, begin: int, end: int) -> str:
    edges = [begin + (end - begin) * i // STRIP for i in range(STRIP + 1)]
    times: list[dict[Kind, int]] = [{} for _ in range(STRIP)]
    for piece in timeline.pieces(rank):
        low = max(0, bisect_left(edges, piece.begin) - 1)
        high = min(STRIP, bisect_left(edges, piece.end))
        for i in range(low, high):
            shared = min(piece.end, edges[i + 1]) - max(piece.begin, edges[i])
            times[i][piece.kind] = times[i].get(piece.kind, 0) + shared
    most = [max(each, key=lambda kind: each[kind], default=None) for each in times]
    return "".join(FILLS[kind] if kind else " " for kind in most)


def _kinds(shares: Sequence[dict[str, float]]) -> list[Kind]:
    return [kind for kind in KINDS if any(kind in each for each in shares)]
