"""What the words of a typed fabric mean as links; rates and latencies are `physics.pair_wire`'s.

    shape = Shape(nodes=1, gpus=4, spec=find_device("A100-SXM-40GB"), wire="nvlink-mesh")
    links_in_nodes(shape)              # 6 links of 4 x 25 GB/s

Inside a node, with L the links of a device and R what they carry together:

| word | pairs | raw rate of a pair |
|---|---|---|
| nvswitch | all | R |
| nvlink-mesh | all | R (L // peers) / L; a board has 4 devices: 2 of them are part of it |
| nvlink-cube | DGX-1's, below | R n / L, n of 1 to L links |
| nvlink-pairs | (0, 1), (2, 3), ... | R; other pairs go over the device's slot |
| xgmi | all | R / L, one link to each of L peers |
| pcie* | all | the slot, through the PCIe of the node, which all pairs share |

The hybrid cube mesh has two quads, each fully linked, and joins each device with its twin in the
other quad; what has no link goes over PCIe. With 6 links the doubled ones are those of a DGX-1 with
V100 (NVIDIA, "DGX-1 With Tesla V100 System Architecture", 2017); else each of the 4 neighbours has
L // 4. Fewer than 8 devices are the first ones of such a box.

Between nodes a trunk joins every pair. A device has K // GPUS rails to itself, or shares one with
its neighbours where there are fewer rails than devices; never more than its slot carries.
"""

from collections.abc import Sequence
from itertools import combinations

from wirecut.fabric.catalogue import NVLINK_WORDS, DeviceSpec
from wirecut.fabric.link import Link, Source, Trunk
from wirecut.fabric.physics import PCIE, pair_wire
from wirecut.fabric.wires import WIRES, words_for
from wirecut.facts import fact

PCIE_WORDS = tuple(kind for kind in WIRES if kind.startswith("pcie"))
INTRA_WORDS = (*NVLINK_WORDS, "xgmi", *PCIE_WORDS)
MESH_BOARD = 4
CUBE = 8
CUBE_TWIN = 4
# Pairs that two of a V100's six links join; other neighbours have one.
CUBE_DOUBLED = {(0, 3), (1, 2), (2, 3), (0, 4), (1, 5), (4, 7), (5, 6), (6, 7)}


@fact
class Shape:
    """`nodes` times `gpus` devices, joined by `wire` (one of INTRA_WORDS) inside a node."""

    nodes: int
    gpus: int
    spec: DeviceSpec
    wire: str


@fact
class Network:
    """`rails` ports of `gbits` Gbit/s on each node. `kind` "nvswitch": the nodes' NVSwitches are
    one. `given`: somebody said so; else it is assumed.
    """

    kind: str
    gbits: float
    rails: int
    given: bool = True


def why_not(wire: str, spec: DeviceSpec, gpus: int) -> str:
    """Why `wire` cannot join `gpus` such devices, empty when it can."""
    if wire in PCIE_WORDS:
        return ""
    vendor, name = ("AMD", "XGMI") if wire == "xgmi" else ("NVIDIA", "NVLink")
    usual = spec.pcie if spec.p2p else f"{spec.pcie}-nop2p"
    if spec.vendor != vendor or not spec.num_links:
        return f"{spec.name} has no {name}: try {usual}"
    if spec.bridge and wire in ("nvswitch", "nvlink-cube"):
        return f"{spec.name} is joined by bridges, not on a board: try nvlink-pairs or {usual}"
    if wire == "nvlink-pairs":
        return f"{gpus} devices make no pairs" if gpus % 2 else ""
    most = {
        "nvlink-mesh": spec.bridge or spec.num_links + 1,
        "xgmi": spec.num_links + 1,
        "nvlink-cube": CUBE if spec.num_links >= CUBE_TWIN else 0,
    }.get(wire, gpus)
    return "" if gpus <= most else f"{wire} joins at most {most} of {spec.name}, not {gpus}"


