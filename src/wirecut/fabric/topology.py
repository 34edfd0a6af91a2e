"""A box as a vendor's tool sees it: devices, the path of every pair, cards; and its fabric.

    topology = parse_nvidia_topo(text)
    fabric = topology_to_fabric(topology, find_device("H100-SXM"))

The parsers of every tool end here, so that what a path costs is said once. Rates are the
datasheet's links times `physics`; what a longer PCIe path takes off is assumed until measured.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from wirecut.errors import FabricError
from wirecut.fabric.catalogue import BY_HAND, DeviceSpec, find_device
from wirecut.fabric.diagnose import mig_is_on
from wirecut.fabric.fabric import Device, Fabric, Link, Made
from wirecut.fabric.host import HostFacts, Nic
from wirecut.fabric.islands import find_islands
from wirecut.fabric.physics import ASSUMED_LAUNCH_S, pair_wire
from wirecut.fabric.wires import WIRES
from wirecut.facts import fact
from wirecut.version import __version__

NVLINK_BYTES_PER_S = 25e9  # one link in one direction, NVLink 2 to 4; for devices given by hand

SWITCHED_SHARE = 0.75  # of a device's NVLinks that every pair shows through a switch, some down


@fact
class PciePath:
    """What a PCIe path adds to a slot's latency, and the share of the slot's rate that is left."""

    latency_s: float
    share: float


# Codes of `nvidia-smi topo -m`, from near to far. Latencies and shares are assumed: about 0.2 us
# for a switch, 0.5 us for a root complex, 1 us for a socket link.
PCIE_PATHS = {
    "PIX": PciePath(0.0, 1.0),  # at most one bridge
    "PXB": PciePath(0.3e-6, 1.0),  # several bridges, no host bridge
    "PHB": PciePath(0.8e-6, 0.9),  # the CPU's host bridge
    "NODE": PciePath(1.2e-6, 0.8),  # host bridges of one NUMA node
    "SYS": PciePath(2.0e-6, 0.7),  # the link between sockets
}
# What a socket link passes on of PCIe in one direction: what NCCL's topology search takes for
# Skylake, Zen and Sapphire Rapids (10, 16 and 22 GB/s).
SOCKET_BYTES_PER_S = {"pcie5": 22e9, "pcie4": 16e9}
SOCKET_BYTES_PER_S_OLDER = 10e9


@fact
class TopoDevice:
    """One device as its tool names it. `model` is its product name where the text has it.

    `pcie` is (generation, lanes) that its slot can train to. `mig`: cut into instances.
    """

    name: str
    model: str = ""
    cpus: tuple[int, ...] = ()
    numa: int | None = None
    pcie: tuple[int, int] | None = None
    mig: bool = False
    index: int | None = None


@fact
class Pair:
    """The path between devices `a` < `b`, in the tool's words.

    `wire` is "nvlink", "xgmi" or "pcie", over `num_links` links (0: as many as there are peers to
    share them among) and `hops` of them. `crosses` is the PCIe code nearest to what the tool says.
    `p2p` None: not told. `switched` None: not told.
    """

    a: int
    b: int
    path: str
    wire: str
    num_links: int = 0
    hops: int = 1
    crosses: str = "SYS"
    p2p: bool | None = None
    switched: bool | None = None


@fact
class Topology:
    """One box: devices, the path of every pair of them, and cards (`Nic.near` are places in
    `devices`). `tool` is what told it.
    """

    tool: str
    devices: tuple[TopoDevice, ...]
    pairs: tuple[Pair, ...]
    nics: tuple[Nic, ...] = ()
    notes: tuple[str, ...] = ()


def topology_to_fabric(
    topology: Topology,
    device: DeviceSpec | Sequence[DeviceSpec] | None = None,
    host: HostFacts | None = None,
    when: str = "",
) -> Fabric:
    """The fabric of one box of `device`s (one for each, or all alike; None: what the text says).

    `host` is what else is known of it. Raises FabricError when the device is not known, or has
    fewer links than the topology shows.
    """
    specs = _specs(topology, device)
    _check_links(topology, specs)
    facts = host or _host_of(topology)
    links = tuple(_link(topology, pair, specs) for pair in topology.pairs)
    mig = {i: box.name for i, box in enumerate(topology.devices) if box.mig}
    notes = ("paths through PCIe: latency and share of the slot's rate are assumed",)
    return Fabric(
        devices=tuple(
            device_from_spec(spec, i, facts.host, numa=box.numa, cpus=box.cpus, index=box.index)
            for i, (spec, box) in enumerate(zip(specs, topology.devices, strict=True))
        ),
        links=links,
        islands=find_islands(len(specs), links),
        made=Made(
            when,
            f"{topology.tool}, rates from the datasheet; `wirecut probe` there measures",
            __version__,
            topology.notes + (notes if any(link.kind.startswith("pcie") for link in links) else ()),
        ),
        machines=(facts,),
        findings=(mig_is_on(mig),) if mig else (),
    )


def device_from_spec(
    spec: DeviceSpec,
    number: int,
    host: str,
    *,
    numa: int | None = None,
    cpus: tuple[int, ...] = (),
    index: int | None = None,
) -> Device:
    """A device of the fabric with its datasheet's rates."""
    return Device(
        id=number,
        host=host,
        kind="gpu",
        name=spec.name,
        memory_bytes=spec.memory_bytes,
        bytes_per_s=spec.bytes_per_s,
        flops_per_s=dict(spec.flops_per_s),
        launch_s=ASSUMED_LAUNCH_S,
        source="assumed" if spec.source == BY_HAND else "datasheet",
        cpus=cpus,
        index=number if index is None else index,
        numa=numa,
    )


