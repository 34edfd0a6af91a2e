"""Key-value groups to the ranks of a TP group whose devices are not equally fast.

shares_for(pricing, Layout(tp=2), (0, 1))        # (5, 3) of 8 groups, or () where alike is best
"""

from wirecut.cost.replica import Pricing
from wirecut.layout.layout import Layout
from wirecut.layout.rules import why_not_shares
from wirecut.planner.place import ALIKE


def shares_for(pricing: Pricing, layout: Layout, placement: tuple[int, ...]) -> tuple[int, ...]:
    """Whole groups for each rank such that the one that streams its part slowest is fastest; ()
    where that is what even dealing gives, and for engines that deal evenly.

    A rank's device is the slowest that has its place in any TP group.
    """
    groups = {layer.mixer.groups for layer in pricing.spec.kinds if layer.mixer}
    if not pricing.engine.rules.uneven_tp or layout.tp == 1 or len(groups) != 1:
        return ()
    whole, devices, tp = groups.pop(), pricing.fabric.devices, layout.tp
    speeds = [min(devices[i].bytes_per_s for i in placement[rank::tp]) for rank in range(tp)]
    if whole < tp or max(speeds) < (1 + ALIKE) * min(speeds):
        return ()
    shares = deal(whole, speeds)
    if len(set(shares)) == 1 or why_not_shares(pricing.spec, layout, shares):
        return ()
    return shares


def deal(groups: int, speeds: list[float]) -> tuple[int, ...]:
    """`groups` dealt to ranks of these speeds, at least one each, for the least largest share /
    speed: each group to the rank that is least late with one more.
    """
    shares = [1] * len(speeds)
    for _ in range(groups - len(speeds)):
        late = [(share + 1) / speed for share, speed in zip(shares, speeds, strict=True)]
        shares[late.index(min(late))] += 1
    return tuple(shares)
