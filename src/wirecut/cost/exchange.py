"""Tokens to their experts and back, where replicas share experts (EP with DP).

    tokens = Tokens(rows=64, top_k=8, experts=256, holders=8)
    dispatch, combine = exchange_prices(fabric, range(8), tokens, 7168, 14336, exchange="deepep")

Ways, by runtime: all tokens to all ranks (all-gather, reduce-scatter), a plain all-to-all of what
is routed, or kernels made for it. Their constants are fitted to measured dispatch and combine;
benchmarks/dispatch.md says how well, also where a device had no part in the fit.
"""

import math
from collections.abc import Iterator, Sequence

from wirecut.cost.algorithms import Leg, Way
from wirecut.cost.collectives import Price, collective_price
from wirecut.cost.forward import Batch
from wirecut.cost.kernels_experts import rank_load
from wirecut.cost.lanes import Lane, Wiring, wiring_of
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.terms import half_width
from wirecut.cost.wire import PICK_BYTES, routed_layers
from wirecut.errors import UsageError
from wirecut.fabric.fabric import Fabric
from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.spec.feedforward import Moe
from wirecut.spec.formats import element_bits, kind_of
from wirecut.units import DTYPE_BYTES

NVLINKS = ("nvswitch", "nvlink")
RDMA = ("ib", "roce")


@fact
class Tokens:
    """What one rank exchanges: `rows` tokens, each for `top_k` of `experts`, which are dealt over
    `holders` sets of ranks (EP). `load`: rows of the busiest rank over the mean rank's.
    """

    rows: float
    top_k: int
    experts: int
    holders: int
    load: float = 1.0

    def reached(self, parts: int) -> float:
        """Expected number of `parts` equal parts of the experts that have one of a token's: of
        C(E, k) choices, C(E - E / parts, k) leave a part out (hypergeometric).
        """
        others = self.experts * (1 - 1 / parts)
        if others < self.top_k:
            return float(parts)
        log = _log_choices(others, self.top_k) - _log_choices(self.experts, self.top_k)
        return parts * -math.expm1(log)


