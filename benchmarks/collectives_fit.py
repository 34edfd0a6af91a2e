"""Constants of the wires' physics as multiples of the shipped ones, and their fit to measured rows.

    fitted = fit(cases, parameters_of(cases))       # {"ll_share": 0.97, ...}
    with installed(fitted): ...                     # prices now come from these

A case is one measured curve with the wiring of its group.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from wirecut.cost import algorithms
from wirecut.cost.algorithms import ways
from wirecut.cost.lanes import Lane, Wiring
from wirecut.cost.libraries import LIBRARIES, Library
from wirecut.fabric import physics
from wirecut.fabric.fabric import Op

NCCLS = (
    *("step", "ll_share", "channel_bytes_per_s", "own_copies", "simple_s", "few_simple_s"),
    *("simple_step_s", "kernel_s", "net_ll_share", "net_simple", "in_switch", "in_switch_s"),
)
STEPS = (1.25, 1.06)
WORST = 1.2  # an error counts as this log at most: outliers are not fitted


@dataclass(frozen=True, slots=True)
class Case:
    """One measured curve: (bytes, seconds) of `op` by `library` over `wiring`. `raw` is what the
    NVLinks of a device carry, 0 without any; `crowded`: more than two share the root complex;
    `given`: the wire between nodes is a measured one, that says nothing of typed ones.
    """

    owner: str
    op: Op
    library: str
    wiring: Wiring
    raw: float
    crowded: bool
    given: bool
    points: tuple[tuple[float, float], ...]


def wire_names(case: Case, lane: Lane) -> tuple[str, str, str]:
    """Names of the constants behind a lane of a case: latency, rate, what crowding leaves."""
    raw, crowded = case.raw, case.crowded
    if case.given and lane.kind in physics.NETWORK:
        return "", "", ""
    if lane.kind in ("nvswitch", "nvlink"):
        at = next(i for i, (least, _) in enumerate(physics.NVLINK_LATENCY) if raw >= least)
        return f"nvlink latency {at}", "nvlink rate", ""
    if lane.kind in physics.NETWORK:
        return f"{lane.kind} latency", f"{lane.kind} rate", ""
    if lane.kind.endswith("-nop2p"):
        return "bounced latency", "bounced rate", ""
    return "pcie latency", "pcie rate", f"root {lane.kind}" if crowded else ""


def library_with(library: Library, found: Mapping[str, float]) -> Library:
    """The library with its constants multiplied."""
    changes = {name: getattr(library, name) * found.get(name, 1.0) for name in NCCLS}
    for name in ("barrier", "host_s", "start"):
        changes[name] = getattr(library, name) * found.get(f"{library.name} {name}", 1.0)
    return replace(library, **changes)


def parameters_of(cases: Sequence[Case]) -> list[str]:
    """Names of the constants that these cases depend on."""
    names = dict.fromkeys(NCCLS)
    for case in cases:
        for lane in (case.wiring.inside, case.wiring.across):
            if lane is not None:
                names |= dict.fromkeys(wire_names(case, lane))
        library = LIBRARIES[case.library]
        if "one-shot" in library.algorithms:
            names[f"{library.name} barrier"] = None
        if library.host_s:
            names[f"{library.name} host_s"] = None
        if library.start != 1:
            names[f"{library.name} start"] = None
    names.pop("", None)
    return list(names)


def seconds(case: Case, found: Mapping[str, float], library: Library, num_bytes: float) -> float:
    """What physics says of one point of a case, with constants multiplied."""

    def lane_with(lane: Lane | None) -> Lane | None:
        if lane is None:
            return None
        latency, rate, root = (found.get(name, 1.0) for name in wire_names(case, lane))
        return replace(
            lane,
            latency_s=lane.latency_s * latency,
            bytes_per_s=lane.bytes_per_s * rate * root,
        )

    wiring = replace(
        case.wiring,
        inside=lane_with(case.wiring.inside),
        across=lane_with(case.wiring.across),
    )
    if case.op == "send_recv":
        lane = wiring.slowest
        return lane.latency_s + num_bytes / lane.bytes_per_s
    best = min(way.seconds for way in ways(case.op, wiring, num_bytes, library))
    copies = library.copies * num_bytes / wiring.memory_bytes_per_s
    return max(best, library.host_s) + copies


def loss(cases: Sequence[Case], found: Mapping[str, float]) -> float:
    """Mean log error, every device weighing as the root of its curves, and a pull towards 1."""
    libraries = {name: library_with(library, found) for name, library in LIBRARIES.items()}
    owners = Counter(case.owner for case in cases)
    total = weight = 0.0
    for case in cases:
        share = owners[case.owner] ** -0.5
        errors = [
            min(abs(math.log(seconds(case, found, libraries[case.library], size) / s)), WORST)
            for size, s in case.points
        ]
        total += share * sum(errors) / len(errors)
        weight += share
    return total / weight + 0.002 * sum(math.log(value) ** 2 for value in found.values())


def fit(cases: Sequence[Case], names: Sequence[str]) -> dict[str, float]:
    """Multiples of the shipped constants that fit best, one after another until none moves."""
    found: dict[str, float] = {}
    best = loss(cases, found)
    for step in STEPS:
        for name in [*names, *names]:
            for factor in (step, 1 / step):
                while True:
                    trial = {**found, name: found.get(name, 1.0) * factor}
                    now = loss(cases, trial)
                    if now >= best - 1e-6:
                        break
                    best, found = now, trial
    return found


@contextmanager
def installed(found: Mapping[str, float]) -> Iterator[None]:
    """The product's own constants multiplied, for as long as this lasts."""
    before = {name: getattr(physics, name) for name in dir(physics) if re.match("[A-Z]", name)}
    roots, libraries = dict(physics.ROOT_SHARE), dict(LIBRARIES)
    get = found.get
    try:
        physics.NVLINK_LATENCY = tuple(
            (least, s * get(f"nvlink latency {i}", 1.0))
            for i, (least, s) in enumerate(physics.NVLINK_LATENCY)
        )
        physics.NVLINK_SHARE *= get("nvlink rate", 1.0)
        physics.PCIE_SHARE *= get("pcie rate", 1.0)
        physics.PCIE_LATENCY *= get("pcie latency", 1.0)
        physics.BOUNCED_LATENCY *= get("bounced latency", 1.0)
        physics.BOUNCED_SHARE *= get("bounced rate", 1.0)
        physics.HOST_COPY *= get("bounced rate", 1.0)
        physics.NETWORK = {
            kind: (s * get(f"{kind} latency", 1.0), share * get(f"{kind} rate", 1.0))
            for kind, (s, share) in physics.NETWORK.items()
        }
        physics.ROOT_SHARE.update({k: v * get(f"root {k}", 1.0) for k, v in roots.items()})
        LIBRARIES.update({k: library_with(v, found) for k, v in libraries.items()})
        yield
    finally:
        for name, value in before.items():
            setattr(physics, name, value)
        physics.ROOT_SHARE.update(roots)
        LIBRARIES.update(libraries)


assert algorithms.ROOT_SHARE is physics.ROOT_SHARE  # one dict: `installed` changes it in place
