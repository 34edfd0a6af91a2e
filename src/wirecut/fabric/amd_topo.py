"""What AMD's tools say of a box, as a topology: `amd-smi topology` (tables or `--json`) and
`rocm-smi --showtopo`.

    topology = parse_amd_topo(path.read_text())
    fabric = topology_to_fabric(topology, find_device("MI300X"))

`rocm-smi --showproductname` or `amd-smi static --asic` in the same text tell the product.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wirecut.errors import FabricError
from wirecut.fabric.topology import Pair, TopoDevice, Topology, with_device_models

MAX_DEVICES = 512
LINK_TYPES = ("XGMI", "PCIE")
MAX_XGMI_LINKS = 8  # of one device: CDNA 3 has 7
XGMI_WEIGHT = 15  # of one hop, in the kernel's KFD; two hops weigh 30
# amd-smi's "hops" of PCIe: 2 when both hang on one NUMA node, 3 over the link between sockets.
PCIE_CODES = {1: "PIX", 2: "PHB", 3: "SYS"}
_TABLES = {
    "access": r"ACCESS TABLE:",
    "weight": r"WEIGHT TABLE:|=+ Weight between two GPUs =+",
    "hops": r"HOPS TABLE:|=+ Hops between two GPUs =+",
    "type": r"LINK TYPE TABLE:|=+ Link Type between two GPUs =+",
    "bandwidth": r"NUMA BW TABLE:|=+ (?:Bandwidth|Min/Max bandwidth) between two GPUs =+",
    "other": r"[A-Z][A-Z -]* TABLE:|Legend:|=+ .* =+",
}
_TITLES = {name: re.compile(rf"\s*(?:{pattern})\s*") for name, pattern in _TABLES.items()}
_DEVICE = re.compile(r"GPU[0-9]{1,3}|[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")

_Cells = dict[tuple[str, str], str]


@dataclass(slots=True)
class _Tables:
    """Tables by name; each is the cell of (row, column)."""

    names: list[str] = field(default_factory=list[str])
    cells: dict[str, _Cells] = field(default_factory=dict[str, _Cells])


def looks_like_amd_topo(text: str) -> bool:
    """Whether the text has a table of link types, or is `amd-smi topology --json`."""
    return any(_TITLES["type"].fullmatch(line) for line in text.splitlines()) or (
        text.lstrip().startswith("[") and '"link_type"' in text
    )


def parse_amd_topo(text: str) -> Topology:
    """The topology of one box. Raises FabricError for a text without a link type table, for a table
    that is not square or not symmetric, and for unknown link types; names the cell.
    """
    as_json = text.lstrip().startswith("[") and '"link_type"' in text
    tables = _read_json(text) if as_json else _read_tables(text)
    if not tables.cells.get("type"):
        raise FabricError(
            "no topology in this text: expected what `amd-smi topology` or `rocm-smi --showtopo` "
            "prints, with its table of link types"
        )
    for name in tables.names:
        for other in tables.names:
            _check_cell(tables.cells["type"], name, other)
    numa = {int(a): int(n) for a, n in re.findall(_NUMA, text)}
    names = tables.names
    topology = Topology(
        tool="amd-smi topology" if as_json or "ACCESS TABLE" in text else "rocm-smi --showtopo",
        devices=tuple(TopoDevice(n, numa=numa.get(i), index=i) for i, n in enumerate(names)),
        pairs=tuple(
            _pair(tables, i, j) for i in range(len(names)) for j in range(i + 1, len(names))
        ),
    )
    return with_device_models(topology, _models(text))


_NUMA = r"GPU ?\[?([0-9]{1,3})\]?\s*: \(Topology\) Numa Node: ([0-9]{1,4})(?![0-9])"


def _read_tables(text: str) -> _Tables:
    tables = _Tables()
    current = ""
    columns: list[str] = []
    for line in text.splitlines():
        title = next((name for name, t in _TITLES.items() if t.fullmatch(line)), "")
        words = line.split()
        if title:
            current, columns = title, []
        elif not current or current == "other" or not words:
            continue
        elif all(_DEVICE.fullmatch(word) for word in words):
            columns = _columns(tables, current, words)
        elif columns and _DEVICE.fullmatch(words[0]):
            _read_row(tables.cells.setdefault(current, {}), current, columns, words)
    return tables


def _columns(tables: _Tables, table: str, words: Sequence[str]) -> list[str]:
    if len(set(words)) < len(words):
        raise FabricError(f"the table of {table} names a device twice: expected each once")
    if len(words) > MAX_DEVICES:
        raise FabricError(f"{len(words)} devices: expected at most {MAX_DEVICES}")
    if table == "type":
        if tables.cells.get("type"):
            raise FabricError("two tables of link types: expected one; save each host's in a file")
        tables.names = list(words)
    return list(words)


def _read_row(cells: _Cells, table: str, columns: Sequence[str], words: Sequence[str]) -> None:
    row, values = words[0], words[1:]
    if row not in columns or len(values) != len(columns):
        raise FabricError(
            f"table of {table}: row {row} has {len(values)} cells for {len(columns)} columns: "
            "it is not square. Was a part of the text cut off?"
        )
    if (row, columns[0]) in cells:
        raise FabricError(f"table of {table}: {row} has two rows, expected one")
    cells.update({(row, column): v for column, v in zip(columns, values, strict=True)})


def _check_cell(types: _Cells, row: str, column: str) -> None:
    value = types.get((row, column))
    if value is None:
        raise FabricError(f"link types: no cell ({row}, {column}): the table is not square")
    if row == column:
        if value not in ("SELF", "0", "N/A"):
            raise FabricError(f"link types: ({row}, {row}) is {value!r}, expected SELF or 0")
    elif value not in LINK_TYPES:
        raise FabricError(
            f"link types: ({row}, {column}) is {value!r}, expected one of {', '.join(LINK_TYPES)}"
        )
    elif types.get((column, row), value) != value:
        raise FabricError(
            f"link types: ({row}, {column}) is {value}, but ({column}, {row}) is "
            f"{types[column, row]}: the table is not symmetric. Was the text changed?"
        )


def _pair(tables: _Tables, i: int, j: int) -> Pair:
    a, b = tables.names[i], tables.names[j]

    def cell(table: str, default: str = "") -> str:
        return tables.cells.get(table, {}).get((a, b), default)

    hops = _small_int(cell("hops"), 1)
    if cell("type") == "XGMI":
        # The tools say 1 hop for every XGMI path; the weight counts them.
        over = max(1, _small_int(cell("weight"), XGMI_WEIGHT) // XGMI_WEIGHT)
        links = _links(cell("bandwidth"))
        path = "XGMI" if over == 1 else f"XGMI x{over} hops"
        return Pair(i, j, path, "xgmi", num_links=links, hops=min(over, 8))
    crosses = PCIE_CODES.get(hops, "SYS")
    p2p = {"ENABLED": True, "DISABLED": False}.get(cell("access"))
    return Pair(i, j, f"PCIE {hops} hops", "pcie", crosses=crosses, p2p=p2p)


def _links(bandwidth: str) -> int:
    """XGMI links of a pair from "minimum-maximum" MB/s: the minimum is one link's. 0: not told."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})", bandwidth)
    links = int(match[2]) // int(match[1]) if match else 0
    return links if links <= MAX_XGMI_LINKS else 0


