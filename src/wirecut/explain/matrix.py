"""Which devices are near which: classes of wires, the matrix of pairs, and islands in words.

    nest = Nest(fabric)
    classes = wire_classes(fabric, nest)
    matrix(fabric, nest, classes)  # lines of text, islands parted by rules

Sorts and counts what the fabric holds; every number is a link's own, or the median of links.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise, product

from wirecut.errors import FabricError
from wirecut.explain.page import INDENT, WIDTH
from wirecut.explain.words import listed, wire_name
from wirecut.fabric.fabric import Fabric, Link
from wirecut.fabric.islands import distance
from wirecut.facts import fact
from wirecut.units import show_rate

SHOWN = 16  # rows of a matrix at most
SHOWN_ISLANDS = 8  # of one level
SHADES = "#*=:~"  # the fastest wires darkest
UNITS = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))


class Nest:
    """How islands lie in one another. `heights[i]` of island i is 1 when it holds no island, else
    one more than the highest that it holds.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.islands = sorted(fabric.islands, key=len)
        self.num_devices = len(fabric.devices)
        self.heights: list[int] = []
        self._holders: list[list[int]] = [[] for _ in fabric.devices]  # islands, smallest first
        for i, island in enumerate(self.islands):
            inner = [self.heights[j] for one in island for j in self._holders[one]]
            self.heights.append(1 + max(inner, default=0))
            for one in island:
                self._holders[one].append(i)
        self._sets = [frozenset(island) for island in self.islands]

    @property
    def outside(self) -> int:
        """The level of a pair that no island holds."""
        return 1 + max(self.heights, default=0)

    def level(self, devices: Sequence[int]) -> int:
        """Height of the smallest island that holds all of `devices`."""
        for i in self._holders[devices[0]]:
            if self._sets[i].issuperset(devices):
                return self.heights[i]
        return self.outside

    def blocks(self, height: int) -> list[tuple[int, ...]]:
        """The largest islands up to that height and the devices that none of them holds, in order
        of what holds them.
        """
        found: dict[tuple[int, ...], None] = {}
        for device in self.order():
            held = [i for i in self._holders[device] if self.heights[i] <= height]
            found[tuple(sorted(self.islands[held[-1]])) if held else (device,)] = None
        return list(found)

    def order(self) -> list[int]:
        """All devices, those of an island together."""

        def key(device: int) -> tuple[int, ...]:
            return (*(min(self.islands[i]) for i in reversed(self._holders[device])), device)

        return sorted(range(self.num_devices), key=key)


@fact
class WireClass:
    """Links of one kind and path at one level of islands. `symbol` is empty for links that are not
    the best of their pair. Each of `links` stands for `times` pairs, where a trunk joins all hosts.
    """

    symbol: str
    kind: str
    path: str
    level: int
    links: tuple[Link, ...]
    times: int = 1

    @property
    def pairs(self) -> int:
        return self.times * len(self.links)

    @property
    def bytes_per_s(self) -> float:
        return statistics.median(link.bytes_per_s for link in self.links)

    @property
    def latency_s(self) -> float:
        return statistics.median(link.latency_s for link in self.links)


