"""What `nvidia-smi topo -m` prints, pasted or saved, as a topology.

    topology = parse_nvidia_topo(path.read_text())
    fabric = topology_to_fabric(topology, find_device("H100-SXM"))

The text may hold more: a shell prompt, `nvidia-smi -L` (then the GPUs are known by name, and MIG
instances seen), `nvidia-smi topo -p2p r` (then peer-to-peer is known, not taken from the driver's
usual ways).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from wirecut.errors import FabricError
from wirecut.fabric.host import Nic, number_list
from wirecut.fabric.topology import (
    PCIE_PATHS,
    Pair,
    TopoDevice,
    Topology,
    with_device_models,
)
from wirecut.facts import fact

MAX_NVLINKS = 36  # of one GPU: NVML_NVLINK_MAX_LINKS
MAX_COLUMNS = 512
CODES = ("X", "NV#", *PCIE_PATHS)
P2P_CODES = ("OK", "CNS", "GNS", "TNS", "NS", "DR", "U")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GPU = re.compile(r"GPU[0-9]{1,3}")
_NAME = re.compile(r"[A-Za-z][\w.:-]*[0-9][\w.:-]*")
_NV = re.compile(r"NV([0-9]{1,6})")


@fact
class _Matrix:
    """One printed matrix: its columns, and what each row says; `rest` follows a row's cells."""

    columns: tuple[str, ...]
    affinity: tuple[str, ...]
    cells: dict[tuple[str, str], str]
    rest: dict[str, tuple[str, ...]]

    @property
    def gpus(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if _GPU.fullmatch(name))


def looks_like_nvidia_topo(text: str) -> bool:
    """Whether there is the header of such a matrix in the text."""
    return any(_header(line) for line in _lines(text))


def parse_nvidia_topo(text: str) -> Topology:
    """The topology of one box. Raises FabricError for a text without a matrix, for a matrix that is
    not square or not symmetric, for unknown codes and for impossible ones; names the cell.
    """
    matrices = _matrices(_lines(text))
    paths = [m for m in matrices if not _is_p2p(m)]
    if not paths:
        raise FabricError(
            "no topology in this text: expected what `nvidia-smi topo -m` prints, a header "
            "GPU0 GPU1 ... and a row for each GPU"
        )
    if len(paths) > 1:
        raise FabricError(
            f"{len(paths)} topologies in one text: expected one; save each host's in its own file"
        )
    matrix = paths[0]
    _check(matrix)
    p2p = next((m for m in matrices if _is_p2p(m)), None)
    models, mig = _listed(text)
    gpus = matrix.gpus
    devices = tuple(
        replace(_device(matrix, name), mig=int(name[3:]) in mig, index=int(name[3:]))
        for name in gpus
    )
    topology = Topology(
        tool="nvidia-smi topo -m",
        devices=devices,
        pairs=tuple(
            _pair(matrix, p2p, i, j) for i in range(len(gpus)) for j in range(i + 1, len(gpus))
        ),
        nics=_nics(matrix, text),
    )
    known = [models.get(int(name[3:]), "") for name in gpus]
    return with_device_models(topology, known) if all(known) else topology


def _lines(text: str) -> list[str]:
    return _ANSI.sub("", text).replace("\r", "").split("\n")


