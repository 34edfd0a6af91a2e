"""Islands: sets of devices joined by faster wires than those around them, found from the gap.

    find_islands(4, links)      # ((0, 1), (2, 3)): two pairs, and slower wires between them

Sees wires only: neither hosts nor a fixed speed decide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from wirecut.fabric.link import Link, Source, Trunk
from wirecut.units import KIB, MIB

# Small messages feel latency, large ones bandwidth: an island is faster on the whole.
MESSAGES = (8 * KIB, 256 * KIB, 8 * MIB)
# What is not known of a link at the least, as a share: probes of one wire differ by this much.
LEAST_DOUBT: dict[Source, float] = {
    "measured": 0.10,
    "published": 0.05,
    "datasheet": 0.05,
    "assumed": 0.05,
}
# Wires that differ by more than this are no noise about one wire.
MOST_DOUBT = 0.20


def find_islands(
    num_devices: int,
    links: Sequence[Link],
    *,
    trunks: Sequence[Trunk] = (),
    hosts: Sequence[Sequence[int]] = (),
) -> tuple[tuple[int, ...], ...]:
    """Islands of devices 0 to `num_devices` - 1, smallest first; of two, one holds the other or
    they share nothing. `trunks` join the devices of different `hosts`.

    Devices are joined from the nearest on (single linkage; Sibson 1973, SLINK). A set is an island
    when the nearest device outside is farther than its own wires by more than what is in doubt. The
    whole, held together by the slowest wires, is one only when nothing inside it is.
    """
    if num_devices == 1:
        return ((0,),)
    best = _best_links([*links, *_span(trunks, hosts)])
    merges = _merges(num_devices, best)
    doubts = _doubts(merges, best)
    islands = [
        merge.members
        for merge, doubt in zip(merges, doubts, strict=True)
        if merge.into is not None
        and merges[merge.into].height * (1 - doubts[merge.into]) > merge.height * (1 + doubt)
    ]
    roots = [merge.members for merge in merges if merge.into is None]
    if not islands or not roots or len(roots[0]) < num_devices:
        islands += roots  # cut off from the rest, or all joined alike
    return tuple(sorted((tuple(sorted(one)) for one in islands), key=lambda one: (len(one), one)))


def _span(trunks: Sequence[Trunk], hosts: Sequence[Sequence[int]]) -> list[Link]:
    """Of the many equal links of trunks, as many as join what all of them join."""
    if not trunks or len(hosts) < 2:
        return []
    first, second = hosts[0][0], hosts[1][0]
    pairs = [(first, other) for host in hosts[1:] for other in host]
    pairs += [(other, second) for other in hosts[0][1:]]
    return [trunk.link(a, b, "", 0) for trunk in trunks for a, b in pairs]


def distance(link: Link) -> float:
    """Seconds of one message over `link`, the geometric mean over small, middle and large ones."""
    product = 1.0
    for size in MESSAGES:
        product *= link.latency_s + size / link.bytes_per_s
    return product ** (1 / len(MESSAGES))


_Best = dict[tuple[int, int], tuple[float, Link]]  # by pair, the lower device first


@dataclass(slots=True)
class _Merge:
    """Parts joined by wires of length `height`, and the merge that joins the result to more."""

    height: float
    parts: list[list[int]]
    members: list[int]
    into: int | None = None


def _best_links(links: Sequence[Link]) -> _Best:
    """The nearest link and its distance by pair."""
    best: _Best = {}
    far_of: dict[tuple[float, float], float] = {}
    for link in links:
        line = (link.latency_s, link.bytes_per_s)
        far = far_of.get(line)
        if far is None:
            far = far_of[line] = distance(link)
        pair = (link.a, link.b) if link.a < link.b else (link.b, link.a)
        old = best.get(pair)
        if old is None or (far, link.kind, link.source) < (old[0], old[1].kind, old[1].source):
            best[pair] = (far, link)
    return best


def _own_doubt(link: Link) -> float:
    spread = link.spread if link.source == "measured" else 0.0
    return max(LEAST_DOUBT[link.source], spread)


def _merges(num_devices: int, best: _Best) -> list[_Merge]:
    """What joins what as the distance grows (Kruskal 1956); wires of the same length join in one
    merge.
    """
    merges: list[_Merge] = []
    stand = list(range(num_devices))  # towards the device that stands for a set
    members = [[device] for device in stand]
    made: dict[int, int] = {}  # the merge that made a set

    def find(device: int) -> int:
        while stand[device] != device:
            stand[device] = device = stand[stand[device]]
        return device

    nearest = sorted(((far, *pair) for pair, (far, _) in best.items()))
    for height, tied in groupby(nearest, key=lambda edge: edge[0]):
        edges = [(x, y) for _, a, b in tied if (x := find(a)) != (y := find(b))]
        for a, b in edges:
            stand[find(a)] = find(b)
        parts: dict[int, list[int]] = {}
        for part in sorted({end for edge in edges for end in edge}):
            parts.setdefault(find(part), []).append(part)
        for whole, found in parts.items():
            for part in found:
                if part in made:
                    merges[made[part]].into = len(merges)
            sets = [members[part] for part in found]
            members[whole] = [device for one in sets for device in one]
            made[whole] = len(merges)
            merges.append(_Merge(height, sets, members[whole]))
    return merges


def _doubts(merges: list[_Merge], best: _Best) -> list[float]:
    """By merge, the share by which its height is in doubt.

    A link is in doubt by its own spread, and by how much measured links of its kind scatter that
    join the same parts (root mean square of all of them).
    """
    squares: dict[str, float] = {}
    freedom: dict[str, int] = {}
    at_height: list[list[Link]] = []
    for merge, joined in zip(merges, _joined(merges, best), strict=True):
        alike: dict[tuple[str, str], list[float]] = {}
        at_height.append([link for far, link in joined if far == merge.height])
        for far, link in joined:
            if link.source == "measured":
                alike.setdefault((link.kind, link.path), []).append(math.log(far))
        for (kind, _), logs in alike.items():
            mean = math.fsum(logs) / len(logs)
            squares[kind] = squares.get(kind, 0.0) + math.fsum((x - mean) ** 2 for x in logs)
            freedom[kind] = freedom.get(kind, 0) + len(logs) - 1
    scatter = {kind: math.sqrt(squares[kind] / max(1, freedom[kind])) for kind in squares}

    def doubt(link: Link) -> float:
        theirs = scatter[link.kind] if link.source == "measured" else 0.0
        return min(MOST_DOUBT, max(_own_doubt(link), theirs))

    return [max(map(doubt, links)) for links in at_height]


def _joined(merges: list[_Merge], best: _Best) -> list[list[tuple[float, Link]]]:
    """By merge, the links between different parts of it: each link's ends meet in one merge."""
    above: dict[int, list[int]] = {}  # the merges that a device is in, innermost first
    for i, merge in enumerate(merges):
        for device in merge.members:
            above.setdefault(device, []).append(i)
    found: list[list[tuple[float, Link]]] = [[] for _ in merges]
    for (a, b), both in best.items():
        theirs = set(above[b])
        found[next(i for i in above[a] if i in theirs)].append(both)
    return found
