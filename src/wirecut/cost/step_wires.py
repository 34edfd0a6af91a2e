"""The wires of one forward: sums over TP, gathers, experts' exchange, hand-offs between stages.

wires(replica, 0, batch)          # of the first stage: names, calls, prices
between(replica, batch)           # hand-offs, and the tokens' way back
"""

from collections.abc import Sequence
from functools import partial

from wirecut.cost.collectives import Price, collective_price, gather_price, send_price
from wirecut.cost.exchange import exchange_of, expert_exchange
from wirecut.cost.forward import Batch, Piece
from wirecut.cost.replica import Replica
from wirecut.cost.terms import Kind
from wirecut.facts import fact
from wirecut.layout.shards import padded_vocab
from wirecut.units import DTYPE_BYTES


@fact
class Line:
    """Calls of one stage's group: how many, and the price of one."""

    name: str
    kind: Kind
    calls: int
    price: Price

    @property
    def seconds(self) -> float:
        return self.calls * self.price.seconds


def wires(replica: Replica, index: int, batch: Batch) -> list[Line]:
    """What one stage's ranks say to each other in a forward."""
    stage, layout = replica.stages[index], replica.cut.layout
    routed = sum(count for work, count in stage.works if work.routed)
    found: list[Line] = []
    apart = 0  # layers without a sum over TP
    if layout.shares_experts and routed:
        apart = 0 if exchange_of(replica.pricing.engine.exchange).sums else routed
        exchanged = expert_exchange(replica, index, batch)
        found = [Line(name, "all-to-all", routed, price) for name, price in exchanged]
    if layout.tp > 1:
        reduces = sum(count * work.reduces for work, count in stage.works)
        calls = reduces - apart + (1 if index == 0 else 0)
        found += _tp_lines(replica, index, batch, calls)
    return found


def _at_once(replica: Replica, batch: Batch) -> int:
    tp = replica.cut.layout.tp
    return max(1, batch.busy // tp) if batch.busy else replica.groups_at_once


def _tp_lines(replica: Replica, index: int, batch: Batch, calls: int) -> list[Line]:
    stage, pricing = replica.stages[index], replica.pricing
    size, fabric, library = DTYPE_BYTES[pricing.dtype], pricing.fabric, pricing.engine.library
    at_once = _at_once(replica, batch)
    price = collective_price(
        fabric,
        "all_reduce",
        stage.group,
        batch.rows * pricing.spec.hidden * size,
        at_once=at_once,
        library=library,
    )
    found = [Line("all-reduce", "all-reduce", calls, price)]
    if index == len(replica.stages) - 1 and batch.logit_rows:
        logits = batch.logit_rows * padded_vocab(pricing.spec.vocab, len(stage.group)) * size
        gathers = min(at_once, replica.cut.layout.dp)  # only last stages gather
        price = gather_price(fabric, stage.group, logits, at_once=gathers, library=library)
        found.append(Line("logits gather", "all-reduce", 1, price))
    if index == 0:
        link = fabric.slowest_link(stage.group)
        price = send_price(fabric, link, pricing.engine.message_bytes)
        found.append(Line("step message", "all-reduce", 1, price))
    return found


def wire_pieces(by_stage: Sequence[Sequence[Line]]) -> list[Piece]:
    """The lines of all stages by name."""
    pieces: list[Piece] = []
    names = dict.fromkeys(line.name for stage in by_stage for line in stage)
    for name in names:
        found = [line for stage in by_stage for line in stage if line.name == name]
        calls, seconds = sum(line.calls for line in found), sum(line.seconds for line in found)
        slowest = max(found, key=lambda line: line.price.seconds)
        price = slowest.price
        words = partial(_times, calls, price)
        pieces.append(Piece(name, seconds, words, price.source, price.spread, slowest.kind))
    return pieces


def between(replica: Replica, batch: Batch) -> tuple[list[Price], Price | None]:
    """Hand-offs between stages, and the way of the tokens back to the first stage's first rank.

    Other runtimes send each TP rank's slice apart and gather them behind the boundary.
    """
    pricing = replica.pricing
    if not replica.boundaries:
        return [], None
    layout, engine = replica.cut.layout, pricing.engine
    num_bytes = batch.rows * pricing.spec.hidden * DTYPE_BYTES[pricing.dtype]
    num_bytes *= engine.batching.handoffs
    slices = layout.tp if engine.batching.handoffs > 1 else 1
    handoffs: list[Price] = []
    for index, link in enumerate(replica.boundaries):
        price = send_price(pricing.fabric, link, num_bytes / slices, at_once=layout.dp * slices)
        if slices > 1:
            price = _with_gather(replica, index + 1, price, num_bytes)
        handoffs.append(price)
    first, last = replica.stages[0].group[0], replica.stages[-1].group[0]
    link = pricing.fabric.link(last, first)
    return handoffs, send_price(pricing.fabric, link, engine.message_bytes)


def _with_gather(replica: Replica, stage: int, price: Price, num_bytes: float) -> Price:
    pricing = replica.pricing
    gather = collective_price(
        pricing.fabric,
        "all_gather",
        replica.stages[stage].group,
        num_bytes,
        at_once=replica.groups_at_once,
        library=pricing.engine.library,
    )

    def words() -> str:
        return f"{price.because}, and gather: {gather.because}"

    return Price(price.seconds + gather.seconds, words, price.source, price.spread)


def between_pieces(handoffs: Sequence[Price], back: Price | None) -> list[Piece]:
    """Hand-offs and return, which stand in full on a token's way."""
    if back is None:
        return []
    slowest = max(handoffs, key=lambda price: price.seconds)
    seconds = sum(price.seconds for price in handoffs)
    words = partial(_times, len(handoffs), slowest)
    kind: Kind = "hand-off"
    return [
        Piece("hand-off", seconds, words, slowest.source, slowest.spread, kind, True),
        Piece("tokens back", back.seconds, back.words, back.source, back.spread, kind, True),
    ]


def _times(calls: int, price: Price) -> str:
    return f"{calls} x {price.because}"
