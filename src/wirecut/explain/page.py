"""A page as a list of headings, paragraphs and tables, and how it reaches a terminal or a pipe: 100
columns at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 100
INDENT = 2


@dataclass(frozen=True, slots=True)
class Heading:
    """One line that names what follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line that a reader must not miss."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Words, wrapped."""

    text: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: columns whose name starts with '>' are aligned right; `strong` rows stand out, the
    last column wraps, `gap` spaces part columns.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    strong: frozenset[int] = field(default_factory=frozenset[int])
    gap: int = 2


Block = Heading | Note | Paragraph | Grid


def show(blocks: Sequence[Block]) -> None:
    """Print a page to standard output: in colour on a terminal, plain elsewhere."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.width = min(console.width, WIDTH)
        _print(blocks, console)
        return
    console.width = WIDTH
    with console.capture() as plain:
        _print(blocks, console)
    print("\n".join(line.rstrip() for line in plain.get().splitlines()))


def _print(blocks: Sequence[Block], console: Console) -> None:
    for i, block in enumerate(blocks):
        match block:
            case Heading(text):
                if i:
                    console.print()
                console.print(Text(text, style="bold"))
            case Note(text):
                console.print(Text(text, style="bold yellow"))
            case Paragraph(text):
                console.print(Padding(Text(text), (0, 0, 0, INDENT)))
            case Grid():
                console.print(Padding(_table(block), (0, 0, 0, INDENT)))


def _table(grid: Grid) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, grid.gap, 0, 0),
        header_style="dim",
        show_header=any(name.removeprefix(">") for name in grid.columns),
    )
    for i, name in enumerate(grid.columns):
        last = i == len(grid.columns) - 1
        table.add_column(
            name.removeprefix(">"),
            justify="right" if name.startswith(">") else "left",
            no_wrap=not last,
        )
    for i, row in enumerate(grid.rows):
        table.add_row(*row, style="bold" if i in grid.strong else None)
    return table
