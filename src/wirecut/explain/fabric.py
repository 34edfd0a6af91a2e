"""A fabric in words: who is there, which devices are near which, what groups of them take to sum,
and what each computes. Beyond ratios of what the fabric holds, it computes nothing.

    show(page(load_fabric(Path("fabric.json"))))
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from wirecut.explain.matrix import Nest, WireClass, islands_in_words, matrix, span, wire_classes
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.explain.words import listed, wire_name
from wirecut.fabric.fabric import Curve, Device, Fabric
from wirecut.fabric.host import Nic
from wirecut.units import KIB, MIB, show_bytes, show_flops, show_rate, show_seconds

SHOWN_SIZES = (8 * KIB, 256 * KIB, 8 * MIB, 64 * MIB)
SHOWN_HOSTS = 6
SHOWN_DEVICES = 8  # more than so many that compute alike are one row
SHOWN_NUMBERS = 16  # characters of device numbers in a narrow column
DTYPES = ("fp4", "fp8", "bf16", "fp16", "fp32")
SYMBOLS = {"wrong": "x", "slow": "!", "note": "-"}


def page(fabric: Fabric) -> list[Block]:
    """What `wirecut probe` prints: what is wrong first, then who is there, wires, groups, rates."""
    nest = Nest(fabric)
    classes = wire_classes(fabric, nest)
    return [
        *_findings(fabric),
        *_who(fabric),
        *_matrix(fabric, nest, classes),
        *_wires(nest, classes),
        *_groups(fabric, nest),
        *_rates(fabric.devices),
        *_notes(fabric),
    ]


def _findings(fabric: Fabric) -> list[Block]:
    order = list(SYMBOLS)
    found = sorted(fabric.findings, key=lambda one: order.index(one.severity))
    if not found:
        return []
    rows: list[tuple[str, ...]] = []
    for one in found:
        rows += [(SYMBOLS[one.severity], one.severity, one.what), ("", "", one.advice)]
    strong = frozenset(2 * i for i, one in enumerate(found) if one.severity == "wrong")
    plural = "s" if len(found) > 1 else ""
    return [Heading(f"{len(found)} finding{plural}"), Grid(("", "", ""), rows, strong)]


def _who(fabric: Fabric) -> list[Block]:
    """One heading; where hosts differ, a row for each kind of host too."""
    hosts: dict[tuple[str, ...], list[str]] = {}
    for host in fabric.hosts:
        counts = Counter(
            (one.name, one.kind, one.memory_bytes) for one in fabric.devices if one.host == host
        )
        words = (
            f"{count} x {name} ({kind}) of {show_bytes(memory)}"
            for (name, kind, memory), count in counts.items()
        )
        hosts.setdefault(tuple(words), []).append(host)
    if len(hosts) == 1:
        words, names = next(iter(hosts.items()))
        each = " on each of" if len(names) > 1 else " on"
        return [Heading(f"{listed(words)}{each} {_few(names)}")]
    total = f"{len(fabric.devices)} devices on {len(fabric.hosts)} hosts"
    rows = [(_few(names), listed(words)) for words, names in hosts.items()]
    return [Heading(total), Grid(("", ""), rows)]


def _few(names: Sequence[str]) -> str:
    if len(names) <= SHOWN_HOSTS:
        return listed(names)
    return f"{len(names)} hosts ({names[0]} to {names[-1]})"


def _matrix(fabric: Fabric, nest: Nest, classes: Sequence[WireClass]) -> list[Block]:
    blocks: list[Block] = []
    if lines := matrix(fabric, nest, classes):
        blocks += [
            Heading(
                "Bandwidth between two"
                + (" devices" if len(lines) > len(fabric.devices) else ", of islands the median")
            ),
            Paragraph("\n".join(lines)),
        ]
    if len(fabric.devices) > 2:
        blocks += [Heading("Islands"), Grid(("", "", ""), islands_in_words(nest, classes))]
    return blocks


def _wires(nest: Nest, classes: Sequence[WireClass]) -> list[Block]:
    if not classes:
        return [Paragraph("No wires: every device works alone.")] if nest.num_devices > 1 else []
    several = nest.num_devices > 2
    rows = [
        (
            *((one.symbol,) if several else ()),
            " ".join(dict.fromkeys(filter(None, (wire_name(one.kind), one.path)))),
            *((str(one.pairs),) if several else ()),
            show_seconds(one.latency_s),
            show_rate(one.bytes_per_s),
            _range([link.bytes_per_s for link in one.links], show_rate),
            one.links[0].source,
        )
        for one in classes
    ]
    columns = ("", "wire", ">pairs") if several else ("wire",)
    return [
        Heading("Wires between two devices"),
        Grid((*columns, ">latency", ">bandwidth", "from, to", "source"), rows),
    ]


def _range(values: Sequence[float], show: Callable[[float], str]) -> str:
    low, high = min(values), max(values)
    return f"{show(low)}, {show(high)}" if high > 1.05 * low else ""


def _groups(fabric: Fabric, nest: Nest) -> list[Block]:
    """All-reduce of every candidate group, and what several of them at once slow each other."""
    alike: dict[tuple[str, int, int, int], list[Curve]] = {}
    for curve in fabric.curves:
        if curve.op == "all_reduce":
            level = nest.level(curve.devices)
            key = (curve.wire, len(curve.devices), level, curve.at_once)
            alike.setdefault(key, []).append(curve)
    rows: list[tuple[str, ...]] = []
    wires = dict.fromkeys(key[0] for key in alike)
    for key in sorted(alike, key=lambda key: (list(wires).index(key[0]), *key[1:])):
        wire, size, level, at_once = key
        slowest = max(alike[key], key=lambda curve: curve.points[-1][1] / curve.points[-1][0])
        alone = alike.get((wire, size, level, 1))
        times = [_at(slowest, shown) for shown in SHOWN_SIZES]
        rows.append(
            (
                wire_name(wire),
                f"{at_once} x {size} at once" if at_once > 1 else str(size),
                _which(alike[key]),
                *times,
                _slower(slowest, alone) if at_once > 1 and alone else "",
            )
        )
    if not rows:
        return []
    columns = ("wire", "devices", "which", *(f">{show_bytes(size)}" for size in SHOWN_SIZES), "")
    return [Heading("All-reduce"), Grid(columns, rows)]


def _which(curves: Sequence[Curve]) -> str:
    groups = dict.fromkeys(span(curve.devices) for curve in curves)
    first = next(iter(groups))
    if len(groups) > 1:
        return f"slowest of {len(groups)}"
    return _short(first)


def _short(devices: str) -> str:
    return devices if len(devices) <= SHOWN_NUMBERS else f"{devices[: SHOWN_NUMBERS - 3]}..."


def _at(curve: Curve, size: int) -> str:
    return show_seconds(curve.seconds(size)) if size <= curve.points[-1][0] else "-"


def _slower(together: Curve, alone: Sequence[Curve]) -> str:
    """'1.9x slower than alone at 2.00 MiB'."""
    same = [one for one in alone if set(one.devices) == set(together.devices)]
    beside = (same or list(alone))[0]
    size = min(together.points[-1][0], beside.points[-1][0])
    times = together.seconds(size) / beside.seconds(size)
    if times < 1.05:
        return "as fast as alone"
    return f"{times:.1f}x as long as alone"


def _rates(devices: Sequence[Device]) -> list[Block]:
    """A row for each device; those with the same numbers share one, and where they are many, those
    of one name share their medians.
    """
    dtypes = [dtype for dtype in DTYPES if any(dtype in one.flops_per_s for one in devices)]
    if all(one.flops_per_s.get("fp16") == one.flops_per_s.get("bf16") for one in devices):
        dtypes = [dtype for dtype in dtypes if dtype != "fp16"]
    keys = max((p.keys for one in devices for p in one.attention if p.queries == 1), default=0)
    alike: dict[tuple[str, ...], list[Device]] = {}
    for device in devices:
        alike.setdefault((device.name, *_rate_row([device], dtypes, keys)), []).append(device)
    groups = list(alike.values())
    if len(groups) > SHOWN_DEVICES:
        names = dict.fromkeys(one.name for one in devices)
        groups = [[one for one in devices if one.name == name] for name in names]
    several = len({one.name for one in devices}) > 1
    rows = [
        (
            _short(span([one.id for one in group])),
            *((group[0].name,) if several else ()),
            *_rate_row(group, dtypes, keys),
        )
        for group in groups
    ]
    head = ("device", *(("name",) if several else ()), ">weights read")
    attention = (f">attention of {keys}",) if keys else ()
    columns = (*head, *(f">{dtype}" for dtype in dtypes), *attention, ">small operation")
    source = "" if devices[0].source == "measured" else f" ({devices[0].source})"
    heading = Heading(f"What each device computes, all of them busy{source}")
    return [heading, Grid(columns, rows)]


def _rate_row(group: Sequence[Device], dtypes: Sequence[str], keys: int) -> tuple[str, ...]:
    """Medians of some devices; `keys` of the attention shown, 0 for none."""
    flops = (
        [one.flops_per_s[dtype] for one in group if dtype in one.flops_per_s] for dtype in dtypes
    )
    seen = [p.seconds for one in group for p in one.attention if (p.queries, p.keys) == (1, keys)]
    return (
        show_rate(statistics.median(one.bytes_per_s for one in group)),
        *(_middle(rates, show_flops) for rates in flops),
        *((_middle(seen, show_seconds),) if keys else ()),
        show_seconds(statistics.median(one.launch_s for one in group)),
    )


def _middle(values: Sequence[float], show: Callable[[float], str]) -> str:
    return show(statistics.median(values)) if values else ""


def _notes(fabric: Fabric) -> list[Block]:
    """Network cards of each kind of host, then how the numbers came about."""
    cards: dict[str, list[str]] = {}
    for machine in fabric.machines:
        up = [_nic_in_words(nic) for nic in machine.nics if nic.up]
        if up:
            cards.setdefault(listed(up), []).append(machine.host)
    blocks: list[Block] = [Heading("Network cards")] if cards else []
    if cards:
        blocks.append(Grid(("", ""), [(_few(hosts), words) for words, hosts in cards.items()]))
    if fabric.made.notes:
        blocks += [Heading("Notes"), *(Paragraph(note) for note in fabric.made.notes)]
    return blocks


def _nic_in_words(nic: Nic) -> str:
    kind = {"infiniband": " InfiniBand", "roce": " RoCE"}.get(nic.kind, "")
    rate = "of unknown speed" if nic.bytes_per_s is None else f"{nic.bytes_per_s * 8e-9:g} Gbit/s"
    return f"{nic.name}{kind} {rate}"
