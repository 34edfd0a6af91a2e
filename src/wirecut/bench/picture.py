"""A lab as a picture: tokens per second over the wires, predicted as lines and measured as dots.

    draw(lab, Path("lab.png"))

Imports matplotlib, which needs no display here.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wirecut.bench.lab_facts import Crossing, Lab, predicted_rate
from wirecut.bench.lab_page import count, score, show_bits

ENDINGS = ("png", "svg", "pdf")
# Colours that people with any colour vision tell apart (Okabe and Ito 2008), and a shape each.
STYLES = {"tp": ("#0072B2", "o"), "pp": ("#D55E00", "s"), "dp": ("#009E73", "^")}
OTHER = ("#666666", "D")
PANEL = (6.2, 4.6)  # inches
LEAST_WIDTH = 10.0  # inches: room for the title and the legend
DODGE = 0.07  # dots of layouts that are equally fast stand side by side


def draw(lab: Lab, path: Path) -> None:
    """Write the picture; its format is the path's ending. Raises OSError."""
    width, height = PANEL
    figure = Figure(
        figsize=(max(LEAST_WIDTH, width * len(lab.users)), height), layout="constrained", dpi=140
    )
    panels = figure.subplots(1, len(lab.users), squeeze=False)[0]
    for axes, users in zip(panels, lab.users, strict=True):
        _panel(axes, lab, users)
    panels[0].set_ylabel("output tokens per second")
    lines, names = panels[0].get_legend_handles_labels()
    order = [i + side for i in range(len(lab.layouts)) for side in (0, len(lab.layouts))]
    figure.legend(  # a column for each layout: its line above its dots
        [lines[i] for i in order],
        [names[i] for i in order],
        loc="outside lower center",
        ncols=len(lab.layouts),
        fontsize=9,
    )
    figure.suptitle(f"{lab.model}: which cut on which wire\n{score(lab)}", fontsize=10)
    figure.savefig(path)


def _panel(axes: Axes, lab: Lab, users: int) -> None:
    wires = [wire.name for wire in reversed(lab.wires)]  # slowest first
    for i, layout in enumerate(lab.layouts):
        cells = [cell for wire in wires for cell in lab.at(wire, users) if cell.layout == layout]
        colour, shape = STYLES.get(layout[:2], OTHER)
        at = [wires.index(cell.wire) for cell in cells]
        guesses = [cell.predicted_tokens_per_s for cell in cells]
        measured = [cell.tokens_per_s for cell in cells]
        axes.plot(at, guesses, color=colour, label=f"{layout} predicted")
        axes.errorbar(
            [each + DODGE * (i - (len(lab.layouts) - 1) / 2) for each in at],
            [each.median for each in measured],
            yerr=[
                [each.median - each.low for each in measured],
                [each.high - each.median for each in measured],
            ],
            color=colour,
            marker=shape,
            linestyle="none",
            capsize=3,
            label=f"{layout} measured, least to most",
        )
    _frame(axes, lab, users)
    crossings = [each for each in lab.crossings(predicted_rate) if each.users == users]
    for number, crossing in enumerate(crossings):
        _mark(axes, crossing, wires.index(crossing.fast) - crossing.share, number)


def _frame(axes: Axes, lab: Lab, users: int) -> None:
    """Title, scales, and the wires by name with what they carry."""
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the words of a crossing
    axes.set_xticks(
        range(len(lab.wires)),
        [f"{wire.name}\n{show_bits(wire.bits_per_s)}" for wire in reversed(lab.wires)],
    )
    axes.set_xlabel("wire, and what it carries as probed")
    axes.set_title(count(users))
    axes.grid(axis="y", alpha=0.3)


def _mark(axes: Axes, crossing: Crossing, at: float, number: int) -> None:
    """Where the predicted winner changes. Further crossings have their words further down."""
    axes.axvline(at, color="#666666", linestyle="--", linewidth=1)
    place = "" if crossing.bits_per_s is None else f" {show_bits(crossing.bits_per_s)} "
    axes.annotate(
        f"{crossing.below} ◂{place}▸ {crossing.above}",
        (at, 0.97 - 0.07 * number),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
        fontsize=9,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#999999"},
    )