def links_in_nodes(shape: Shape) -> tuple[Link, ...]:
    """Every pair of devices of a node, node after node."""
    source: Source = "datasheet" if shape.spec.vendor else "assumed"
    pairs = [
        (a, b, _num_links(shape.wire, shape.spec, shape.gpus, a, b))
        for a, b in combinations(range(shape.gpus), 2)
    ]
    wires = {num: _wire(shape, num) for num in {num for _, _, num in pairs}}
    links: list[Link] = []
    for node in range(shape.nodes):
        base, complex_ = node * shape.gpus, f"pcie of node{node}"
        for a, b, num in pairs:
            kind, latency_s, bytes_per_s, path = wires[num]
            shares = "" if num else complex_
            links.append(
                Link(base + a, base + b, kind, latency_s, bytes_per_s, source, 0.0, path, shares)
            )
    return tuple(links)


def _wire(shape: Shape, num: int) -> tuple[str, float, float, str]:
    """(kind, latency, bytes/s, path) of a pair that `num` of a device's links join; 0: by PCIe."""
    spec, wire = shape.spec, shape.wire
    if num == 0:
        slot = spec.pcie if spec.p2p else f"{spec.pcie}-nop2p"
        kind = wire if wire in PCIE_WORDS else slot
        return kind, *pair_wire(kind), words_for(kind)
    kind = wire if wire in ("nvswitch", "xgmi") else "nvlink"
    path = f"{num} x {'XGMI' if kind == 'xgmi' else 'NVLink'}"
    return kind, *pair_wire(kind, spec.link_bytes_per_s * num / spec.num_links), path


def _num_links(wire: str, spec: DeviceSpec, gpus: int, a: int, b: int) -> int:
    """How many of a device's links join a and b of a node, a < b; 0: they go by PCIe."""
    if wire in PCIE_WORDS:
        return 0
    if wire == "nvswitch":
        return spec.num_links
    if wire == "nvlink-mesh":
        return spec.num_links // max(gpus - 1, (spec.bridge or MESH_BOARD) - 1)
    if wire == "nvlink-pairs":
        return spec.num_links if b == a + 1 and a % 2 == 0 else 0
    if wire == "xgmi":
        return 1
    neighbours = a // CUBE_TWIN == b // CUBE_TWIN or b - a == CUBE_TWIN
    if spec.num_links == 6:
        return neighbours * (2 if (a, b) in CUBE_DOUBLED else 1)
    return neighbours * (spec.num_links // CUBE_TWIN)


def trunk_between_nodes(shape: Shape, network: Network | None) -> Trunk | None:
    """What joins any two devices of different nodes."""
    if network is None:
        return None
    spec, gpus = shape.spec, shape.gpus
    slot = shape.wire.partition("-")[0] if shape.wire in PCIE_WORDS else spec.pcie
    own = max(1, network.rails // gpus)  # rails that one device has
    if network.kind == "nvswitch":
        raw, paths = spec.link_bytes_per_s, [f"{spec.num_links} x NVLink, multi-node"] * gpus
    else:
        raw = min(own * network.gbits * 1e9 / 8, PCIE[slot])
        rails = [
            index * own if network.rails >= gpus else index * network.rails // gpus
            for index in range(gpus)
        ]
        paths = [
            f"rail {rail}" if own == 1 else f"rails {rail} to {rail + own - 1}" for rail in rails
        ]
    source: Source = "datasheet" if network.given else "assumed"
    wire = pair_wire(network.kind, raw)
    return Trunk(network.kind, *wire, source, 0.0, tuple(paths), shared=network.rails > 0)


def every_pair(trunk: Trunk, hosts: Sequence[tuple[str, Sequence[int]]]) -> tuple[Link, ...]:
    """A trunk as a link for each pair of devices on different hosts."""
    return tuple(
        trunk.link(a, b, host, place)
        for i, (host, devices) in enumerate(hosts)
        for place, a in enumerate(devices)
        for _, others in hosts[i + 1 :]
        for b in others
    )
