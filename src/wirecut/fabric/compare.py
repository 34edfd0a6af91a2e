"""Devices and wires that were measured slower than their like.

diagnose_measured(fabric)       # (Finding("slow", "wire 4-5 (PCIe 4): 9.8 GB/s, ..."),)
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from wirecut.fabric.diagnose import SLOWER
from wirecut.fabric.fabric import Device, Fabric, Finding, Link
from wirecut.fabric.wires import words_for
from wirecut.units import show_flops, show_rate


def diagnose_measured(fabric: Fabric) -> tuple[Finding, ...]:
    """Devices and wires that were measured more than 15 % slower than their like.

    Wires are alike when kind and path are, and both are inside a host or both between hosts; their
    like is the median, of two the faster. A wire whose repetitions spread by more is left alone.
    """
    return (*_slow_devices(fabric.devices), *_slow_wires(fabric))


def _slow_devices(devices: Sequence[Device]) -> Iterator[Finding]:
    alike: dict[str, list[Device]] = defaultdict(list)
    for device in devices:
        if device.source == "measured":
            alike[device.name].append(device)
    for group in alike.values():
        rates: dict[str, tuple[dict[int, float], Callable[[float], str]]] = {
            "memory": ({d.id: d.bytes_per_s for d in group}, show_rate)
        }
        for dtype in dict.fromkeys(dtype for d in group for dtype in d.flops_per_s):
            known = {d.id: d.flops_per_s[dtype] for d in group if dtype in d.flops_per_s}
            rates[dtype] = (known, show_flops)
        for what, (values, show) in rates.items():
            like = _like(list(values.values()))
            for number, value in values.items():
                if value < (1 - SLOWER) * like:
                    yield Finding(
                        "slow",
                        f"device {number}: {what} {show(value)}, {len(values) - 1} like it "
                        f"{show(like)}: {1 - value / like:.0%} slower",
                        "look at its temperature, power cap, clocks and at who else uses it; a "
                        "tensor-parallel group waits for its slowest",
                        (number,),
                    )


def _slow_wires(fabric: Fabric) -> Iterator[Finding]:
    alike: dict[tuple[str, str, bool], list[Link]] = defaultdict(list)
    for link in fabric.links:
        if link.source == "measured":
            inside = fabric.devices[link.a].host == fabric.devices[link.b].host
            alike[link.kind, link.path, inside].append(link)
    for (kind, path, _), group in alike.items():
        like = _like([link.bytes_per_s for link in group])
        slow = [k for k in group if k.bytes_per_s < (1 - max(SLOWER, k.spread)) * like]
        words = words_for(kind) + (f" ({path})" if path else "")
        culprit = _common_end(slow, group)
        if culprit is not None:
            worst = median(link.bytes_per_s for link in slow)
            yield Finding(
                "slow",
                f"device {culprit}: all {len(slow)} of its wires of {words} at {show_rate(worst)}, "
                f"those of others {show_rate(like)}: {1 - worst / like:.0%} slower",
                "its slot, bridge or card: compare PCIe width and NVLink state with a good one's",
                (culprit,),
            )
            continue
        for link in slow:
            yield Finding(
                "slow",
                f"wire {link.a}-{link.b} ({words}): {show_rate(link.bytes_per_s)}, its like "
                f"{show_rate(like)}: {1 - link.bytes_per_s / like:.0%} slower",
                "cable, bridge or slot of this pair, or other traffic while it was measured: "
                "`wirecut probe` again",
                (link.a, link.b),
            )


def _like(values: Sequence[float]) -> float:
    """What is usual: the median, of two the greater; 0 where there is nothing to compare with."""
    if len(values) < 2:
        return 0.0
    return max(values) if len(values) == 2 else median(values)


def _common_end(slow: Sequence[Link], group: Sequence[Link]) -> int | None:
    """The device that all slow wires end at, when all its wires are slow and there are several."""
    if len(slow) < 2:
        return None
    ends = {slow[0].a, slow[0].b}
    for link in slow:
        ends &= {link.a, link.b}
    of_end = {end: sum(1 for k in group if end in (k.a, k.b)) for end in ends}
    return next((end for end, count in of_end.items() if count == len(slow)), None)