def _small_int(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else default


class _JsonLink(msgspec.Struct):
    gpu: int
    link_type: str
    weight: int | str = ""
    link_status: str = "ENABLED"
    num_hops: int | str = ""
    bandwidth: str = "N/A"


class _JsonGpu(msgspec.Struct):
    gpu: int
    links: list[_JsonLink]


def _read_json(text: str) -> _Tables:
    try:
        gpus = msgspec.json.decode(text, type=list[_JsonGpu])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FabricError(
            f"not what `amd-smi topology --json` prints: {error}. Save its whole output"
        ) from error
    if len(gpus) > MAX_DEVICES:
        raise FabricError(f"{len(gpus)} devices: expected at most {MAX_DEVICES}")
    columns: dict[str, Callable[[_JsonLink], Any]] = {
        "access": lambda link: link.link_status,
        "weight": lambda link: link.weight,
        "hops": lambda link: link.num_hops,
        "type": lambda link: link.link_type,
        "bandwidth": lambda link: link.bandwidth,
    }
    names = [f"GPU{gpu.gpu}" for gpu in gpus]
    if len(set(names)) < len(names):
        raise FabricError("a GPU stands twice in this text: expected each once")
    return _Tables(
        names,
        {
            table: {
                (name, f"GPU{link.gpu}"): str(value(link))
                for name, gpu in zip(names, gpus, strict=True)
                for link in gpu.links
            }
            for table, value in columns.items()
        },
    )


def _models(text: str) -> list[str]:
    """Products in the order of the devices, where the text tells them."""
    found = re.findall(
        r"^(?:GPU\[[0-9]{1,3}\]\s*: Card [Ss]eries:|\s*MARKET_NAME:)\s*(\S.{0,80}?)\s*$", text, re.M
    )
    return [str(name) for name in found]
