"""A layout, a fabric and a load in words. Knows no terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from wirecut.cost.terms import Estimate, Kind, Memory
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.wires import words_for
from wirecut.layout.layout import parse_layout
from wirecut.planner.contest import Miss
from wirecut.spec.traffic import Traffic
from wirecut.units import show_bytes, show_seconds

SHOWN_NUMBERS, SHOWN_STAGES = 16, 16
KIND_NAMES: dict[Kind, str] = {"wait": "waiting"}


def kind_name(kind: Kind) -> str:
    """What a person calls a kind of time."""
    return KIND_NAMES.get(kind, kind)


def counted(count: int, noun: str) -> str:
    """'1 device', '2 devices'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def model_name(model: str) -> str:
    """A model's id, or its folder's name."""
    return PurePath(model).name if model.startswith("/") else model


def load_in_words(traffic: Traffic) -> str:
    """'8 users at once' or '2.5 requests/s'."""
    if traffic.rate is not None:
        return f"{traffic.rate:g} requests/s"
    return f"{counted(traffic.requests_at_once or 1, 'user')} at once"


def targets_in_words(traffic: Traffic) -> str:
    """'TTFT 300 ms, TPOT 20 ms', or nothing."""
    limits = (("TTFT", traffic.ttft_ms), ("TPOT", traffic.tpot_ms))
    return ", ".join(f"{name} {limit:g} ms" for name, limit in limits if limit is not None)


def used_bytes(memory: Memory) -> int:
    """Bytes of the fullest rank that are taken when the load runs."""
    return memory.weights_bytes + memory.kv_bytes + memory.activation_bytes + memory.buffer_bytes


def memory_in_words(memory: Memory, placement: Sequence[int]) -> str:
    """'of 72.0 GiB on rank 3 (device 3), the fullest; 12.0 GiB lie idle on the others'."""
    where = f"of {show_bytes(memory.capacity_bytes)}"
    if len(placement) > 1:
        where += f" on rank {memory.rank} (device {placement[memory.rank]}), the fullest"
    if memory.wasted_bytes:
        where += f"; {show_bytes(memory.wasted_bytes)} stay empty on the others when it is full"
    return where


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
    kinds = [wire_name(kind) for kind in fabric.wire_kinds]
    wires = f", joined by {listed(kinds)}" if kinds else ""
    hosts = fabric.hosts[0] if len(fabric.hosts) == 1 else f"{len(fabric.hosts)} hosts"
    return f"{devices} on {hosts}{wires}"


def fabric_name(fabric: Fabric) -> str:
    """A typed fabric as it was typed, else its hosts."""
    typed = fabric.made.how.removeprefix("typed: ")
    if typed != fabric.made.how:
        return typed
    hosts = fabric.hosts
    return hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"


def layout_in_words(estimate: Estimate) -> str:
    """'2 replicas, each in 2 stages (layers 0-3 | 4-7), every layer cut over 2 devices'."""
    layout = parse_layout(estimate.layout)
    parts: list[str] = []
    if layout.pp > 1:
        stages = [_layers(first, last) for first, last in estimate.stages]
        if len(stages) > SHOWN_STAGES:
            stages = [*stages[:3], "...", stages[-1]]
        parts.append(f"{layout.pp} stages (layers {' | '.join(stages)})")
    if layout.tp > 1:
        dealt = f" as {' + '.join(map(str, estimate.shares))}" if estimate.shares else ""
        parts.append(f"every layer cut over {layout.tp} devices{dealt}")
    replica = ", ".join(parts)
    if layout.dp == 1:
        whole = replica or "the whole model on one device"
    elif replica:
        whole = f"{layout.dp} replicas, each {'in' if layout.pp > 1 else 'with'} {replica}"
    elif layout.ep > 1:
        dealt = f"which are dealt over {layout.ep} devices"
        return f"{layout.dp} replicas of all but the experts, {dealt}"
    else:
        whole = f"{layout.dp} replicas of the whole model"
    return f"{whole}, experts dealt over {layout.ep}" if layout.ep > 1 else whole


def _layers(first: int, last: int) -> str:
    return f"{first}" if last - first == 1 else f"{first}-{last - 1}"


def numbers(values: Iterable[int]) -> str:
    """Device numbers: '0-3', '0 and 2', '0-7, 16-23 and 6 more runs'."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words: list[str] = []
    for run in runs:
        words += [str(one) for one in run] if len(run) < 3 else [f"{run[0]}-{run[-1]}"]
    more = len(words) - SHOWN_NUMBERS
    return listed([*words[:SHOWN_NUMBERS], *([f"{more} more runs"] if more > 0 else [])])


def placed_in_words(estimate: Estimate) -> str:
    """'on devices 0-3'."""
    noun = "device" if estimate.devices_used == 1 else "devices"
    return f"on {noun} {numbers(estimate.placement)}"


def within(interval: tuple[float, float]) -> str:
    """'14.4 ms to 57.7 ms'."""
    return f"{show_seconds(interval[0])} to {show_seconds(interval[1])}"


def tokens_per_s(rate: float) -> str:
    """'1768', '93.0' or '3.42': output tokens per second."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def percent(share: float) -> str:
    """'12%', and one digit more below 10%."""
    share = round(share, 3) + 0.0  # no "-0.0%"
    return f"{share:.0%}" if abs(share) >= 0.1 else f"{share:.1%}"


def show_price(price: float) -> str:
    """'12.50' or '0.0123': in the user's own money."""
    return f"{price:.2f}" if price >= 1 else f"{price:.3g}"


def missed_in_words(miss: Miss) -> str:
    """'is 41% over TPOT 9 ms', 'takes 12.7 times TTFT 500 ms'."""
    if miss.what == "rate":
        return f"answers {miss.value:.3g} of {miss.target:g} requests/s"
    target = f"{miss.what.removesuffix('_ms').upper()} {miss.target:g} ms"
    if miss.by < 1:
        return f"is {percent(miss.by)} over {target}"
    return f"takes {miss.value / miss.target:.3g} times {target}"
