"""A page as a list of headings, paragraphs and tables, and how it reaches a terminal or a pipe: 100
columns at most. A table library would take longer to import than a plan to make.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import field

from wirecut.facts import fact

WIDTH, NARROWEST = 100, 40
INDENT = 2
LEAST_LAST = 24  # characters that the last column of a table keeps
BOLD, DIM, BOLD_YELLOW = "1", "2", "1;33"  # of ANSI terminals


@fact
class Heading:
    """One line that names what follows."""

    text: str


@fact
class Note:
    """A line that a reader must not miss."""

    text: str


@fact
class Paragraph:
    """Words, wrapped."""

    text: str


@fact
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
    out = sys.stdout
    colours = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    width = min(shutil.get_terminal_size((WIDTH, 1)).columns, WIDTH) if out.isatty() else WIDTH
    text = "\n".join(_lines(blocks, max(width, NARROWEST), colours=colours))
    print(text.encode(out.encoding or "utf-8", "replace").decode(out.encoding or "utf-8"))


def _lines(blocks: Sequence[Block], width: int, *, colours: bool) -> Iterator[str]:
    def styled(line: str, style: str) -> str:
        return f"\x1b[{style}m{line}\x1b[0m" if colours and line else line

    for i, block in enumerate(blocks):
        match block:
            case Heading(text):
                if i:
                    yield ""
                yield from (styled(line, BOLD) for line in _wrapped(text, width))
            case Note(text):
                yield from (styled(line, BOLD_YELLOW) for line in _wrapped(text, width))
            case Paragraph(text):
                for line in _wrapped(text, width - INDENT):
                    yield (" " * INDENT + line).rstrip()
            case Grid():
                for line, style in _table(block, width - INDENT):
                    yield " " * INDENT + styled(line, style) if style else " " * INDENT + line


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`; lines that fit stay as they are, spaces and all."""
    found: list[str] = []
    for line in text.split("\n"):
        fits = len(line) <= width
        found += [line] if fits else textwrap.wrap(line, width, break_on_hyphens=False)
    return found


def _table(grid: Grid, width: int) -> Iterator[tuple[str, str]]:
    """Lines with their style, empty for plain ones."""
    names = tuple(name.removeprefix(">") for name in grid.columns)
    rows = [*([names] if any(names) else []), *grid.rows]
    floors = _floors(names, grid.rows)
    gap = grid.gap if sum(floors) + grid.gap * (len(names) - 1) <= width else 1
    sizes = _sizes(names, grid.rows, floors, width - gap * (len(names) - 1))
    for i, row in enumerate(rows):
        number = i - (len(rows) - len(grid.rows))
        style = DIM if number < 0 else BOLD if number in grid.strong else ""
        cells = [_wrapped(cell, size) for cell, size in zip(row, sizes, strict=True)]
        for line in range(max(len(cell) for cell in cells)):
            parts = [
                _aligned(cell[line] if line < len(cell) else "", size, right=name.startswith(">"))
                for cell, size, name in zip(cells, sizes, grid.columns, strict=True)
            ]
            yield (" " * gap).join(parts).rstrip(), style


def _aligned(text: str, size: int, *, right: bool) -> str:
    return text.rjust(size) if right else text.ljust(size)


def _floors(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """The widths down to which columns give way first: of what stands under their names; the last,
    of words, down to LEAST_LAST.
    """
    floors = [
        max([_longest_word(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(names)
    ]
    floors[-1] = min(floors[-1], LEAST_LAST)
    return floors


def _sizes(
    names: Sequence[str], rows: Sequence[Sequence[str]], floors: Sequence[int], room: int
) -> list[int]:
    """Column widths: as wide as their cells where there is room, else the last gives way, then
    names that are wider than what stands under them, then the widest.
    """
    sizes = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(names)]
    sizes[-1] = max(floors[-1], min(sizes[-1], room - sum(sizes[:-1])))
    while sum(sizes) > room and max(sizes) > 1:
        spare = [size - floor for size, floor in zip(sizes, floors, strict=True)]
        most = spare if max(spare) > 0 else sizes
        sizes[most.index(max(most))] -= 1
    return sizes


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=0)