def _header(line: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(columns, affinity columns) when this line is a header: names alone, the first a GPU's."""
    # Tools that align the columns anew are known to join two names: NIC11NIC12.
    words = re.sub(r"(?<=[0-9])(?=(?:GPU|NIC)[0-9])", " ", line).split()
    if not words or not _GPU.fullmatch(words[0]):
        return None
    columns: list[str] = []
    for word in words:
        if not _NAME.fullmatch(word) or _code(word):
            break
        columns.append(word)
    tail = " ".join(words[len(columns) :])
    affinity = re.findall(r"CPU Affinity|NUMA Affinity|GPU NUMA ID", tail)
    if re.sub(r"CPU Affinity|NUMA Affinity|GPU NUMA ID", "", tail).strip():
        return None  # a row of the matrix, or a sentence
    return tuple(columns), tuple(affinity)


def _code(word: str) -> bool:
    return word in PCIE_PATHS or word == "X" or bool(_NV.fullmatch(word))


def _matrices(lines: Sequence[str]) -> list[_Matrix]:
    found: list[_Matrix] = []
    for line in lines:
        header = _header(line)
        words = line.split()
        if header:
            columns, affinity = header
            if len(columns) > MAX_COLUMNS:
                raise FabricError(f"{len(columns)} columns: expected at most {MAX_COLUMNS}")
            for name in columns:
                if columns.count(name) > 1:
                    raise FabricError(f"{name} stands twice in the header: expected each once")
            found.append(_Matrix(columns, affinity, {}, {}))
        elif found and len(words) > 1 and words[0] in found[-1].columns:
            if words[0] not in found[-1].rest or _code(words[1]):
                _read_row(found[-1], words)
        elif found and words and _GPU.fullmatch(words[0]) and len(words) > 1 and _code(words[1]):
            raise FabricError(
                f"a row for {words[0]}, but no column: the matrix is not square. "
                "Was a part of the text cut off?"
            )
    return [matrix for matrix in found if matrix.rest]


def _read_row(matrix: _Matrix, words: Sequence[str]) -> None:
    name = words[0]
    if name in matrix.rest:
        raise FabricError(f"{name} has two rows: expected one")
    cells = words[1 : 1 + len(matrix.columns)]
    if len(cells) < len(matrix.columns):
        raise FabricError(
            f"row {name} has {len(cells)} cells for {len(matrix.columns)} columns: the matrix is "
            "not square. Was a part of the text cut off?"
        )
    matrix.cells.update(
        {(name, column): c for column, c in zip(matrix.columns, cells, strict=True)}
    )
    matrix.rest[name] = tuple(words[1 + len(matrix.columns) :])


def _is_p2p(matrix: _Matrix) -> bool:
    codes = {cell for (row, column), cell in matrix.cells.items() if row != column}
    return bool(codes) and codes <= set(P2P_CODES)


def _check(matrix: _Matrix) -> None:
    """Every GPU has a row, every cell a known code, and (a, b) says what (b, a) does."""
    for name in matrix.gpus:
        if name not in matrix.rest:
            raise FabricError(
                f"no row for {name}: the matrix is not square. Was a part of the text cut off?"
            )
    for (row, column), code in matrix.cells.items():
        _check_code(row, column, code)
        other = matrix.cells.get((column, row), code)
        if other != code:
            raise FabricError(
                f"({row}, {column}) is {code}, but ({column}, {row}) is {other}: the matrix is not "
                "symmetric. Was the text changed?"
            )


def _check_code(row: str, column: str, code: str) -> None:
    if (code == "X") != (row == column):
        raise FabricError(
            f"({row}, {column}) is {code}: expected X where row and column are the same, and only "
            "there"
        )
    if not _code(code):
        raise FabricError(f"({row}, {column}) is {code!r}: expected one of {', '.join(CODES)}")
    nv = _NV.fullmatch(code)
    if nv and not 1 <= int(nv[1]) <= MAX_NVLINKS:
        raise FabricError(
            f"({row}, {column}) is {code}: a GPU has 1 to {MAX_NVLINKS} NVLinks, not {nv[1]}"
        )


def _device(matrix: _Matrix, name: str) -> TopoDevice:
    said = dict(zip(matrix.affinity, matrix.rest[name], strict=False))
    nodes = number_list(said.get("NUMA Affinity", ""))  # on Grace, memory-only nodes follow
    return TopoDevice(
        name=name,
        cpus=number_list(said.get("CPU Affinity", "")),
        numa=nodes[0] if nodes else None,
    )


def _pair(matrix: _Matrix, p2p: _Matrix | None, i: int, j: int) -> Pair:
    a, b = matrix.gpus[i], matrix.gpus[j]
    code = matrix.cells[a, b]
    nv = _NV.fullmatch(code)
    if nv:
        return Pair(i, j, code, "nvlink", num_links=int(nv[1]))
    said = p2p.cells.get((a, b)) if p2p else None
    return Pair(i, j, code, "pcie", crosses=code, p2p=None if said is None else said == "OK")


def _nics(matrix: _Matrix, text: str) -> tuple[Nic, ...]:
    """Cards, by the names of the legend. Their speeds and whether they are up are not told."""
    order = list(PCIE_PATHS)
    legend: dict[str, str] = dict(re.findall(r"^\s*(NIC[0-9]+):\s*(\S+)\s*$", text, re.M))
    names = [name for name in matrix.columns if name not in matrix.gpus]

    def distance(gpu: str, nic: str) -> int:
        code = matrix.cells[gpu, nic]
        return order.index(code) if code in order else 0

    nearest = {gpu: min((distance(gpu, n) for n in names), default=0) for gpu in matrix.gpus}
    return tuple(
        Nic(
            name=legend.get(name, name),
            kind="rdma",
            bytes_per_s=None,
            up=True,
            near=tuple(
                i for i, gpu in enumerate(matrix.gpus) if distance(gpu, name) == nearest[gpu]
            ),
        )
        for name in names
    )


def _listed(text: str) -> tuple[dict[int, str], set[int]]:
    """Product names by GPU number, and GPUs that have MIG instances, from `nvidia-smi -L`."""
    models: dict[int, str] = {}
    mig: set[int] = set()
    last: int | None = None
    for line in _lines(text):
        gpu = re.match(r"\s*GPU ([0-9]{1,3}): (.{1,80}?) \(UUID: GPU-", line)
        if gpu:
            last = int(gpu[1])
            models[last] = gpu[2].strip()
        elif last is not None and re.match(r"\s*MIG \S+\s+Device\s+[0-9]+:", line):
            mig.add(last)
    return models, mig
