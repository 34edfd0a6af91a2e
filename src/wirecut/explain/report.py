"""One page that holds a whole plan: the choice, its fabric and placement drawn, where time goes,
the map of what wins where. Opens offline; fetches nothing.

    Path("report.html").write_text(report(plan_file, winners))

Says what `answer` says, with pictures; computes nothing of its own.
"""

from collections.abc import Sequence

from wirecut.cost.terms import Estimate, Kind, Memory
from wirecut.explain.answer import (
    choice_in_words,
    duel_of,
    headline_rows,
    question,
    reasons,
    rejection_rows,
)
from wirecut.explain.budget import KINDS, Row, by_kind, shown_rows, whole_request
from wirecut.explain.duel import Duel, sureness, told_lines
from wirecut.explain.fabric_tree import leaned_on
from wirecut.explain.flips import flip_rows, nowhere
from wirecut.explain.html import Html, document, el, join, table
from wirecut.explain.notes import notes
from wirecut.explain.picture_fabric import fabric_picture
from wirecut.explain.picture_map import winner_picture
from wirecut.explain.tables import elsewhere_cells, longest_shown, ranking_cells
from wirecut.explain.words import (
    counted,
    devices_in_words,
    kind_name,
    model_name,
)
from wirecut.layout.plan import PlanFile
from wirecut.planner.map import WinnerMap
from wirecut.planner.plan import Ranking
from wirecut.planner.plan_file import ranking_of
from wirecut.units import show_bytes, show_seconds

SHOWN_REASONS = 20


def report(plan: PlanFile, winners: WinnerMap | None, why_no_map: str = "") -> str:
    """The page; `why_no_map` stands where the map would be. Raises PlanError when the plan's
    estimates are damaged.
    """
    ranking = ranking_of(plan)
    rows = shown_rows(ranking.ranked, plan.traffic.output_tokens)
    duel, chosen = duel_of(plan, ranking), ranking.chosen
    title = f"{chosen.layout} for {model_name(plan.model)}"
    return document(
        title,
        _header(plan, ranking, duel),
        el(
            "main",
            _tiles(plan, ranking),
            _section("Which device does what", fabric_picture(plan.fabric, chosen)),
            _section(
                "Where the time of one request goes",
                _budget(plan, rows),
                _formula(plan.traffic.output_tokens),
            ),
            _duel(duel),
            _map(plan, winners, chosen, why_no_map),
            _flips(plan, ranking),
            _section("Ranking", table(*ranking_cells(plan, rows))),
            _elsewhere(plan, ranking),
            _rejected(ranking),
            _terms(chosen),
        ),
        el("footer", f"wirecut {plan.version}; fabric: {plan.fabric.made.how}"),
    )


def _section(title: str, *inside: str, **attributes: str) -> Html:
    return el("section", el("h2", title), *inside, **attributes)


def _formula(output_tokens: int) -> Html:
    return el("p", f"One request is TTFT + {output_tokens - 1} x TPOT.", class_="quiet")


def _header(plan: PlanFile, ranking: Ranking, duel: Duel | None) -> Html:
    chosen = ranking.chosen
    banners = [el("p", note.text, class_="note") for note in notes(plan, ranking)]
    close = duel is not None and duel.close
    pill = "too close to call" if close else "the choice stands"
    sure = "close" if close else "sure"
    mark = [el("em", pill, class_=sure)] if duel is not None and duel.margin is not None else []
    return el(
        "header",
        el("p", f"{question(plan)}; {devices_in_words(plan.fabric)}", class_="quiet"),
        el("h1", "Run it as ", el("strong", chosen.layout), *mark),
        el("p", choice_in_words(plan.fabric, ranking), class_="lead"),
        *(el("p", one) for one in reasons(ranking, duel)),
        *banners,
    )


def _tiles(plan: PlanFile, ranking: Ranking) -> Html:
    tiles = [
        el("div", el("span", name), el("b", value), el("small", sure), class_="tile")
        for name, value, sure in headline_rows(plan, ranking)
    ]
    memory = _memory(ranking.chosen.memory)
    return el("div", *tiles, memory, class_="tiles", style=f"--tiles:{len(tiles)}")


def _memory(memory: Memory) -> Html:
    """The fullest device's memory as one bar."""
    parts = (
        ("weights", memory.weights_bytes),
        ("KV", memory.kv_bytes),
        ("activations", memory.activation_bytes),
        ("buffers", memory.buffer_bytes),
    )
    pieces = [
        el(
            "i",
            style=f"width:{100 * size / memory.capacity_bytes:.3f}%",
            class_=f"m-{name.lower()}",
            data_tip=f"{name}: {show_bytes(size)}",
        )
        for name, size in parts
        if size
    ]
    words = ", ".join(f"{name} {show_bytes(size)}" for name, size in parts if size)
    room = f"room for {memory.kv_tokens} tokens of KV"
    return el(
        "div",
        el("div", *pieces, class_="track"),
        el("small", f"{words}; of {show_bytes(memory.capacity_bytes)}, {room}"),
        class_="tile memory",
    )


