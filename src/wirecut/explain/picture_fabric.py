"""Fabric and placement, drawn: devices in their hosts and islands, wires by class and thickness,
ranks by stage.

    fabric_picture(fabric, chosen)

A host is one SVG; hosts flow beside and under one another, joined by the wires between them.
"""

import math
from collections.abc import Sequence

from wirecut.cost.terms import Estimate
from wirecut.explain.fabric_tree import Joint, Node, hosts_tree, joined
from wirecut.explain.html import Html, el, join
from wirecut.explain.words import counted, wire_name
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.wires import is_network
from wirecut.facts import fact
from wirecut.layout.layout import Axis, Layout, parse_layout
from wirecut.layout.shards import expert_tp
from wirecut.units import show_bytes, show_rate, show_seconds

BOX, HIGH, GAP, PAD, BUS = 84.0, 62.0, 12.0, 12.0, 36.0  # pixels, before scaling
WIDEST = 4 * BOX + 3 * GAP + 4 * PAD  # a row of four devices, in pairs
SHOWN_HOSTS = 8
LARGER = 1.4  # a host alone has room
FAMILIES = (("nv", "link"), ("xgmi", "link"), ("pcie", "pcie"), ("shm", "shared"))


@fact
class Drawn:
    """SVG that has its corner at (0, 0), and its size."""

    svg: Html
    width: float
    height: float


@fact
class Scene:
    """What every box needs to know: the fabric, and the rank of each device that has one."""

    fabric: Fabric
    layout: Layout
    ranks: dict[int, int]
    fullest: int
    stages: Sequence[tuple[int, int]]


def fabric_picture(fabric: Fabric, chosen: Estimate) -> Html:
    """The picture. Of many hosts, those with ranks come first, and the others are counted."""
    ranks = {device: rank for rank, device in enumerate(chosen.placement)}
    scene = Scene(
        fabric,
        parse_layout(chosen.layout),
        ranks,
        chosen.placement[chosen.memory.rank],
        chosen.stages,
    )
    used = {fabric.devices[device].host for device in ranks}
    hosts = sorted(fabric.hosts, key=lambda host: host not in used)  # stable
    shown = hosts[:SHOWN_HOSTS]
    parts = [_stage_legend(scene), _outer(scene, hosts_tree(fabric, shown))]
    if more := hosts[SHOWN_HOSTS:]:
        busy = sum(host in used for host in more)
        held = "all" if busy == len(more) else str(busy) if busy else "none"
        words = f"and {counted(len(more), 'more host')}, {held} of them with ranks"
        parts.append(el("p", words, class_="quiet"))
    return el("div", *parts, class_="fabric")


def _stage_legend(scene: Scene) -> Html:
    stages = enumerate(scene.stages) if scene.layout.pp > 1 else ()
    entries = [
        el(
            "span",
            el("i", class_="swatch stage", style=_hue(scene, stage)),
            f"stage {stage}: layers {first}-{last - 1}",
        )
        for stage, (first, last) in stages
    ]
    if len(scene.ranks) > 1:
        entries.append(el("span", el("i", class_="swatch corner"), "fullest memory"))
    if len(scene.ranks) < len(scene.fabric.devices):
        entries.append(el("span", el("i", class_="swatch unused"), "unused"))
    return el("div", *entries, class_="legend") if entries else Html()


def _outer(scene: Scene, node: Node) -> Html:
    """Nodes of several hosts as boxes that flow; a host as SVG."""
    if node.name or not node.children:
        drawn = _inner(scene, node)
        size = f"0 0 {drawn.width:g} {drawn.height:g}"
        width = drawn.width * (LARGER if len(scene.fabric.hosts) == 1 else 1)
        picture = el("svg", drawn.svg, viewBox=size, width=width, role="img")
        return el("figure", el("figcaption", node.name), picture, class_="host")
    children = el("div", *(_outer(scene, child) for child in node.children), class_="hosts")
    bars = [
        el(
            "div",
            el("span", _joint(joint)),
            class_=f"bar {_wire_class(joint)}",
            data_tip=_tip(joint),
        )
        for joint in joined(scene.fabric, node)[:2]
    ]
    nothing = [] if bars else [el("div", el("span", "no wire between them"), class_="bar none")]
    return el("div", children, *bars, *nothing, class_="cluster")


def _inner(scene: Scene, node: Node) -> Drawn:
    """A device, or a frame with children in rows and the wire that joins them after every other
    row.
    """
    if not node.children:
        return _device(scene, node.devices[0])
    drawn = [_inner(scene, child) for child in node.children]
    rows = _rows(drawn)
    joints = joined(scene.fabric, node)[:2]
    width = max(sum(one.width for one in row) + GAP * (len(row) - 1) for row in rows)
    buses, parts, drops, y = list[float](), list[Html](), list[tuple[float, float, float]](), PAD
    for i, row in enumerate(rows):
        tall = max(one.height for one in row)
        bus = y + tall + (BUS / 2 if len(rows) > 1 else BUS / 4) if i % 2 == 0 else buses[-1]
        if i % 2 == 0:
            buses.append(bus)
        x = PAD + (width - sum(one.width for one in row) - GAP * (len(row) - 1)) / 2
        for one in row:
            parts.append(el("g", one.svg, transform=f"translate({x:g} {y:g})"))
            drops.append((x + one.width / 2, y + one.height if i % 2 == 0 else y, bus))
            x += one.width + GAP
        y += tall + (BUS if i % 2 == 0 else GAP)
    bottom = y - GAP if len(rows) % 2 == 0 else y
    lines = _wires(joints, drops, buses, width) if len(drawn) > 1 else []
    frame = el(
        "rect", x=0.5, y=0.5, width=width + 2 * PAD - 1, height=bottom + PAD - 1, rx=10,
        class_="frame",
    )  # fmt: skip
    return Drawn(join(frame, *lines, *parts), width + 2 * PAD, bottom + PAD)


