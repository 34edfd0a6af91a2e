"""The same devices on other wires: those that such devices are sold with.

    for where, word in other_wires(fabric):       # ("inside", "nvswitch"), ("between", "100gbe")
        rewired(fabric, where, word)

Only fabrics of one kind of known GPU, as many on each host, have any.
"""

from dataclasses import replace
from typing import Literal

from wirecut.errors import FabricError
from wirecut.fabric.catalogue import DeviceSpec, find_device
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.islands import find_islands
from wirecut.fabric.link import Link, Trunk
from wirecut.fabric.typed_links import Network, Shape, links_in_nodes, trunk_between_nodes, why_not

Where = Literal["inside", "between"]
# What nodes are usually joined by: a port as clouds give it, and a rail for each GPU.
NETWORKS = {
    "100gbe": Network("ethernet", 100.0, 1),
    "ib-400x8": Network("ib", 400.0, 8),
}
SAME = 1.3  # wires whose rates differ by less are no other wires


def other_wires(fabric: Fabric) -> list[tuple[Where, str]]:
    """What could join these devices instead: (where, word of `fabric.typed`)."""
    spec, gpus = _shape(fabric)
    if spec is None:
        return []
    found: list[tuple[Where, str]] = []
    if gpus > 1:
        slot = (spec.pcie, f"{spec.pcie}-nop2p") if spec.p2p else (f"{spec.pcie}-nop2p",)
        words = [
            word for word in ("nvswitch", "nvlink-pairs", *slot) if not why_not(word, spec, gpus)
        ]
        bridged = [word for word in words if word != "nvlink-pairs" or spec.bridge]
        for word in bridged:
            if _differs(fabric, spec, gpus, word):
                found.append(("inside", word))
    if len(fabric.hosts) > 1:
        now = _between(fabric)
        for word, network in NETWORKS.items():
            trunk = trunk_between_nodes(_named(fabric, spec, gpus), network)
            assert trunk is not None
            ratio = trunk.bytes_per_s / now.bytes_per_s if now else 0.0
            if not 1 / SAME < ratio < SAME:
                found.append(("between", word))
    return found


def rewired(fabric: Fabric, where: Where, word: str) -> Fabric:
    """The fabric with other wires inside its hosts or between them. Raises FabricError where
    `other_wires` does not name them.
    """
    spec, gpus = _shape(fabric)
    if spec is None:
        raise FabricError("no other wires are known for these devices")
    host = {device.id: device.host for device in fabric.devices}
    inside = tuple(k for k in fabric.links if host[k.a] == host[k.b])
    across, trunks = tuple(k for k in fabric.links if host[k.a] != host[k.b]), fabric.trunks
    if where == "inside":
        inside = links_in_nodes(_named(fabric, spec, gpus, word))
    else:
        trunk = trunk_between_nodes(_named(fabric, spec, gpus), NETWORKS[word])
        across, trunks = (), () if trunk is None else (trunk,)
    links = inside + across
    hosts = list(fabric.host_devices.values())
    islands = find_islands(len(fabric.devices), links, trunks=trunks, hosts=hosts)
    return replace(fabric, links=links, trunks=trunks, islands=islands, curves=())


def _shape(fabric: Fabric) -> tuple[DeviceSpec | None, int]:
    """What the devices are and how many each host has; None where that is not known or differs."""
    hosts = list(fabric.host_devices.values())
    gpus = len(hosts[0])
    in_order = all(ids == tuple(range(i * gpus, (i + 1) * gpus)) for i, ids in enumerate(hosts))
    names = {device.name for device in fabric.devices}
    if not in_order or len(names) > 1 or fabric.devices[0].kind != "gpu":
        return None, gpus
    try:
        spec = find_device(names.pop())
    except FabricError:
        return None, gpus
    return (spec if spec.vendor == "NVIDIA" else None), gpus


def _named(fabric: Fabric, spec: DeviceSpec | None, gpus: int, word: str = "") -> Shape:
    assert spec is not None
    return Shape(len(fabric.hosts), gpus, spec, word or spec.usual_wire)


def _differs(fabric: Fabric, spec: DeviceSpec, gpus: int, word: str) -> bool:
    """Whether wires of that word are of another kind, or join other devices, than those there."""
    there = {(k.a, k.b): _kind(k) for k in fabric.links if k.a < gpus and k.b < gpus}
    shape = replace(_named(fabric, spec, gpus, word), nodes=1)
    return there != {(k.a, k.b): _kind(k) for k in links_in_nodes(shape)}


def _kind(link: Link) -> str:
    return "nvlink" if link.kind in ("nvlink", "nvswitch") else link.kind


def _between(fabric: Fabric) -> Link | Trunk | None:
    if fabric.trunks:
        return max(fabric.trunks, key=lambda trunk: trunk.bytes_per_s)
    first, second = (fabric.host_devices[host] for host in fabric.hosts[:2])
    try:
        return fabric.link(first[0], second[0])
    except FabricError:
        return None
