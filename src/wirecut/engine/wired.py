"""What carries each group: shared memory, NCCL or sockets, as the fabric says.

    wired = choose_wires(cut, fabric)

Imports no torch.
"""

from itertools import combinations

import msgspec

from wirecut.fabric.fabric import Fabric
from wirecut.fabric.wires import is_network
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine.ranks import stores_are_ordered


class Wired(msgspec.Struct, frozen=True):
    """What carries each TP group ("shm", "nccl" or "tcp", in the order of `Layout.groups`), and the
    steps, hand-offs and tokens inside each replica ("shm" or "tcp").
    """

    tp: list[str]
    replicas: list[str]
    gpus: bool = False

    @property
    def backend(self) -> str | None:
        """The backend of `torch.distributed` that a group needs; None: shared memory does all."""
        if self.gpus and (set(self.tp) - {"shm"} or "tcp" in self.replicas):
            return "cpu:gloo,cuda:nccl"
        return "gloo" if "tcp" in [*self.tp, *self.replicas] else None


def choose_wires(cut: Cut, fabric: Fabric) -> Wired:
    """NCCL among GPUs, sockets where a pair is joined by a network, shared memory elsewhere."""

    def devices(ranks: tuple[int, ...]) -> list[int]:
        return [cut.placement[rank] for rank in ranks]

    def within(ranks: tuple[int, ...]) -> str:
        pairs = combinations(devices(ranks), 2)
        apart = any(is_network(fabric.link(a, b).kind) for a, b in pairs)
        return "shm" if stores_are_ordered() and not apart else "tcp"

    def reduce_over(ranks: tuple[int, ...]) -> str:
        gpus = all(fabric.devices[device].kind == "gpu" for device in devices(ranks))
        return "nccl" if gpus and len(ranks) > 1 else within(ranks)

    layout = cut.layout
    return Wired(
        [reduce_over(group) for group in layout.groups("tp")],
        [within(replica_ranks(layout, replica)) for replica in range(layout.dp)],
        gpus=any(fabric.devices[device].kind == "gpu" for device in cut.placement),
    )


def replica_ranks(layout: Layout, replica: int) -> tuple[int, ...]:
    """The ranks that together hold one copy of the model; the first leads it."""
    first = replica * layout.replica_size
    return tuple(range(first, first + layout.replica_size))
