"""How devices lie in islands and hosts, as a tree, and which wire joins the children of a node.

    tree = host_tree(fabric, "node0")
    joined(fabric, tree)        # the wires between its children

Sorts what the fabric holds; every number is a link's own, or the median of links.
"""

import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations

from wirecut.errors import FabricError
from wirecut.fabric.fabric import Fabric, Link
from wirecut.facts import fact
from wirecut.layout.plan import Cut

MOST_ASKED = 8  # children of a node whose wires are looked at: the others are their like


@fact
class Node:
    """Devices that belong together; a node without children is one device. `name` is its host's,
    when it is one.
    """

    devices: tuple[int, ...]
    children: tuple["Node", ...] = ()
    name: str = ""


@fact
class Joint:
    """The wires of one kind between the children of a node: how fast in the median, how slow to
    start, and where the numbers come from.
    """

    kind: str
    bytes_per_s: float
    latency_s: float
    source: str


def host_tree(fabric: Fabric, host: str) -> Node:
    """One host's devices, in its islands."""
    mine = tuple(device.id for device in fabric.devices if device.host == host)
    inside = set(mine)
    islands = [one for one in fabric.islands if len(one) < len(mine) and inside.issuperset(one)]
    return Node(mine, _nested([Node((one,)) for one in mine], islands), host)


def hosts_tree(fabric: Fabric, hosts: Sequence[str]) -> Node:
    """Those hosts, in the islands that hold several of them."""
    trees = [host_tree(fabric, host) for host in hosts]
    shown = {device for tree in trees for device in tree.devices}
    islands = [tuple(one for one in island if one in shown) for island in fabric.islands]
    least = min(len(tree.devices) for tree in trees)
    wide = [one for one in islands if least < len(one) < len(shown)]
    children = _nested(trees, wide)
    return children[0] if len(children) == 1 else Node(tuple(sorted(shown)), children)


def _nested(parts: Sequence[Node], islands: Iterable[Sequence[int]]) -> tuple[Node, ...]:
    """The parts, those of an island under one node, smallest islands first. An island that cuts
    through a part is left out.
    """
    nodes = list(parts)
    for island in sorted(islands, key=len):
        members = set(island)
        held = [node for node in nodes if members.issuperset(node.devices)]
        if len(held) < 2 or sum(len(node.devices) for node in held) < len(members):
            continue
        first = nodes.index(held[0])
        rest = [node for node in nodes if node not in held]
        both = Node(tuple(sorted(members)), tuple(held))
        nodes = [*rest[:first], both, *rest[first:]]
    return tuple(nodes)


def joined(fabric: Fabric, node: Node) -> list[Joint]:
    """The best wire between each two children, by kind, fastest first; none where none joins
    them.
    """
    kinds: dict[str, list[Link]] = {}
    for a, b in combinations(node.children[:MOST_ASKED], 2):
        if (link := _link(fabric, a.devices[0], b.devices[0])) is not None:
            kinds.setdefault(link.kind, []).append(link)
    found = [
        Joint(
            kind,
            statistics.median(link.bytes_per_s for link in links),
            statistics.median(link.latency_s for link in links),
            links[0].source,
        )
        for kind, links in kinds.items()
    ]
    return sorted(found, key=lambda joint: -joint.bytes_per_s)


def _link(fabric: Fabric, a: int, b: int) -> Link | None:
    try:
        return fabric.link(a, b)
    except FabricError:
        return None


def leaned_on(fabric: Fabric, cut: Cut) -> Link | None:
    """The wire that a cut leans on: of its first TP group, else from its first stage to the next;
    of a cut that needs none the fabric's first, None where there is none.
    """
    tp, pp = cut.layout.tp, cut.layout.pp
    if tp * pp == 1:
        return next(iter(fabric.sample_links), None)
    group = cut.placement[:tp] if tp > 1 else cut.placement[:2]
    return fabric.slowest_link(group)
