"""What a reader must know before the choice: where the numbers come from, a target that nothing
meets, a queue that grows.

    for note in notes(plan_file, ranking):
        print(note.text)
"""

from collections.abc import Iterator

from wirecut.cost.terms import Estimate
from wirecut.explain.page import Note
from wirecut.explain.words import fabric_name, listed, wire_name
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import PlanFile
from wirecut.planner.contest import KEEPS_UP, misses
from wirecut.planner.plan import Ranking
from wirecut.units import show_seconds

# What a typed fabric says of wires that were left out, but for NVSwitch, which its devices have.
ASSUMED = tuple(f"{kind} assumed" for kind in ("gbe", "pcie4", "pcie5", "pcie3", "nop2p"))


def notes(plan: PlanFile, ranking: Ranking) -> list[Note]:
    """The notes of a plan, the gravest first."""
    return [
        *_warnings(plan, ranking),
        *_not_run(plan),
        *_origin(plan.fabric, ranking),
        *_fragile(plan.fabric, ranking),
    ]


def _warnings(plan: PlanFile, ranking: Ranking) -> list[Note]:
    """Targets that nothing meets, and by how much the nearest layout misses them."""
    chosen, found = ranking.chosen, list[Note]()
    rate, traffic = chosen.output_tokens_per_s, plan.traffic
    for miss in misses(chosen.ttft_s, chosen.tpot_s, rate, traffic, goal="latency"):
        target = f"{miss.what.removesuffix('_ms').upper()} {miss.target:g} ms"
        nearest = f"{chosen.layout} comes nearest with {miss.value:.3g} ms"
        found.append(Note(f"No layout meets {target}: {nearest}."))
    found += _unsure_targets(plan, ranking.chosen)
    asked = traffic.rate
    if asked is not None and chosen.requests_per_s < asked * KEEPS_UP:
        most = f"{chosen.requests_per_s:.3g} requests/s"
        found.append(Note(f"Cannot keep up: {asked:g} requests/s come, {most} are answered."))
    return found


def _not_run(plan: PlanFile) -> list[Note]:
    """That the engine which is planned for does not run the model, and what to ask instead."""
    if not plan.not_run:
        return []
    return [Note(f"{plan.not_run}. For a runtime that does, plan with `--engine vllm`.")]


def _unsure_targets(plan: PlanFile, chosen: Estimate) -> Iterator[Note]:
    """Targets that are met, and would be missed at the other end of the interval."""
    limits = (
        ("TTFT", "ttft_s", chosen.ttft_s, plan.traffic.ttft_ms),
        ("TPOT", "tpot_s", chosen.tpot_s, plan.traffic.tpot_ms),
    )
    for name, key, seconds, limit in limits:
        high = chosen.interval[key][1]
        if limit is not None and seconds * 1e3 <= limit < high * 1e3:
            known = f"{show_seconds(seconds)} expected, up to {show_seconds(high)} possible"
            yield Note(f"Whether {chosen.layout} meets {name} {limit:g} ms is not sure: {known}.")


def _fragile(fabric: Fabric, ranking: Ranking) -> list[Note]:
    """Assumed numbers that decided, and what would measure them."""
    found: list[Note] = []
    for spot in ranking.fragile:
        names = listed([wire_name(one) if spot.what == "wires" else one for one in spot.names])
        times = (
            f"{spot.factor:.2g} times as fast"
            if spot.factor > 1
            else (f"{1 / spot.factor:.2g} times slower")
        )
        found.append(
            Note(
                f"An assumed number decided: were {names} {times}, {spot.to} would win. "
                f"{_measure(fabric)} measures {'them' if spot.what == 'wires' else 'it'}."
            )
        )
    return found


def _measure(fabric: Fabric) -> str:
    """The command that measures this fabric, and where."""
    assumed = {device.source for device in fabric.devices} == {"assumed"}
    return "`wirecut probe`" if assumed else "`wirecut probe` on that machine"


def _origin(fabric: Fabric, ranking: Ranking) -> list[Note]:
    """Where numbers come from that nobody measured here, and how to have measured ones."""
    devices = {device.source for device in fabric.devices}
    if devices == {"assumed"}:
        return [Note("Numbers are assumed, not measured: `wirecut probe` measures this machine.")]
    if "measured" not in devices:
        figures = f"Figures of {fabric_name(fabric)} are datasheets' and published ones"
        assumed = [note for note in fabric.made.notes if note.endswith(ASSUMED)]
        return [Note("; ".join([figures, "none is measured there", *assumed]) + ".")]
    if any(term.source == "assumed" for term in ranking.chosen.terms):
        return [Note("Some numbers are assumed: `wirecut probe` on that machine measures them.")]
    return []
