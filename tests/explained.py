"""Plans by hand: estimates whose terms a test chooses, in a plan file as `plan` writes it."""

from collections.abc import Mapping, Sequence

import pytest

from fabrics import fabric
from wirecut.cost.terms import Estimate, Kind, Memory, Phase, Rejected, Term, intervals
from wirecut.explain.page import show
from wirecut.fabric.fabric import Fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import FORMAT, Limits, PlanFile
from wirecut.planner.doubt import Fragile
from wirecut.planner.flips import Flip
from wirecut.planner.plan import Elsewhere
from wirecut.planner.plan_file import to_json
from wirecut.spec.traffic import Traffic

GIB = 2**30
TRAFFIC = Traffic(100, 11, concurrency=8)  # a request is TTFT + 10 TPOT
LAYERS = 8

Seconds = Mapping[Kind, float]


def terms(phase: Phase, seconds: Seconds, spread: float) -> list[Term]:
    """A term a kind, called `KIND work`."""
    return [
        Term(f"{kind} work", phase, one, f"{one} by hand", "measured", spread=spread, kind=kind)
        for kind, one in seconds.items()
    ]


def estimate(
    layout: str,
    decode: Seconds,
    prefill: Seconds | None = None,
    *,
    spread: float = 0.1,
    rate: float | None = None,
    placement: tuple[int, ...] | None = None,
    traffic: Traffic = TRAFFIC,
    memory: Memory | None = None,
) -> Estimate:
    """An estimate with these seconds a token and, unless given, a hundred times as many in
    front.
    """
    before = prefill or {kind: 100 * one for kind, one in decode.items()}
    ttft_s, tpot_s = sum(before.values()), sum(decode.values())
    parts = (*terms("prefill", before, spread), *terms("decode", decode, spread))
    grid = parse_layout(layout)
    whole = ttft_s + (traffic.output_tokens - 1) * tpot_s
    tokens = rate or (traffic.concurrency or 1) * traffic.output_tokens / whole
    step = LAYERS // grid.pp
    return Estimate(
        layout=layout,
        placement=placement or tuple(range(grid.world_size)),
        stages=tuple((i * step, (i + 1) * step) for i in range(grid.pp)),
        memory=memory or Memory(30 * GIB, 2 * GIB, GIB, 48 * GIB, 9000, GIB // 2),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        output_tokens_per_s=tokens,
        requests_per_s=tokens / traffic.output_tokens,
        bubble_fraction=0.0,
        running=4,
        interval=intervals(parts, output_tokens=traffic.output_tokens, output_tokens_per_s=tokens),
        terms=parts,
    )


def plan_of(
    *ranked: Estimate,
    wires: Fabric | None = None,
    goal: str = "latency",
    traffic: Traffic = TRAFFIC,
    rejected: Sequence[Rejected] = (),
    flips: Sequence[Flip] = (),
    fragile: Sequence[Fragile] = (),
    prices: Mapping[str, float] | None = None,
    elsewhere: Sequence[Elsewhere] = (),
    model: str = "/models/tiny",
) -> PlanFile:
    """A plan file with that ranking."""
    return PlanFile(
        format=FORMAT,
        version="0",
        model=model,
        dtype="bf16",
        goal=goal,
        engine="vllm",
        traffic=traffic,
        limits=Limits(),
        fabric=wires or fabric(8),
        chosen=to_json(ranked[0]),
        ranking=[to_json(one) for one in ranked],
        rejected=[to_json(one) for one in rejected],
        flips=[to_json(one) for one in flips],
        fragile=[to_json(one) for one in fragile],
        prices=dict(prices or {}),
        elsewhere=[to_json(one) for one in elsewhere],
    )


TP2 = estimate("tp2", {"memory": 6e-3, "all-reduce": 1.5e-3, "overhead": 0.5e-3})
PP2 = estimate("pp2", {"memory": 6e-3, "hand-off": 0.1e-3, "bubble": 5e-3, "overhead": 0.5e-3})
TP1 = estimate("tp1", {"memory": 12e-3, "compute": 0.2e-3, "overhead": 0.5e-3})


def printed(blocks, capsys: pytest.CaptureFixture[str]) -> str:
    show(blocks)
    return capsys.readouterr().out


def words(text: str) -> str:
    return " ".join(text.split())
