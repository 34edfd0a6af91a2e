"""A lab's tables and words: predicted beside measured, who won, and where the choice flips.

    show(lab_page(lab))

Computes nothing of its own.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from wirecut.bench.lab_facts import TIE, Cell, Lab, Tried, measured_rate, predicted_rate
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.fabric.wires import words_for
from wirecut.units import show_seconds

NEAR = 0.15  # a TPOT predicted as near as this is right


def lab_page(lab: Lab) -> list[Block]:
    """The whole page, in the order in which a person asks."""
    blocks: list[Block] = [Heading("The wires, as probed"), _wires(lab.wires)]
    for users in lab.users:
        blocks += [Heading(f"{count(users)}: predicted and measured"), _cells(lab, users)]
    blocks += [Heading("Winner by output tokens per second"), _races(lab)]
    blocks += [Heading("Where they cross"), *map(Paragraph, crossing_words(lab))]
    blocks.append(Paragraph(score(lab)))
    blocks += [Paragraph(f"Left out: {reason}") for reason in lab.left_out]
    return blocks


def count(users: int) -> str:
    """'1 user', '8 users'."""
    return "1 user" if users == 1 else f"{users} users"


def show_bits(bits_per_s: float) -> str:
    """95.6e6 -> '95.6 Mbit/s'."""
    scaled, unit = (
        (bits_per_s / 1e9, "Gbit/s") if bits_per_s >= 1e9 else (bits_per_s / 1e6, "Mbit/s")
    )
    return f"{scaled:.3g} {unit}"


def crossing_words(lab: Lab) -> Iterator[str]:
    """For each number of users who wins where, as predicted and as measured."""
    for users in lab.users:
        races = [race for race in lab.races() if race.users == users]
        sides = (
            ("predicted", [race.predicted for race in races], predicted_rate),
            ("measured", [race.measured for race in races], measured_rate),
        )
        for side, winners, rate in sides:
            story = _story([race.wire for race in races], winners)
            places = [
                f"{each.above} and {each.below} cross at about {show_bits(each.bits_per_s)}"
                for each in lab.crossings(rate)
                if each.users == users and each.bits_per_s is not None
            ]
            yield f"{count(users)}, {side}: {'; '.join([story, *places])}."


def _story(wires: Sequence[str], winners: Sequence[str]) -> str:
    """'tp2 over shm and 1gbit, dp2 over 100mbit'."""
    if len(set(winners)) == 1:
        return f"{winners[0]} over every wire"
    parts: list[str] = []
    for winner, group in groupby(zip(winners, wires, strict=True), key=itemgetter(0)):
        parts.append(f"{winner} over {' and '.join(wire for _, wire in group)}")
    return ", ".join(parts)


def score(lab: Lab) -> str:
    """How right the predictions were, in one sentence."""
    races = list(lab.races())
    agreed = sum(race.agree for race in races)
    near = sum(abs(cell.tpot_error) <= NEAR for cell in lab.cells)
    return (
        f"The predicted layout won, or came within {TIE:.0%} of the winner, in {agreed} of "
        f"{len(races)} races; TPOT was within {NEAR:.0%} in {near} of {len(lab.cells)} runs."
    )


def _wires(wires: Sequence[Tried]) -> Grid:
    rows = [
        (
            wire.name,
            words_for(wire.kind),
            "" if wire.shaped_bits_per_s is None else show_bits(wire.shaped_bits_per_s),
            show_bits(wire.bits_per_s),
            show_seconds(wire.latency_s) if wire.latency_s else "none seen",
        )
        for wire in wires
    ]
    return Grid(("wire", "what it is", ">shaped to", ">measured", ">latency"), rows)


def _cells(lab: Lab, users: int) -> Grid:
    columns = ("wire", "layout", ">TPOT predicted", ">measured", ">off by",
               ">tok/s predicted", ">measured", ">rounds", ">off by")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    best: set[int] = set()
    for wire in lab.wires:
        cells = lab.at(wire.name, users)
        fastest = max(cells, key=lambda cell: cell.tokens_per_s.median)
        for cell in cells:
            if cell is fastest:
                best.add(len(rows))
            rows.append(_row(cell, first=cell is cells[0]))
    return Grid(columns, rows, strong=frozenset(best))


def _row(cell: Cell, *, first: bool) -> tuple[str, ...]:
    rate = cell.tokens_per_s
    return (
        cell.wire if first else "",
        cell.layout,
        show_seconds(cell.predicted_tpot_s),
        show_seconds(cell.tpot_s.median),
        f"{cell.tpot_error:+.0%}",
        f"{cell.predicted_tokens_per_s:.1f}",
        f"{rate.median:.1f}",
        f"{rate.low:.0f}-{rate.high:.0f}",
        f"{cell.predicted_tokens_per_s / rate.median - 1:+.0%}",
    )


def _races(lab: Lab) -> Grid:
    rows = [
        (
            count(race.users),
            race.wire,
            race.predicted,
            race.measured,
            _verdict(race.predicted == race.measured, race.lost),
        )
        for race in lab.races()
    ]
    return Grid(("", "wire", "predicted", "measured", "agree"), rows)


def _verdict(same: bool, lost: float) -> str:
    if same:
        return "yes"
    return f"a tie: {lost:.1%} apart" if lost <= TIE else f"NO: {lost:.0%} behind"
