"""What all layouts of one question share, and one replica of a cut as priced: its stages, wires and
memory.

    replica = Replica(Pricing(spec, fabric, dtype="bf16"), cut)
    replica.memory().kv_tokens

Knows no traffic and no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wirecut.cost.collectives import all_reduce_price
from wirecut.cost.compute import MatrixRate
from wirecut.cost.engines import WIRECUT, EngineProfile
from wirecut.cost.forward import Batch, Forward
from wirecut.cost.memory import RankSizes, kv_bytes_per_token, worst_memory
from wirecut.cost.terms import Memory
from wirecut.fabric.fabric import Device, Fabric, Link
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.stages import Stages
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as priced: sizes of its heaviest rank, on its slowest device, over its slowest TP
    group.
    """

    layers: int
    layer_bytes: int
    head_bytes: int
    kv_token_bytes: int
    width: int
    rate: MatrixRate
    group: tuple[int, ...]

    @property
    def device(self) -> Device:
        return self.rate.device


class Pricing:
    """What all layouts of one question share, with what is worth computing once."""

    def __init__(
        self,
        spec: ModelSpec,
        fabric: Fabric,
        *,
        dtype: str,
        limits: Limits | None = None,
        engine: EngineProfile = WIRECUT,
    ) -> None:
        self.spec, self.fabric, self.dtype, self.engine = spec, fabric, dtype, engine
        self.limits = limits or Limits()
        self._sizes: dict[int, list[RankSizes]] = {}
        self._rates: dict[int, MatrixRate] = {}
        self.stages: dict[tuple[object, ...], Stages] = {}  # cut so far, by `planner.space`

    def over(self, fabric: Fabric) -> "Pricing":
        """The same question on a fabric with the same devices and other wires; what is known of
        devices is kept.
        """
        other = Pricing(self.spec, fabric, dtype=self.dtype, limits=self.limits, engine=self.engine)
        other._sizes, other._rates, other.stages = self._sizes, self._rates, self.stages
        return other

    def sizes(self, tp: int) -> list[RankSizes]:
        """Sizes of each rank of a TP group."""
        if tp not in self._sizes:
            self._sizes[tp] = [RankSizes.of(self.spec, tp=tp, tp_rank=i) for i in range(tp)]
        return self._sizes[tp]

    def rate(self, device_id: int) -> MatrixRate:
        """What products cost on a device."""
        if device_id not in self._rates:
            device = self.fabric.devices[device_id]
            self._rates[device_id] = MatrixRate(device, self.dtype, self._busy_with(device))
        return self._rates[device_id]

    def _busy_with(self, device: Device) -> int:
        """How many devices were busy, this one among them, when it was measured with all: those of
        its host; where each host has one, all that were measured alone, since their hosts may be
        namespaces of one machine.
        """
        if not device.alone:
            return 1
        on_host = sum(other.host == device.host for other in self.fabric.devices)
        return on_host if on_host > 1 else sum(bool(each.alone) for each in self.fabric.devices)


class Replica:
    """One replica of a cut, the slowest where replicas differ.

    Raises FabricError when devices that must talk have no link.
    """

    def __init__(self, pricing: Pricing, cut: Cut) -> None:
        self.pricing, self.cut = pricing, cut
        self.sizes = pricing.sizes(cut.layout.tp)
        self.stages = tuple(self._stage(i) for i in range(cut.layout.pp))
        self.boundaries = tuple(self._boundary(i) for i in range(cut.layout.pp - 1))
        self.forwards: dict[Batch, Forward] = {}  # priced so far, by `step.price_forward`

    @property
    def groups_at_once(self) -> int:
        """TP groups that work at the same time: one a stage and replica."""
        return self.cut.layout.pp * self.cut.layout.dp

    def _groups(self, stage: int) -> list[tuple[int, ...]]:
        """Device ids of this stage's TP group in every replica."""
        layout, placement = self.cut.layout, self.cut.placement
        starts = (layout.rank(dp=replica, pp=stage) for replica in range(layout.dp))
        return [placement[start : start + layout.tp] for start in starts]

    def _stage(self, stage: int) -> Stage:
        pricing, groups = self.pricing, self._groups(stage)
        first, last = self.cut.stages[stage]
        is_last = stage == self.cut.layout.pp - 1
        size = DTYPE_BYTES[pricing.dtype]
        heaviest = max(
            self.sizes,
            key=lambda rank: rank.linears[last] - rank.linears[first] + rank.head * is_last,
        )
        devices = [pricing.fabric.devices[i] for group in groups for i in group]
        slowest = min(devices, key=lambda device: device.bytes_per_s)
        return Stage(
            layers=last - first,
            layer_bytes=(heaviest.linears[last] - heaviest.linears[first]) * size,
            head_bytes=heaviest.head * size if is_last else 0,
            kv_token_bytes=(heaviest.kv[last] - heaviest.kv[first]) * size,
            width=heaviest.width[last] - heaviest.width[first],
            rate=pricing.rate(slowest.id),
            group=max(groups, key=self._reduce_seconds) if self.cut.layout.tp > 1 else groups[0],
        )

    def _reduce_seconds(self, group: Sequence[int]) -> float:
        row = self.pricing.spec.hidden * DTYPE_BYTES[self.pricing.dtype]
        pricing = self.pricing
        return all_reduce_price(
            pricing.fabric,
            group,
            row,
            at_once=self.groups_at_once,
            library=pricing.engine.library,
        ).seconds

    def _boundary(self, stage: int) -> Link:
        """The slowest wire from a stage's first rank to the ranks of the next stage, over all
        replicas.
        """
        pairs = zip(self._groups(stage), self._groups(stage + 1), strict=True)
        links = (self.pricing.fabric.link(a[0], b) for a, group in pairs for b in group)
        row = self.pricing.spec.hidden * DTYPE_BYTES[self.pricing.dtype]
        return max(links, key=lambda link: link.latency_s + row / link.bytes_per_s)

    def memory(self) -> Memory:
        """The rank with the least room."""
        pricing, devices = self.pricing, self.pricing.fabric.devices
        capacities = [
            min(devices[i].memory_bytes for group in self._groups(stage) for i in group)
            for stage in range(self.cut.layout.pp)
        ]
        return worst_memory(
            pricing.spec,
            self.cut,
            sizes=self.sizes,
            capacities=capacities,
            limits=pricing.limits,
            dtype=pricing.dtype,
        )

    def kv_token_bytes(self) -> int:
        """Bytes that one token leaves on the rank that keeps most of it."""
        return kv_bytes_per_token(self.cut, self.sizes, self.pricing.dtype)
