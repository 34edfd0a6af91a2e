"""What carries each group: shared memory, NCCL or sockets, as the fabric says.

    wired = choose_wires(cut, fabric)

Imports no torch.
"""

import msgspec

from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.machine.ranks import stores_are_ordered


class Wired(msgspec.Struct, frozen=True):
    """What carries each TP group ("shm", "nccl" or "tcp", in the order of `Layout.groups`), and the
    steps, hand-offs and tokens inside each replica ("shm" or "tcp"). Where replicas share experts,
    also each stage's exchange, and what their leaders agree on.
    """

    tp: list[str]
    replicas: list[str]
    gpus: bool = False
    experts: list[str] = []
    leaders: str = ""

    @property
    def backend(self) -> str | None:
        """The backend of `torch.distributed` that a group needs; None: shared memory does all."""
        used = {*self.tp, *self.replicas, *self.experts, self.leaders} - {"shm", ""}
        if not used:
            return None
        return "cpu:gloo,cuda:nccl" if self.gpus else "gloo"


def choose_wires(cut: Cut, fabric: Fabric) -> Wired:
    """NCCL among GPUs, sockets where a pair is joined by a network, shared memory elsewhere."""

    def devices(ranks: tuple[int, ...]) -> list[int]:
        return [cut.placement[rank] for rank in ranks]

    def within(ranks: tuple[int, ...]) -> str:
        together = stores_are_ordered() and fabric.share_memory(devices(ranks))
        return "shm" if together else "tcp"

    def collect_over(ranks: tuple[int, ...]) -> str:
        gpus = all(fabric.devices[device].kind == "gpu" for device in devices(ranks))
        return "nccl" if gpus and len(ranks) > 1 else within(ranks)

    layout, shared = cut.layout, cut.layout.shares_experts
    return Wired(
        [collect_over(group) for group in layout.groups("tp")],
        [within(replica_ranks(layout, replica)) for replica in range(layout.dp)],
        gpus=any(fabric.devices[device].kind == "gpu" for device in cut.placement),
        experts=[collect_over(layout.stage_ranks(i)) for i in range(layout.pp)] if shared else [],
        leaders=within(leader_ranks(layout)) if shared else "",
    )


def sums_in_one_host(layout: Layout, wired: Wired, rank: int, neighbours: tuple[int, ...]) -> bool:
    """Whether the TP group of `rank` are GPUs of its host, whose ranks are `neighbours`."""
    groups = zip(layout.groups("tp"), wired.tp, strict=True)
    group, kind = next((group, kind) for group, kind in groups if rank in group)
    return kind == "nccl" and set(group) <= set(neighbours)


def replica_ranks(layout: Layout, replica: int) -> tuple[int, ...]:
    """The ranks that together hold one copy of the model; the first leads it."""
    first = replica * layout.replica_size
    return tuple(range(first, first + layout.replica_size))


def leader_ranks(layout: Layout) -> tuple[int, ...]:
    """The first rank of each replica."""
    return tuple(layout.rank(dp=replica) for replica in range(layout.dp))