def _budget(plan: PlanFile, rows: Sequence[Row]) -> Html:
    outputs = plan.traffic.output_tokens
    longest = longest_shown([whole_request(row.estimate, outputs) for row in rows])
    parts = [by_kind(row.estimate, outputs) for row in rows]
    kinds: list[Kind] = [kind for kind in KINDS if any(kind in one for one in parts)]
    legend = [el("span", el("i", class_=f"swatch k-{kind}"), kind_name(kind)) for kind in kinds]
    bars: list[Html] = []
    for row, one in zip(rows, parts, strict=True):
        total = whole_request(row.estimate, outputs)
        pieces = [
            el(
                "i",
                class_=f"k-{kind}",
                style=f"width:{100 * seconds / longest:.3f}%",
                data_kind=kind,
                data_seconds=f"{seconds:.9g}",
                data_tip=f"{row.estimate.layout}: {kind_name(kind)} {show_seconds(seconds)}, "
                f"{seconds / total:.0%} of {show_seconds(total)}",
            )
            for kind, seconds in one.items()
        ]
        bars.append(
            el(
                "div",
                el("b", row.estimate.layout),
                el("div", *pieces, class_="track over" if total > longest else "track"),
                el("span", show_seconds(total)),
                class_="budget chosen" if row.place == 1 else "budget",
                data_layout=row.estimate.layout,
            )
        )
    return join(el("div", *legend, class_="legend"), *bars)


def _duel(duel: Duel | None) -> Html:
    """What the choice saves to the right, what it pays to the left."""
    if duel is None:
        return Html()
    lines = [line for line in told_lines(duel.lines) if line.difference]
    largest = max((abs(line.difference) for line in lines), default=0.0)
    bars = [
        el(
            "div",
            el("b", line.name),
            el(
                "div",
                el(
                    "i",
                    class_="saves" if line.difference > 0 else "pays",
                    style=f"width:{50 * abs(line.difference) / largest:.3f}%",
                ),
                class_="track both",
            ),
            el(
                "span",
                f"{'saves' if line.difference > 0 else 'pays'} "
                f"{show_seconds(abs(line.difference))}",
            ),
            class_="budget",
            data_tip=f"{line.name}: {duel.ours.layout} {show_seconds(line.ours)}, "
            f"{duel.theirs.layout} {show_seconds(line.theirs)}",
        )
        for line in lines
    ]
    title = f"Why {duel.ours.layout} and not {duel.theirs.layout}"
    words = el("p", f"{duel.sentence} {sureness(duel)}")
    return _section(title, words, *bars)


def _map(plan: PlanFile, winners: WinnerMap | None, chosen: Estimate, why: str) -> Html:
    if winners is None:
        return _section("What wins where", el("p", why, class_="quiet")) if why else Html()
    link = leaned_on(plan.fabric, chosen.cut)
    picture = winner_picture(winners, link, chosen=chosen.layout)
    return _section("What wins where", picture)


def _flips(plan: PlanFile, ranking: Ranking) -> Html:
    rows = flip_rows(plan, ranking)
    if not rows:
        return _section("Where it flips", el("p", nowhere(plan)))
    return _section("Where it flips", el("ul", *(
        el("li", el("b", to), f" {when}", class_="flip") for when, to in rows
    ), class_="flips"))  # fmt: skip


def _elsewhere(plan: PlanFile, ranking: Ranking) -> Html:
    if not ranking.elsewhere:
        return Html()
    return _section("On the other fabrics, at best", table(*elsewhere_cells(plan, ranking)))


def _rejected(ranking: Ranking) -> Html:
    if not ranking.rejected:
        return Html()
    rows = rejection_rows(ranking)
    title = f"Does not work: {counted(len(ranking.rejected), 'layout')}"
    more = len(rows) - SHOWN_REASONS
    words = [el("p", f"and {counted(more, 'other reason')}")] if more > 0 else []
    inside = table(("layout", "why"), [(name, why) for name, why in rows[:SHOWN_REASONS]])
    return el("details", el("summary", title), inside, *words)


def _terms(chosen: Estimate) -> Html:
    rows: list[tuple[str, ...]] = [
        (
            term.phase,
            term.name,
            show_seconds(term.seconds),
            show_bytes(term.wire_bytes) if term.axis else "",
            term.source,
            term.because,
        )
        for term in chosen.terms
    ]
    columns = ("phase", "term", ">time", ">on wires", "source", "because")
    title = f"Every term of {chosen.layout}"
    return el("details", el("summary", title), table(columns, rows))
