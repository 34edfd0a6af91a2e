"""The layouts worth asking about.

    list(all_layouts(8, experts=True))          # every one of at most 8 ranks
    Degrees.of(spec, rules, fabric).depths(8)

Up to MOST_LISTED devices every layout is asked about. On more, what is left out is dominated or is
between two that are asked about:

- pipelines of more stages whose fullest stage holds as many layers as that of fewer stages: more
  hand-offs and bubbles for the same slowest stage;
- sizes of a TP group that leave a part of each host idle, beside those that do not;
- numbers of replicas between 1, 2, 3, 4, 6, 8, 12, ... and the most: a load is shared out evenly,
  so that one more replica changes little once there are some.
"""

from collections.abc import Iterator

from wirecut.fabric.fabric import Fabric
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.rules import EngineRules, allowed_tp, most_stages
from wirecut.spec.feedforward import Moe
from wirecut.spec.model import ModelSpec

MOST_LISTED = 16


def has_experts(spec: ModelSpec) -> bool:
    """Whether EP can deal anything."""
    return any(isinstance(layer.mlp, Moe) for layer in spec.kinds)


def all_layouts(num_devices: int, *, experts: bool = False) -> Iterator[Layout]:
    """Every tp x pp x dp of at most that many ranks, legal or not, fewest ranks first; with
    `experts` also every ep that divides dp x tp.
    """
    layouts = (
        Layout(tp=tp, pp=pp, dp=dp, ep=ep)
        for tp in range(1, num_devices + 1)
        for pp in range(1, num_devices // tp + 1)
        for dp in range(1, num_devices // (tp * pp) + 1)
        for ep in ep_degrees(tp * dp, experts=experts)
    )
    return iter(sorted(layouts, key=lambda one: (one.world_size, one)))


def ep_degrees(ranks: int, *, experts: bool) -> list[int]:
    """1, and with `experts` every divisor of the dp x tp ranks of a stage."""
    return [ep for ep in range(1, ranks + 1) if ranks % ep == 0] if experts else [1]


@fact
class Degrees:
    """What a large fabric is searched over: sizes of TP groups, numbers of stages of `layers` and
    at most `deepest`, and whether experts are dealt.
    """

    sizes: tuple[int, ...]
    layers: int
    deepest: int
    num_devices: int
    experts: bool

    @classmethod
    def of(cls, spec: ModelSpec, rules: EngineRules, fabric: Fabric) -> "Degrees":
        """Of this model on this fabric."""
        num_devices = len(fabric.devices)
        host = len(next(iter(fabric.host_devices.values())))
        sizes = tuple(
            tp
            for tp in allowed_tp(spec, rules)
            if tp <= num_devices and (host % tp == 0 or tp % host == 0)
        )
        deepest = most_stages(spec, rules)
        return cls(sizes, spec.num_layers, deepest, num_devices, has_experts(spec))

    def depths(self, tp: int) -> list[int]:
        """Numbers of stages: of those whose fullest stage holds as many layers, the fewest."""
        fewest = {-(-self.layers // full) for full in range(1, self.layers + 1)}
        most = min(self.deepest, self.num_devices // tp)
        return sorted(pp for pp in fewest if pp <= most)

    def most_replicas(self, tp: int, pp: int) -> int:
        return self.num_devices // (tp * pp)

    def layouts(self, tp: int, pp: int, replicas: list[int]) -> list[Layout]:
        """So many replicas: without EP, and with EP inside the TP groups and over all ranks."""
        found: list[Layout] = []
        for dp in replicas:
            eps = {1, tp, tp * dp} if self.experts else {1}
            found += [Layout(tp, pp, dp, ep) for ep in sorted(eps)]
        return found


def replica_ladder(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and `most`."""
    found, step = {most}, 1
    while step <= most:
        found |= {step, min(most, step * 3 // 2)}
        step *= 2
    return sorted(found)