def _specs(
    topology: Topology, device: DeviceSpec | Sequence[DeviceSpec] | None
) -> list[DeviceSpec]:
    count = len(topology.devices)
    if isinstance(device, DeviceSpec):
        return [device] * count
    if device is not None:
        if len(device) != count:
            raise FabricError(f"{len(device)} kinds of device for {count} devices: give one each")
        return list(device)
    unnamed = [box.name for box in topology.devices if not box.model]
    if unnamed:
        raise FabricError(
            f"{topology.tool} does not say what {unnamed[0]} is: name it with --device, e.g. "
            + ("--device H100-SXM" if "nvidia" in topology.tool else "--device MI300X")
        )
    return [find_device(box.model) for box in topology.devices]


def _host_of(topology: Topology) -> HostFacts:
    cores = sorted({core for device in topology.devices for core in device.cpus})
    nodes: dict[int, set[int]] = defaultdict(set)
    for device in topology.devices:
        if device.numa is not None:
            nodes[device.numa].update(device.cpus)
    numa = tuple(tuple(sorted(nodes[i])) for i in range(max(nodes, default=-1) + 1))
    return HostFacts("host0", "", tuple(cores), 0, numa, nics=topology.nics)


def _link(topology: Topology, pair: Pair, specs: Sequence[DeviceSpec]) -> Link:
    if pair.wire == "pcie":
        return _pcie_link(topology, pair, specs)
    spec = min(specs[pair.a], specs[pair.b], key=lambda s: s.num_links)
    a, b = topology.devices[pair.a].name, topology.devices[pair.b].name
    count = pair.num_links or _links_per_peer(topology, pair, spec)
    if spec.num_links:
        each = spec.link_bytes_per_s / spec.num_links
    elif spec.source != BY_HAND:
        raise FabricError(
            f"{a}-{b} is {pair.path}, but {spec.name} has no such links: "
            "name the device that is in this box with --device"
        )
    else:
        each = NVLINK_BYTES_PER_S
    if spec.num_links and count > spec.num_links:
        raise FabricError(
            f"{a}-{b} is {pair.path}: {count} links, but {spec.name} has {spec.num_links}: "
            "name the device that is in this box with --device"
        )
    kind = pair.wire
    if kind == "nvlink" and _is_switched(topology, pair, spec):
        kind = "nvswitch"
    latency_s, bytes_per_s = pair_wire(kind, each * count)
    return Link(pair.a, pair.b, kind, latency_s * pair.hops, bytes_per_s, "datasheet", 0, pair.path)