def _log_choices(of: float, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(of - chosen + 1)


@fact
class Half:
    """One direction of a kernel. Its start in latencies of the wire: `start`, `hop` more for each
    doubling of the ranks in a box, `net_hop` of the network for each doubling of the boxes. `share`
    of a rank's rate that it reaches, `net_share` of the network's. The SMs that it takes move
    `most_bytes_per_s` of copies, own ones too, and `head_bytes` is what each costs them besides.
    """

    start: float
    hop: float
    net_hop: float
    share: float
    net_share: float = 1.0
    most_bytes_per_s: float = math.inf
    head_bytes: float = 0.0


@fact
class Kernel:
    """One kernel. `every_pick`: a copy for every expert of a token, else one for every rank that
    has any of them and, over a network, one for every box. `most_rows` of a rank that its buffers
    hold; `networks`: it leaves the box.
    """

    name: str
    dispatch: Half
    combine: Half
    every_pick: bool = False
    most_rows: float = math.inf
    networks: bool = True


@fact
class Exchange:
    """How a runtime does it: the best of `kernels` that runs over the wires, none where ranks share
    an expert between them; else a plain all-to-all where it is `sparse`, else all tokens to all
    ranks. Tokens for weights of the kinds in `formats` go out in that format, not as activations.
    `sums`: what comes back is summed over the TP ranks, each of which sent its part of the rows.
    """

    name: str
    kernels: tuple[Kernel, ...] = ()
    sparse: bool = False
    sums: bool = False
    formats: tuple[str, ...] = ()


# DeepEP with its usual 20 SMs, and its kernels for decoding, which send at once for every pick;
# 128 rows is what SGLang gives their buffers. A rail carries 1.1 of what send and receive reach.
DEEPEP = Kernel(
    "DeepEP",
    Half(4.1, 0.0, 1.9, 1.0, 1.1, 375e9, 2800),
    Half(5.4, 0.0, 2.2, 1.0, 1.1, 345e9, 1500),
)
DEEPEP_LL = Kernel(
    "DeepEP low latency",
    Half(1.9, 0.0, 0.37, 0.72, 1.1),
    Half(1.9, 0.0, 0.38, 0.76, 1.1),
    every_pick=True,
    most_rows=128,
)
# TensorRT-LLM's over NVLink: every rank writes into the others' memory.
ONE_SIDED = Kernel(
    "one-sided", Half(1.37, 0.19, 0.0, 1.0), Half(1.25, 0.4, 0.0, 1.0), networks=False
)
EXCHANGES = {
    exchange.name: exchange
    for exchange in (
        Exchange("all-gather"),
        Exchange("all-to-all", sparse=True, sums=True),
        Exchange("deepep", (DEEPEP, DEEPEP_LL), formats=("fp8",)),
        Exchange("one-sided", (ONE_SIDED, DEEPEP, DEEPEP_LL), formats=("nvfp4",)),
    )
}


def exchange_of(name: str) -> Exchange:
    """A way of exchange by its name. Raises UsageError that lists the names."""
    try:
        return EXCHANGES[name]
    except KeyError:
        raise UsageError(f"no exchange {name!r}; there are {', '.join(EXCHANGES)}") from None


def exchange_prices(
    fabric: Fabric,
    group: Sequence[int],
    tokens: Tokens,
    sent_bytes: float,
    back_bytes: float,
    *,
    exchange: str | Exchange = "all-gather",
    at_once: int = 1,
    library: str | None = None,
) -> tuple[Price, Price]:
    """Dispatch and combine of one layer over `group`, which ends when the busiest rank has all.

    A token is `sent_bytes` on its way to the experts and `back_bytes` on the way back; `at_once`
    groups like this one exchange together. Raises FabricError when devices that must talk have no
    link, UsageError for an unknown exchange.
    """
    if len(group) < 2:
        free = Price(0.0, lambda: "one rank", "measured", 0.0)
        return free, free
    chosen = exchange_of(exchange) if isinstance(exchange, str) else exchange
    wiring = wiring_of(fabric, group, at_once=at_once)
    by_kernel = [
        (
            kernel_way(kernel, kernel.dispatch, wiring, tokens, sent_bytes),
            kernel_way(kernel, kernel.combine, wiring, tokens, back_bytes),
        )
        for kernel in chosen.kernels
        if _runs(kernel, wiring, tokens)
    ]
    if by_kernel:
        there, back = min(by_kernel, key=lambda both: both[0].seconds + both[1].seconds)
        return _price(there, wiring.slowest), _price(back, wiring.slowest)

    def collective(op: str, num_bytes: float) -> Price:
        return collective_price(fabric, op, group, num_bytes, at_once=at_once, library=library)  # type: ignore[arg-type]

    if chosen.sparse:
        copies = tokens.rows * tokens.load * _copies(tokens, len(group))
        return (
            collective("all_to_all", copies * (sent_bytes + tokens.top_k * PICK_BYTES)),
            collective("all_to_all", copies * back_bytes),
        )
    rows = tokens.rows * len(group)
    return (
        collective("all_gather", rows * sent_bytes),
        collective("reduce_scatter", rows * back_bytes),
    )


def _runs(kernel: Kernel, wiring: Wiring, tokens: Tokens) -> bool:
    inside = wiring.inside is None or wiring.inside.kind in NVLINKS
    across = wiring.across is None or (kernel.networks and wiring.across.kind in RDMA)
    whole = tokens.holders == wiring.ranks
    return inside and across and whole and tokens.rows <= kernel.most_rows


def _price(way: Way, slowest: Lane) -> Price:
    source = slowest.source
    spread = max(half_width(source, slowest.spread), half_width("published"))
    return Price(way.seconds, way.__str__, source, spread)


def copies_sent(pricing: Pricing, layout: Layout, tokens: int) -> float:
    """Rows that one replica's tokens are expected to hand to the exchange in all routed layers: one
    for each rank that a token goes to, where only what is routed is sent.
    """
    layers = routed_layers(pricing.spec, layout)
    moe = next((layer.mlp for layer in layers if isinstance(layer.mlp, Moe)), None)
    if moe is None:
        return 0.0
    each = 1.0
    if exchange_of(pricing.engine.exchange).sparse:
        one = Tokens(1, moe.top_k, moe.experts, layout.ep)
        each = _copies(one, layout.dp * layout.tp)
    return tokens * each * sum(layers.values())


def _copies(tokens: Tokens, ranks: int) -> float:
    """Ranks that a token goes to: all those that hold a part of one of its experts."""
    return tokens.reached(tokens.holders) * ranks / tokens.holders


def kernel_way(kernel: Kernel, half: Half, wiring: Wiring, tokens: Tokens, row_bytes: float) -> Way:
    """One direction by one kernel: inside the boxes and between them at once.

    What a rank sends inside, and what its whole box sends out; a rank's own copies stay.
    """
    boxes, box_ranks, rows = wiring.boxes, wiring.box_ranks, tokens.rows * tokens.load
    each = row_bytes + half.head_bytes
    if kernel.every_pick:
        copies, out = float(tokens.top_k), tokens.top_k * (boxes - 1) / boxes
        inside = copies * (box_ranks - 1) / wiring.ranks
    else:
        copies, out = _copies(tokens, wiring.ranks), tokens.reached(boxes) * (boxes - 1) / boxes
        inside = copies * (box_ranks - 1) / box_ranks
    near = wiring.inside or wiring.across
    assert near is not None
    start_s = near.latency_s * (half.start + half.hop * math.log2(box_ranks))
    handled = rows * (copies + out) * each  # what comes from another box is sent on inside this one
    legs = [Leg(handled, half.most_bytes_per_s, f"{kernel.name}'s SMs")]
    if wiring.inside is not None:
        legs.append(Leg(rows * inside * row_bytes, half.share * near.bytes_per_s, near.kind))
    if wiring.across is not None:
        far = wiring.across
        start_s += far.latency_s * half.net_hop * math.log2(boxes)
        leaves = rows * box_ranks * out * row_bytes
        legs.append(Leg(leaves, half.net_share * far.bytes_per_s, far.kind))
    return Way(kernel.name, start_s, tuple(legs), at_once=True)


def expert_exchange(replica: Replica, index: int, batch: Batch) -> Iterator[tuple[str, Price]]:
    """Dispatch and combine of one routed layer of a stage, by name, as the runtime does them."""
    stage, pricing, layout = replica.stages[index], replica.pricing, replica.cut.layout
    routed = next(work.routed for work, _ in stage.works if work.routed)
    exchange, size = exchange_of(pricing.engine.exchange), DTYPE_BYTES[pricing.dtype]
    sent = size
    if kind_of(routed.format) in exchange.formats:
        sent = element_bits(routed.format) / 8
    tokens = Tokens(
        rows=batch.rows / layout.tp,
        top_k=routed.top_k,
        experts=routed.experts,
        holders=layout.ep,
        load=rank_load(routed.experts, routed.here),
    )
    prices = exchange_prices(
        pricing.fabric,
        stage.expert_group,
        tokens,
        routed.hidden * sent,
        routed.hidden * size,
        exchange=exchange,
        at_once=layout.pp,
        library=pricing.engine.library,
    )
    return zip(("dispatch", "combine"), prices, strict=True)
