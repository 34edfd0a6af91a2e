"""What carries each group: shared memory or sockets, as the fabric says. Imports no torch.

wired = choose_wires(cut, fabric)
"""

import msgspec

from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut


class Wired(msgspec.Struct, frozen=True):
    """What carries each group, in the order of `Layout.groups`: "shm" or "tcp"."""

    tp: list[str]
    replicas: list[str]

    @property
    def needs_sockets(self) -> bool:
        return "tcp" in [*self.tp, *self.replicas]


def choose_wires(cut: Cut, fabric: Fabric) -> Wired:
    """Shared memory where it joins every pair of a group in this fabric, sockets elsewhere."""

    def kind(ranks: tuple[int, ...]) -> str:
        devices = [cut.placement[rank] for rank in ranks]
        pairs = ((a, b) for i, a in enumerate(devices) for b in devices[i + 1 :])
        return "shm" if all(fabric.link(a, b).kind == "shm" for a, b in pairs) else "tcp"

    layout = cut.layout
    replicas = [replica_ranks(layout, index) for index in range(layout.dp)]
    return Wired([kind(group) for group in layout.groups("tp")], [kind(r) for r in replicas])


def replica_ranks(layout: Layout, replica: int) -> tuple[int, ...]:
    """The ranks that together hold one copy of the model; the first leads it."""
    first = replica * layout.replica_size
    return tuple(range(first, first + layout.replica_size))