def _check_links(topology: Topology, specs: Sequence[DeviceSpec]) -> None:
    """Raise FabricError when devices show more NVLinks than they have, and no switch explains it:
    through a switch each pair shows all of them, or all but a few that are down.
    """
    for i, spec in enumerate(specs):
        counts = [p.num_links for p in topology.pairs if p.wire == "nvlink" and i in (p.a, p.b)]
        switched = max(counts, default=0) >= SWITCHED_SHARE * spec.num_links
        if counts and sum(counts) > spec.num_links and not switched:
            raise FabricError(
                f"GPU{topology.devices[i].index or i} shows {sum(counts)} NVLinks "
                f"({' + '.join(map(str, counts))}), {spec.name} has {spec.num_links}: is --device "
                "right?"
            )


def _links_per_peer(topology: Topology, pair: Pair, spec: DeviceSpec) -> int:
    """A device's links dealt evenly to the peers that it reaches without a PCIe path."""
    peers = sum(
        1 for other in topology.pairs if other.wire == pair.wire and pair.a in (other.a, other.b)
    )
    return max(1, spec.num_links // peers)


def _is_switched(topology: Topology, pair: Pair, spec: DeviceSpec) -> bool:
    """NVLinks that add up to more than a device has go through a switch. Two devices joined by all
    their links say nothing: there the device's usual wire decides.
    """
    if pair.switched is not None or not spec.num_links:
        return bool(pair.switched)
    total = sum(p.num_links for p in topology.pairs if p.wire == "nvlink" and pair.a in (p.a, p.b))
    return total > spec.num_links or (
        pair.num_links == spec.num_links and spec.usual_wire == "nvswitch"
    )


def _pcie_link(topology: Topology, pair: Pair, specs: Sequence[DeviceSpec]) -> Link:
    ends = [(topology.devices[i], specs[i]) for i in (pair.a, pair.b)]
    slots = [_slot(device, spec) for device, spec in ends]
    slot, lanes_share = min(slots, key=lambda s: pair_wire(s[0])[1] * s[1])
    p2p = all(spec.p2p for _, spec in ends) if pair.p2p is None else pair.p2p
    p2p = p2p and not any(device.mig for device, _ in ends)
    kind = slot if p2p else f"{slot}-nop2p"
    # A copy through host memory crosses the host bridge anyway.
    path = PCIE_PATHS[pair.crosses if p2p or pair.crosses == "SYS" else "PIX"]
    latency_s, bytes_per_s = pair_wire(kind)
    bytes_per_s *= lanes_share * path.share
    if pair.crosses == "SYS":
        bytes_per_s = min(bytes_per_s, SOCKET_BYTES_PER_S.get(slot, SOCKET_BYTES_PER_S_OLDER))
    return Link(
        pair.a,
        pair.b,
        kind,
        latency_s + path.latency_s,
        bytes_per_s,
        "assumed",
        0,
        pair.path,
        _shared(pair, ends[0][0].numa, p2p),
    )


def _slot(device: TopoDevice, spec: DeviceSpec) -> tuple[str, float]:
    """The slot's kind of wire, and the share of its 16 lanes that are there."""
    slot = spec.pcie if spec.pcie in WIRES else "pcie4"
    if device.pcie is None:
        return slot, 1.0
    generation, lanes = device.pcie
    return f"pcie{max(2, min(generation, 5))}", min(lanes, 16) / 16


def _shared(pair: Pair, numa: int | None, p2p: bool) -> str:
    """What this path shares with others: below a switch each device has its own lanes."""
    if pair.crosses == "SYS":
        return "socket link"
    if p2p and pair.crosses in ("PIX", "PXB"):
        return ""
    where = "" if numa is None else f" of NUMA node {numa}"
    return f"host bridge{where}" if p2p else f"host memory{where}"


def with_device_models(topology: Topology, models: Sequence[str]) -> Topology:
    """The topology with its devices' product names, when there is one for each; else as it is."""
    if len(models) != len(topology.devices):
        return topology
    devices = (replace(d, model=m) for d, m in zip(topology.devices, models, strict=True))
    return replace(topology, devices=tuple(devices))
