"""The map of the best layout, drawn: wire speed across, load upwards, one colour a cut.

    winner_picture(winners, link, chosen="tp4dp2")

Draws what `planner.map` found; every cell is its layout.
"""

from collections import Counter

from wirecut.explain.html import Html, el, join
from wirecut.explain.words import counted, wire_name
from wirecut.fabric.fabric import Link
from wirecut.layout.layout import parse_layout
from wirecut.planner.map import WinnerMap
from wirecut.units import show_rate

HUES = (212, 28, 150, 330, 48, 268, 190, 0, 95, 300)  # neighbours far apart
LIGHTEST, DARKEST = 34.0, 0.0  # per cent of the page's own colour mixed into a cell's
TICKS = (0.01, 0.1, 1.0, 10.0, 100.0)
LEAST_NAMED = 4  # columns in a row of a region that carries its name


def winner_picture(winners: WinnerMap, link: Link | None, *, chosen: str) -> Html:
    """The map with its axes and its legend. `link` gives the wires' speed in units."""
    colours = _colours(winners, chosen)
    named = _named_cells(winners)
    rows = [
        join(
            el("span", _load(winners, row), class_="load"),
            *(_cell(winners, link, row, column, colours, named) for column in _columns(winners)),
        )
        for row in reversed(range(len(winners.loads)))
    ]
    ticks = [_tick(winners, link, column) for column in _columns(winners)]
    unit = "users at once" if winners.by == "concurrency" else "requests/s"
    wires = "speed of all wires, against these" + (f" ({wire_name(link.kind)})" if link else "")
    grid = el(
        "div",
        *rows,
        el("span", class_="load"),
        *ticks,
        class_="map",
        style=f"--columns:{len(winners.speeds)}",
        role="img",
        aria_label=f"best layout by {unit} and wire speed; now {chosen}",
    )
    return join(
        _legend(winners, colours),
        el("div", unit, class_="axis up"),
        grid,
        el("div", wires, class_="axis"),
    )


def _columns(winners: WinnerMap) -> range:
    return range(len(winners.speeds))


def _colours(winners: WinnerMap, chosen: str) -> dict[str, str]:
    """Layout to colour: a hue a cut, the chosen one's first; more replicas are stronger."""
    sizes = Counter(name for row in winners.cells for name in row)
    names = [chosen, *(name for name, _ in sizes.most_common() if name != chosen)]
    cuts: dict[tuple[int, int, int], list[str]] = {}
    for name in names:
        layout = parse_layout(name)
        cuts.setdefault((layout.tp, layout.pp, layout.ep), []).append(name)
    found: dict[str, str] = {}
    for i, alike in enumerate(cuts.values()):
        alike.sort(key=lambda name: parse_layout(name).dp)
        for j, name in enumerate(alike):
            share = j / (len(alike) - 1) if len(alike) > 1 else 1.0
            mixed = LIGHTEST + (DARKEST - LIGHTEST) * share
            hue, chroma = (HUES[i], 58) if i < len(HUES) else (0, 0)
            found[name] = f"--h:{hue};--s:{chroma}%;--mix:{mixed:.0f}%"
    return found


def _cell(
    winners: WinnerMap,
    link: Link | None,
    row: int,
    column: int,
    colours: dict[str, str],
    named: set[tuple[int, int]],
) -> Html:
    name, here = winners.cells[row][column], (row, column) == winners.here
    words = el("b", name) if (row, column) in named and not here else Html()
    return el(
        "i",
        words,
        class_="here" if here else None,
        style=colours[name],
        data_layout=name,
        data_tip=(
            f"{name} wins with {_whole_load(winners, row)} on wires "
            f"{_speed(winners.speeds[column], link)}" + ("; you are here" if here else "")
        ),
    )


def _named_cells(winners: WinnerMap) -> set[tuple[int, int]]:
    """Where to write a layout's name: the middle of its longest run of cells."""
    best: dict[str, tuple[int, int, int]] = {}
    for row, names in enumerate(winners.cells):
        start = 0
        for column in range(1, len(names) + 1):
            if column < len(names) and names[column] == names[start]:
                continue
            run = column - start
            if run >= LEAST_NAMED and run >= best.get(names[start], (0, 0, 0))[0]:
                best[names[start]] = run, row, start + (run - 1) // 2
            start = column
    return {(row, column) for _, row, column in best.values()}


def _load(winners: WinnerMap, row: int) -> str:
    load = winners.loads[row]
    return f"{load:.0f}" if load >= 100 else f"{load:.3g}"


def _whole_load(winners: WinnerMap, row: int) -> str:
    if winners.by == "concurrency":
        return f"{counted(round(winners.loads[row]), 'user')} at once"
    return f"{_load(winners, row)} requests/s"


def _speed(factor: float, link: Link | None) -> str:
    if factor == 1:
        words = "as they are"
    else:
        words = f"{factor:.3g} times as fast" if factor > 1 else f"{1 / factor:.3g} times slower"
    return words + (f": {show_rate(link.bytes_per_s * factor)}" if link else "")


def _tick(winners: WinnerMap, link: Link | None, column: int) -> Html:
    factor = winners.speeds[column]
    if not any(abs(factor / tick - 1) < 1e-6 for tick in TICKS):
        return el("span", class_="tick")
    places = {0: "first", winners.here[1]: "middle", len(winners.speeds) - 1: "last"}
    rate = el("span", show_rate(link.bytes_per_s * factor)) if link else Html()
    label = el("u", el("b", f"{factor:g}x"), rate)
    return el("span", label, class_=f"tick {places.get(column, 'between')}")


def _legend(winners: WinnerMap, colours: dict[str, str]) -> Html:
    sizes = Counter(name for row in winners.cells for name in row)
    entries = [
        el("span", el("i", class_="swatch mapped", style=colours[name]), name)
        for name, _ in sizes.most_common()
    ]
    here = el("span", el("i", class_="swatch here"), "you are here")
    return el("div", *entries, here, class_="legend")
