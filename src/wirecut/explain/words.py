"""A layout, a fabric and a load in words. Knows no terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence

from wirecut.cost.terms import Estimate
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.wires import words_for
from wirecut.layout.layout import parse_layout
from wirecut.units import show_seconds


def wire_name(kind: str) -> str:
    """What a person calls a kind of wire."""
    return words_for(kind)


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def devices_in_words(fabric: Fabric) -> str:
    """'2 x AMD EPYC (cpu-core) on vm, joined by shared memory and TCP (Gloo)'."""
    counts = Counter((device.name, device.kind) for device in fabric.devices)
    devices = listed([f"{count} x {name} ({kind})" for (name, kind), count in counts.items()])
    kinds = dict.fromkeys(link.kind for link in fabric.links)
    wires = f", joined by {listed([wire_name(kind) for kind in kinds])}" if kinds else ""
    hosts = fabric.hosts[0] if len(fabric.hosts) == 1 else f"{len(fabric.hosts)} hosts"
    return f"{devices} on {hosts}{wires}"


def layout_in_words(estimate: Estimate) -> str:
    """'2 replicas, each in 2 stages (layers 0-3 | 4-7), every layer cut over 2 devices'."""
    layout = parse_layout(estimate.layout)
    parts: list[str] = []
    if layout.pp > 1:
        stages = " | ".join(_layers(first, last) for first, last in estimate.stages)
        parts.append(f"{layout.pp} stages (layers {stages})")
    if layout.tp > 1:
        parts.append(f"every layer cut over {layout.tp} devices")
    replica = ", ".join(parts)
    if layout.dp == 1:
        return replica or "the whole model on one device"
    if not replica:
        return f"{layout.dp} replicas of the whole model"
    return f"{layout.dp} replicas, each {'in' if layout.pp > 1 else 'with'} {replica}"


def _layers(first: int, last: int) -> str:
    return f"{first}" if last - first == 1 else f"{first}-{last - 1}"


def numbers(values: Iterable[int]) -> str:
    """Device numbers: '0-3', '0 and 2'."""
    found = list(values)
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]}-{found[-1]}"
    return listed([str(value) for value in found])


def within(interval: tuple[float, float]) -> str:
    """'14.4 ms to 57.7 ms'."""
    return f"{show_seconds(interval[0])} to {show_seconds(interval[1])}"


def tokens_per_s(rate: float) -> str:
    """'1768' or '3.42': output tokens per second."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def percent(share: float) -> str:
    """'12%', and one digit more below 10%."""
    return f"{share:.0%}" if abs(share) >= 0.1 else f"{share:.1%}"
