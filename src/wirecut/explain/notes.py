"""What a reader must know before the choice: where the numbers come from, a target that nothing
meets, a queue that grows.

    for note in notes(plan_file, ranking):
        print(note.text)
"""

from wirecut.explain.page import Note
from wirecut.explain.words import targets_in_words
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import PlanFile
from wirecut.planner.contest import TIE, meets_targets
from wirecut.planner.plan import Ranking


def notes(plan: PlanFile, ranking: Ranking) -> list[Note]:
    """The notes of a plan, the gravest first."""
    return [*_warnings(plan, ranking), *_origin(plan.fabric, ranking)]


def _warnings(plan: PlanFile, ranking: Ranking) -> list[Note]:
    chosen, found = ranking.chosen, list[Note]()
    if not meets_targets(chosen.ttft_s, chosen.tpot_s, plan.traffic):
        limits = targets_in_words(plan.traffic)
        found.append(Note(f"No layout meets {limits}: {chosen.layout} comes nearest."))
    asked = plan.traffic.rate
    if asked is not None and chosen.requests_per_s < asked * (1 - TIE):
        most = f"{chosen.requests_per_s:.3g} requests/s"
        found.append(Note(f"Cannot keep up: {asked:g} requests/s come, {most} are answered."))
    return found


def _origin(fabric: Fabric, ranking: Ranking) -> list[Note]:
    """Where numbers come from that nobody measured here, and how to have measured ones."""
    how, sources = fabric.made.how, {term.source for term in ranking.chosen.terms}
    if how.startswith("typed: "):
        return [
            Note(
                "Figures of devices and wires are datasheets' and published ones for "
                f"{how.removeprefix('typed: ')}, none is measured there."
            )
        ]
    if {device.source for device in fabric.devices} == {"assumed"}:
        return [Note("Numbers are assumed, not measured: `wirecut probe` measures this machine.")]
    if "assumed" in sources:
        return [Note("Some numbers are assumed: `wirecut probe` on that machine measures them.")]
    return []
