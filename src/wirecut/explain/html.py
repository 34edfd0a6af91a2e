"""HTML that cannot be broken by a name: elements from words, everything else escaped.

    el("p", "a < b", class_="note")     # <p class="note">a &lt; b</p>

A page needs nothing outside itself: its style and its script are written into it.
"""

from html import escape
from pathlib import Path

# Nothing may be fetched: a browser holds the page to what the text promises.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
VOID = frozenset({"meta", "br"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(tag: str, /, *children: str, **attributes: str | float | None) -> Html:
    """An element. Children that are no `Html` are escaped, attributes always; `class_` is class,
    `data_tip` data-tip; None is left out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = join(*children)
    return Html(f"<{tag}{words}>" if tag in VOID and not inside else _whole(tag, words, inside))


def _whole(tag: str, words: str, inside: str) -> str:
    return f"<{tag}{words}>{inside}</{tag}>"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def join(*parts: str) -> Html:
    """Parts one after another, those that are no `Html` escaped."""
    return Html("".join(one if isinstance(one, Html) else escape(one) for one in parts))


def document(title: str, *body: str) -> str:
    """A whole page: styled, light or dark as the reader's system, and with hover texts."""
    here = Path(__file__)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(here.with_name("report.css").read_text(encoding="utf-8"))),
    )
    script = el("script", Html(here.with_name("report.js").read_text(encoding="utf-8")))
    page = el("html", head, el("body", *body, script), lang="en")
    return f"<!doctype html>\n{page}\n"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]], **attributes: str) -> Html:
    """A table that scrolls in itself where it is wider than the page; columns whose name starts
    with '>' are aligned right.
    """
    sides = ["num" if name.startswith(">") else None for name in columns]
    head = [
        el("th", name.removeprefix(">"), class_=side)
        for name, side in zip(columns, sides, strict=True)
    ]
    body = [
        el("tr", *(el("td", cell, class_=side) for cell, side in zip(row, sides, strict=True)))
        for row in rows
    ]
    inside = join(el("thead", el("tr", *head)), el("tbody", *body))
    return el("div", el("table", inside, **attributes), class_="scroll")