def _rows(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    rows: list[list[Drawn]] = [[]]
    for one in drawn:
        taken = sum(other.width + GAP for other in rows[-1])
        if rows[-1] and taken + one.width > WIDEST:
            rows.append([])
        rows[-1].append(one)
    return rows


def _wires(
    joints: Sequence[Joint],
    drops: Sequence[tuple[float, float, float]],
    buses: Sequence[float],
    width: float,
) -> list[Html]:
    """The wire as one line along each second row, with a drop to each child and its name on it."""
    if not joints:
        return [_label("no wire between them", PAD + width / 2, buses[0] + BUS / 4, "")]
    best = joints[0]
    style, thick = _wire_class(best), _thickness(best.bytes_per_s)
    shapes: list[Html] = []
    for bus in buses:
        ends = [x for x, _, at in drops if at == bus]
        shapes.append(el("line", x1=min(ends), x2=max(ends), y1=bus, y2=bus, stroke_width=thick))
    for x, y, bus in drops:
        shapes.append(el("line", x1=x, x2=x, y1=y, y2=bus, stroke_width=thick))
    if len(buses) > 1:
        left = PAD / 2
        shapes.append(el("line", x1=left, x2=left, y1=buses[0], y2=buses[-1], stroke_width=thick))
        shapes += [
            el("line", x1=left, x2=PAD + BOX / 2, y1=bus, y2=bus, stroke_width=thick)
            for bus in buses
        ]
    words = "; ".join(_joint(joint) for joint in joints)
    lines = el("g", *shapes, class_=f"wire {style}", data_tip=_tip(best))
    down = BUS / 2 - 1 if len({y for _, y, _ in drops}) == 1 else 0.0  # one row: under its line
    return [lines, *(_label(words, PAD + width / 2, bus + down, _tip(best)) for bus in buses)]


def _label(words: str, x: float, y: float, tip: str) -> Html:
    wide = 6.3 * len(words) + 14
    pill = el(
        "rect", x=x - wide / 2, y=y - 9, width=wide, height=18, rx=9, class_="pill"
    )  # fmt: skip
    text = el("text", words, x=x, y=y + 4, class_="wire-name")
    return el("g", pill, text, data_tip=tip or None)


def _device(scene: Scene, number: int) -> Drawn:
    """A box: the device's number and name, and its rank's place in the layout."""
    device, rank = scene.fabric.devices[number], scene.ranks.get(number)
    tip = f"device {number}: {device.name}, {show_bytes(device.memory_bytes)}, on {device.host}"
    name = el("text", f"{number}", x=8, y=16, class_="number")
    if rank is None:
        box = el("rect", width=BOX, height=HIGH, rx=7, class_="box idle")
        text = el("text", "unused", x=BOX / 2, y=HIGH / 2 + 10, class_="rank")
        return Drawn(el("g", box, name, text, data_tip=f"{tip}; unused"), BOX, HIGH)
    coord, layout = scene.layout.coord(rank), scene.layout
    stage = coord["pp"]
    degrees: tuple[tuple[Axis, int], ...] = (
        ("tp", layout.tp),
        ("pp", layout.pp),
        ("dp", layout.dp),
    )
    place = [f"{axis}{coord[axis]}" for axis, size in degrees if size > 1] or ["whole"]
    if layout.ep > 1:
        of_stage = coord["dp"] * layout.tp + coord["tp"]
        place.append(f"ep{of_stage // expert_tp(layout)}")
    box = el("rect", width=BOX, height=HIGH, rx=7, class_="box", style=_hue(scene, stage))
    lines = [" ".join(place[i : i + 2]) for i in range(0, len(place), 2)]
    text = join(
        *(
            el(
                "text",
                line,
                x=BOX / 2,
                y=HIGH / 2 + 13 + 16 * (i - (len(lines) - 1) / 2),
                class_="rank",
            )
            for i, line in enumerate(lines)
        )
    )
    right = el("text", f"rank {rank}", x=BOX - 8, y=16, class_="of")
    tip += f"; rank {rank}: {', '.join(place)}"
    mark = Html()
    if number == scene.fullest and len(scene.ranks) > 1:
        mark = el("path", d=f"M{BOX - 14} {HIGH} h14 v-14 z", class_="fullest")
        tip += "; the fullest memory"
    inside = (box, name, right, text, mark)
    return Drawn(el("g", *inside, data_tip=tip, data_rank=rank, data_device=number), BOX, HIGH)


def _hue(scene: Scene, stage: int) -> str:
    """Stages run once round the colours, from blue."""
    return f"--h:{(212 + 360 * stage / max(scene.layout.pp, 1)) % 360:.0f}"


def _wire_class(joint: Joint) -> str:
    family = next((name for start, name in FAMILIES if joint.kind.startswith(start)), "other")
    if is_network(joint.kind):
        family = "network"
    return f"w-{family}" + (" bounced" if joint.kind.endswith("-nop2p") else "")


def _thickness(bytes_per_s: float) -> float:
    """Two pixels a decade above 100 MB/s."""
    return max(1.0, 2.2 * math.log10(bytes_per_s / 1e8))


def _joint(joint: Joint) -> str:
    return f"{wire_name(joint.kind)} {show_rate(joint.bytes_per_s)}"


def _tip(joint: Joint) -> str:
    return f"{_joint(joint)}, {show_seconds(joint.latency_s)} to start; {joint.source}"
