"""What the wires of a group give each of its ranks: a lane inside its boxes and one between them.

    wiring = wiring_of(fabric, (0, 1, 2, 3))
    wiring.inside.bytes_per_s         # what one rank moves in one direction, all its wires together

A box is a set of ranks that reach each other without a network.
"""

from collections.abc import Sequence

from wirecut.fabric.fabric import Fabric, Link, Source
from wirecut.fabric.physics import ROOT_SHARE
from wirecut.fabric.wires import WIRES, is_network
from wirecut.facts import fact

MESHES = ("nvlink", "xgmi")  # a device's rate is shared out over its peers
UNDER_ONE_SWITCH = ("PIX", "PXB")


@fact
class Lane:
    """Latency of one message in s, and bytes/s in one direction: of one rank inside a box, of a
    whole box between boxes.

    `direct`: every rank reads every other's memory without a detour. `rails`: ways between boxes
    that share nothing.
    """

    kind: str
    latency_s: float
    bytes_per_s: float
    source: Source
    spread: float
    direct: bool = False
    rails: int = 1


@fact
class Wiring:
    """`boxes` of at most `box_ranks` ranks; `inside` None: every rank alone in its box; `across`
    None: all in one box. `memory_bytes_per_s` is that of the slowest device's memory.
    """

    ranks: int
    boxes: int
    box_ranks: int
    hosts: int
    memory_bytes_per_s: float
    inside: Lane | None
    across: Lane | None

    @property
    def slowest(self) -> Lane:
        """The lane that a large message waits for."""
        lane = self.across or self.inside
        assert lane is not None
        return lane


def wiring_of(fabric: Fabric, group: Sequence[int], *, at_once: int = 1) -> Wiring:
    """Lanes of a group of at least two devices, when `at_once` groups of its kind work together.

    Raises FabricError when devices that must talk have no link.
    """
    key = (wiring_of.__name__, fabric.likeness(group), at_once)
    known = fabric.worked_out.get(key)
    if not isinstance(known, Wiring):
        known = fabric.worked_out[key] = _wiring_of(fabric, group, at_once)
    return known


def _wiring_of(fabric: Fabric, group: Sequence[int], at_once: int) -> Wiring:
    boxes = _boxes(fabric, group)
    inside = [_inside(fabric, box, at_once) for box in boxes if len(box) > 1]
    across = [_exit(fabric, boxes, i, at_once) for i in range(len(boxes))] if boxes[1:] else []
    return Wiring(
        ranks=len(group),
        boxes=len(boxes),
        box_ranks=max(map(len, boxes)),
        hosts=len({fabric.devices[i].host for i in group}),
        memory_bytes_per_s=min(fabric.devices[i].bytes_per_s for i in group),
        inside=min(inside, key=_rate, default=None),
        across=min(across, key=_rate, default=None),
    )


def _rate(lane: Lane) -> float:
    return lane.bytes_per_s


def _boxes(fabric: Fabric, group: Sequence[int]) -> list[list[int]]:
    boxes: list[list[int]] = []
    of_host: dict[str, list[list[int]]] = {}
    apart = bool(fabric.trunks) and fabric.hosts_are_alike
    apart = apart and all(is_network(trunk.kind) for trunk in fabric.trunks)
    for device in group:
        near = of_host.setdefault(fabric.devices[device].host, [])
        for box in near if apart else boxes:
            if not is_network(fabric.link(box[0], device).kind):
                box.append(device)
                break
        else:
            boxes.append([device])
            near.append(boxes[-1])
    return boxes


def _ring(fabric: Fabric, box: Sequence[int]) -> list[Link]:
    """Links of a ring that goes on over the fastest wire each time, as libraries build theirs."""
    rest, at, ring = list(box[1:]), box[0], list[Link]()
    while rest:
        here = at
        at = max(rest, key=lambda other: fabric.link(here, other).bytes_per_s)
        rest.remove(at)
        ring.append(fabric.link(here, at))
    return [*ring, fabric.link(at, box[0])]


def _inside(fabric: Fabric, box: Sequence[int], at_once: int) -> Lane:
    ring = _ring(fabric, box)
    slowest = min(ring, key=lambda link: link.bytes_per_s)
    kind, rate, wire = slowest.kind, slowest.bytes_per_s, WIRES.get(slowest.kind)
    direct = kind == "nvswitch" or (len(box) == 2 and (wire is None or wire.p2p))
    if kind in MESHES:
        peers = [[fabric.link(a, b) for b in box if a != b] for a in box]
        rate = min(sum(x.bytes_per_s for x in links if x.kind == kind) for links in peers)
        direct = all(link.kind == kind for links in peers for link in links)
    elif kind in ROOT_SHARE:
        hops = [k for k in ring if k.kind == kind and k.path not in UNDER_ONE_SWITCH]
        rate *= ROOT_SHARE[kind] if len(hops) * at_once > 2 else 1.0
    elif not kind.startswith("pcie"):
        rate /= users(fabric, slowest, at_once)
    latency_s = max(link.latency_s for link in ring)
    return Lane(kind, latency_s, rate, slowest.source, slowest.spread, direct)


def users(fabric: Fabric, link: Link, at_once: int, own: int = 1) -> float:
    """How many groups use a link together, of `at_once`: as many as there are devices on its host
    that share it, each group with `own` of them.
    """
    if at_once == 1 or not link.shares:
        return 1.0
    near = fabric.host_devices[fabric.devices[link.a].host]
    shares = (fabric.link(i, link.b).shares for i in near if i != link.b)
    sharing = sum(one == link.shares for one in shares)
    return max(1.0, min(float(at_once), sharing / own))


def _exit(fabric: Fabric, boxes: Sequence[Sequence[int]], index: int, at_once: int) -> Lane:
    """All ways out of a box to the next: links that share a NIC count once, and only a part of it
    where other groups use it too.
    """
    box, following = boxes[index], boxes[(index + 1) % len(boxes)]
    links = [fabric.link(a, following[i % len(following)]) for i, a in enumerate(box)]
    names = [link.shares or f"rail {i}" for i, link in enumerate(links)]
    rails: dict[str, float] = {}
    for name, link in zip(names, links, strict=True):
        rate = link.bytes_per_s / users(fabric, link, at_once, names.count(name))
        rails[name] = max(rails.get(name, 0.0), rate)
    worst = max(links, key=lambda link: link.latency_s)
    return Lane(
        worst.kind,
        worst.latency_s,
        sum(rails.values()),
        worst.source,
        worst.spread,
        rails=len(rails),
    )
