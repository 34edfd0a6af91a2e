"""What all layouts of one question share, and one replica of a cut as priced: its stages, wires and
memory.

    replica = Replica(Pricing(spec, fabric, dtype="bf16"), cut)
    replica.memory(tokens=640).kv_tokens

Knows no traffic and no time.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from wirecut.cost.collectives import collective_price
from wirecut.cost.engines import WIRECUT, EngineProfile
from wirecut.cost.forward import Batch, Forward
from wirecut.cost.memory import RankSizes, worst_memory
from wirecut.cost.product import Product
from wirecut.cost.rates import Rate, rate_of
from wirecut.cost.terms import Memory
from wirecut.cost.work import LayerWork
from wirecut.fabric.fabric import Device, Fabric, Link
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.rules import EngineRules, why_not
from wirecut.layout.stages import Stages
from wirecut.spec.formats import kind_of
from wirecut.spec.model import ModelSpec
from wirecut.units import DTYPE_BYTES

STEP_ROWS = 64  # rows of a step by which the slowest of unlike wires is told: latency and bandwidth


@fact
class Stage:
    """One stage as priced: the rank that streams its weights slowest, over its slowest TP group.

    `works` are its distinct layers and how many there are of each; `head` None: another stage has
    it. `expert_group` are all ranks that share the stage's experts.
    """

    works: tuple[tuple[LayerWork, int], ...]
    head: Product | None
    linear_bytes: float
    rate: Rate
    group: tuple[int, ...]
    expert_group: tuple[int, ...]

    @property
    def layers(self) -> int:
        return sum(count for _, count in self.works)

    @property
    def streamed(self) -> float:
        """Bytes of weights that one forward reads."""
        return self.linear_bytes + (self.head.weight_bytes if self.head else 0.0)

    @property
    def device(self) -> Device:
        return self.rate.device


def _counted(works: Sequence[LayerWork]) -> tuple[tuple[LayerWork, int], ...]:
    """The distinct ones and how many there are of each; equal ones are the same object."""
    counts: dict[int, int] = {}
    for work in works:
        counts[id(work)] = counts.get(id(work), 0) + 1
    return tuple((work, counts.pop(id(work))) for work in works if id(work) in counts)


class Pricing:
    """What all layouts of one question share, with what is worth computing once.

    `dtype` is that of activations; how weights are stored, `spec` says. `limits` None: the
    engine's own on the fabric's devices.
    """

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
        smallest = min(device.memory_bytes for device in fabric.devices)
        self.limits = limits or engine.limits(smallest)
        self.kv_dtype = spec.kv_dtype or engine.kv_formats.get(kind_of(spec.weights.linear), dtype)
        self._sizes: dict[tuple[Layout, tuple[int, ...]], list[RankSizes]] = {}
        self._rates: dict[int, Rate] = {}
        self.stages: dict[tuple[object, ...], Stages] = {}  # cut so far, by `planner.space`

    def in_blocks(self, tokens: int) -> int:
        """KV room for `tokens`, in the engine's blocks on these devices."""
        on_gpus = any(device.kind == "gpu" for device in self.fabric.devices)
        return self.engine.in_blocks(tokens, on_gpus=on_gpus)

    def over(self, fabric: Fabric) -> "Pricing":
        """The same question on a fabric with the same devices and other wires; what is known of
        devices is kept.
        """
        other = Pricing(self.spec, fabric, dtype=self.dtype, limits=self.limits, engine=self.engine)
        other._sizes, other._rates, other.stages = self._sizes, self._rates, self.stages
        return other

    def sizes(self, layout: Layout, shares: tuple[int, ...] = ()) -> list[RankSizes]:
        """Sizes of the ranks of a TP group that differ: all where TP deals unevenly, else the first
        and the last. Each stands for the ranks up to the next.
        """
        alike = Layout(tp=layout.tp, dp=layout.dp if layout.ep > 1 else 1, ep=layout.ep)
        key = alike, shares
        if key not in self._sizes:
            ranks = {0, alike.tp - 1}
            uneven = why_not(self.spec, Layout(tp=alike.tp), alike.tp, EngineRules()) is not None
            if uneven or shares:
                ranks = set(range(alike.tp))
            self._sizes[key] = [
                RankSizes.of(self.spec, alike, tp_rank=i, kv=self.kv_dtype, shares=shares)
                for i in sorted(ranks)
            ]
        return self._sizes[key]

    def rate(self, device_id: int) -> Rate:
        """How fast a device works."""
        if device_id not in self._rates:
            device = self.fabric.devices[device_id]
            total = self._busy_with(device)
            self._rates[device_id] = rate_of(
                device,
                self.dtype,
                kv=self.kv_dtype,
                total=total,
                starts=self.engine.steps.starts,
            )
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
        self.sizes = pricing.sizes(cut.layout, cut.shares)
        self.stages = tuple(self._stage(i) for i in range(cut.layout.pp))
        self.boundaries = tuple(self._boundary(i) for i in range(cut.layout.pp - 1))
        self.most_busy = max(stage.rate.total for stage in self.stages)
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
        pricing, groups, layout = self.pricing, self._groups(stage), self.cut.layout
        first, last = self.cut.stages[stage]
        is_last = stage == layout.pp - 1
        heaviest, slowest = max(
            zip(self.sizes, self._slowest(groups), strict=True),
            key=lambda pair: (pair[0].linears[last] - pair[0].linears[first]) / pair[1].bytes_per_s,
        )
        return Stage(
            works=_counted(heaviest.works[first:last]),
            head=heaviest.head if is_last else None,
            linear_bytes=heaviest.linears[last] - heaviest.linears[first],
            rate=pricing.rate(slowest.id),
            group=max(self._unlike(groups), key=self._reduce_seconds)
            if layout.tp > 1
            else groups[0],
            expert_group=tuple(i for group in groups for i in group) if layout.ep > 1 else (),
        )

    def _devices(self, groups: Sequence[tuple[int, ...]]) -> Iterator[list[Device]]:
        """The devices, in all replicas, of the ranks that each of `sizes` stands for."""
        starts = [one.tp_rank for one in self.sizes]
        for first, last in pairwise([*starts, self.cut.layout.tp]):
            yield [self.pricing.fabric.devices[i] for group in groups for i in group[first:last]]

    def _slowest(self, groups: Sequence[tuple[int, ...]]) -> list[Device]:
        """The slowest device of those."""
        return [min(some, key=lambda one: one.bytes_per_s) for some in self._devices(groups)]

    def _unlike(self, groups: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """One of the groups of each likeness."""
        likeness = self.pricing.fabric.likeness
        return list({likeness(group): group for group in reversed(groups)}.values())

    def _reduce_seconds(self, group: Sequence[int]) -> float:
        pricing = self.pricing
        rows = STEP_ROWS * pricing.spec.hidden * DTYPE_BYTES[pricing.dtype]
        return collective_price(
            pricing.fabric,
            "all_reduce",
            group,
            rows,
            at_once=self.groups_at_once,
            library=pricing.engine.library,
        ).seconds

    def _boundary(self, stage: int) -> Link:
        """The slowest wire from a stage's first rank to the ranks of the next stage, over all
        replicas.
        """
        pairs = zip(self._groups(stage), self._groups(stage + 1), strict=True)
        ends = self._unlike([(a[0], *group) for a, group in pairs])
        links = (self.pricing.fabric.link(a, b) for a, *group in ends for b in group)
        rows = STEP_ROWS * self.pricing.spec.hidden * DTYPE_BYTES[self.pricing.dtype]
        return max(links, key=lambda link: link.seconds(rows))

    def memory(self, tokens: int) -> Memory:
        """The rank with the least room for requests of `tokens` tokens."""
        pricing = self.pricing
        capacities = [
            [min(one.memory_bytes for one in some) for some in self._devices(self._groups(stage))]
            for stage in range(self.cut.layout.pp)
        ]
        return worst_memory(
            self.cut,
            sizes=self.sizes,
            capacities=capacities,
            limits=pricing.limits,
            dtype=pricing.dtype,
            engine=pricing.engine,
            tokens=tokens,
        )

    def kv_token_bytes(self, tokens: int) -> float:
        """Bytes that one token of a request of `tokens` leaves on the rank that keeps most of
        it.
        """
        most = max(
            rank.request_bytes(layers, tokens) for rank in self.sizes for layers in self.cut.stages
        )
        return most / tokens