def wire_classes(fabric: Fabric, nest: Nest) -> list[WireClass]:
    """Every link sorted by kind, path and level, fastest class first."""
    found: dict[tuple[str, str, int], list[Link]] = {}
    used: set[tuple[str, str, int]] = set()
    for link in fabric.sample_links:
        key = (link.kind, link.path, nest.level((link.a, link.b)))
        found.setdefault(key, []).append(link)
        if fabric.link(link.a, link.b) is link:
            used.add(key)
    fastest = sorted(found, key=lambda key: (key not in used, statistics.median(
        distance(link) for link in found[key]
    )))  # fmt: skip
    hosts = len(fabric.hosts)
    sampled = {id(link) for link in fabric.sample_links[len(fabric.links) :]}
    times = {key: hosts * (hosts - 1) // 2 if id(found[key][0]) in sampled else 1 for key in found}
    return [
        WireClass(_symbol(i) if key in used else "", *key, tuple(found[key]), times[key])
        for i, key in enumerate(fastest)
    ]


def _symbol(place: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (SHADES + letters)[min(place, len(SHADES) + len(letters) - 1)]


def matrix(fabric: Fabric, nest: Nest, classes: Sequence[WireClass]) -> list[str]:
    """Bandwidth of every pair with the symbol of its class, as lines; beyond 16 devices, the median
    of every two blocks (islands, and devices of none).

    Rules part what no island holds together, blanks the islands inside. Empty when there is nothing
    to see, or too much.
    """
    height = next((h for h in range(nest.outside) if len(nest.blocks(h)) <= SHOWN), None)
    if height is None or nest.num_devices < 3 or not fabric.wire_kinds:
        return []
    blocks = nest.blocks(height)
    if len(blocks) < 2:
        return []
    symbols = {(one.kind, one.path, one.level): one.symbol for one in classes}

    def symbol(link: Link) -> str:
        return symbols[link.kind, link.path, nest.level((link.a, link.b))]

    cells = [[_between(fabric, a, b) for b in blocks] for a in blocks]
    fastest = max(link.bytes_per_s for row in cells for link in row if link is not None)
    scale, unit = next((u for u in UNITS if fastest >= u[0]), UNITS[-1])
    texts = [
        [f"{_short(link.bytes_per_s / scale)}{symbol(link)}" if link else "" for link in row]
        for row in cells
    ]
    for i, block in enumerate(blocks):
        texts[i][i] = "x" if len(block) == 1 else texts[i][i]
    rules = [
        _rule(nest.level((one[0], other[0])), height, nest.outside)
        for one, other in pairwise(blocks)
    ]
    names = [span(block) for block in blocks]
    bare = [[text[-1:] for text in row] for row in texts]
    for columns, shown in ((names, texts), ([str(b[0]) for b in blocks], texts), (names, bare)):
        lines = _ruled(names, columns, shown, rules)
        if len(lines[0]) <= WIDTH - INDENT:
            return [lines[0] + ("" if shown is bare else f"  {unit}"), *lines[1:]]
    return _ruled(names, [str(block[0]) for block in blocks], bare, rules)


def _between(fabric: Fabric, a: Sequence[int], b: Sequence[int]) -> Link | None:
    """The link of median bandwidth among the best ones between (or, of one block, inside) blocks;
    None where nothing joins them.
    """
    pairs = combinations(a, 2) if a == b else product(a, b)
    found = [link for pair in pairs if (link := _best(fabric, *pair)) is not None]
    found.sort(key=lambda link: link.bytes_per_s)
    return found[len(found) // 2] if found else None


def _rule(level: int, height: int, outside: int) -> str:
    """What parts two neighbours of a matrix of blocks of that height."""
    if level <= height + 1:
        return " "
    return " | " if level == outside else "   "


def _ruled(
    names: Sequence[str], columns: Sequence[str], texts: list[list[str]], rules: Sequence[str]
) -> list[str]:
    """A matrix as lines. `rules[i]` stands between columns, and for rows, i and i + 1."""
    widths = [max(map(len, (column, *row))) for column, *row in zip(columns, *texts, strict=True)]
    left = max(map(len, names))
    between = [" " if left else "", *rules]

    def line(name: str, cells: Sequence[str]) -> str:
        padded = (
            f"{rule}{cell:>{width}}"
            for rule, cell, width in zip(between, cells, widths, strict=True)
        )
        return f"{name:<{left}} " + "".join(padded)

    lines = [line("", columns)]
    for name, row, rule in zip(names, texts, (*rules, ""), strict=True):
        lines.append(line(name, row).rstrip())
        if rule == " | ":
            whole = line("", ["" for _ in row])
            lines.append(whole.replace(" ", "-").replace("|", "+"))
        elif rule == "   ":
            lines.append("")
    return lines


def _short(value: float) -> str:
    """Three digits at most: '100', '22.1', '0.12'."""
    if value >= 99.5:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def span(devices: Sequence[int]) -> str:
    """'3', '0-7', '0-2,5': device numbers in little room."""
    runs: list[list[int]] = []
    for device in sorted(devices):
        if runs and device == runs[-1][1] + 1:
            runs[-1][1] = device
        else:
            runs.append([device, device])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def islands_in_words(nest: Nest, classes: Sequence[WireClass]) -> list[tuple[str, ...]]:
    """Rows of (islands, joined by, devices): a level of islands each, the innermost first; last
    what joins all.
    """
    rows: list[tuple[str, ...]] = []
    for level in range(1, nest.outside):
        islands = [i for i, h in zip(nest.islands, nest.heights, strict=True) if h == level]
        sizes = Counter(len(island) for island in islands)
        counts = [f"{n} island{'s' if n > 1 else ''} of {size}" for size, n in sizes.items()]
        shown = ", ".join(span(island) for island in islands[:SHOWN_ISLANDS])
        hidden = len(islands) - SHOWN_ISLANDS
        more = f" and {hidden} more" if hidden > 0 else ""
        rows.append((listed(counts), _joined(classes, level), shown + more))
    held = {device for island in nest.islands for device in island}
    alone = [device for device in range(nest.num_devices) if device not in held]
    if alone:
        rows.append(("on no island", "", span(alone)))
    if between := _joined(classes, nest.outside):
        rows.append(("between them", between, ""))
    return rows


def _joined(classes: Sequence[WireClass], level: int) -> str:
    """'NVLink at 100 GB/s', the best wires of a level."""
    kinds: dict[str, list[float]] = {}
    for one in classes:
        if one.level == level and one.symbol:
            kinds.setdefault(one.kind, []).extend(link.bytes_per_s for link in one.links)
    return listed(
        [
            f"{wire_name(kind)} at {show_rate(statistics.median(rates))}"
            for kind, rates in kinds.items()
        ]
    )


def _best(fabric: Fabric, a: int, b: int) -> Link | None:
    try:
        return fabric.link(a, b)
    except FabricError:
        return None
