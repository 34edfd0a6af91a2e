"""The same question on other wires: one of the kinds that there are alone, or wires that such
devices are sold with.

    list(wire_flips(field, pricing))    # [Flip("wires inside", "nvswitch", ..., to="tp8")]
"""

from collections.abc import Iterator

from wirecut.cost.estimate import Candidate
from wirecut.cost.replica import Pricing
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.rewire import other_wires, rewired
from wirecut.planner.field import Field
from wirecut.planner.flips import Flip, used_link
from wirecut.planner.search import outcomes


def wire_flips(field: Field, pricing: Pricing) -> Iterator[Flip]:
    """Which layout would win if only another kind of wire were used, of those that join every
    joined pair; and on other wires that such devices are sold with.
    """
    fabric = pricing.fabric
    for kind in _other_kinds(fabric, field.chosen):
        if best := _best_on(field, pricing.over(fabric.only(kind))):
            yield Flip("wire", kind, "kind", str(best[0].cut.layout), wire=kind)
    for where, word in other_wires(fabric):
        if best := _best_on(field, pricing.over(rewired(fabric, where, word))):
            what = "wires inside" if where == "inside" else "wires between"
            yield Flip(what, word, "kind", str(best[0].cut.layout), times=best[1])


def _best_on(field: Field, other: Pricing) -> tuple[Candidate, float] | None:
    """The best of the layouts that are good on slow, these or fast wires, and how many times as
    good as the chosen one here.
    """
    layouts = dict.fromkeys(one.cut.layout for one in field.few.candidates)
    found = [one for layout in layouts for one in outcomes(other, layout, field.traffic)]
    works = [one for one in found if isinstance(one, Candidate)]
    if not works:
        return None
    contest = field.whole.among(works)
    winner = contest.winner(field.traffic)
    there, here = (contest.place(one, field.traffic).score for one in (winner, field.chosen))
    return winner, here / there


def _other_kinds(fabric: Fabric, chosen: Candidate) -> list[str]:
    """Kinds of wire that join every joined pair of devices and that the chosen layout does not
    use.
    """
    if fabric.trunks:
        return []
    pairs = {(min(k.a, k.b), max(k.a, k.b)) for k in fabric.links}
    used = used_link(fabric, chosen) or (fabric.link(*min(pairs)) if pairs else None)
    return [
        kind
        for kind in fabric.wire_kinds
        if used is not None
        and kind != used.kind
        and {(min(k.a, k.b), max(k.a, k.b)) for k in fabric.links if k.kind == kind} == pairs
    ]
