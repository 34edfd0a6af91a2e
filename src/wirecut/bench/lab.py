"""`wirecut lab`: TP, PP and DP on this machine's own wires, predicted and then run.

    lab = experiment(parse_wires("shm,1gbit,100mbit"), users=(1, 8), folder=folder)
    for race in lab.races():
        print(race.wire, race.users, race.predicted, race.measured, race.agree)

Imports no torch: the ranks do.
"""

import random
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wirecut.api import pricing_of
from wirecut.bench.lab_facts import Cell, Lab, Spread, Tried
from wirecut.bench.run import traffic_of
from wirecut.bench.testbed import LEAST_BITS_PER_S, MOST_BITS_PER_S, shaped_hosts
from wirecut.cost.estimate import Candidate, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate
from wirecut.engine.engine import Answer, Engine, Prompt
from wirecut.errors import UsageError
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.probe import probe
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Limits
from wirecut.machine.world import RankHost
from wirecut.planner.plan import outcome_of

RANKS = 2
LAYOUTS = (Layout(tp=RANKS), Layout(pp=RANKS), Layout(dp=RANKS))
INPUT_TOKENS, OUTPUT_TOKENS, ROUNDS = 32, 40, 3
WARM_UP_TOKENS = 4
MOST_USERS = 64
UNITS = {"m": 1e6, "g": 1e9}
PROBE_TICKS, RUN_TICKS = 40, 20  # of the progress bar
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class LabWire:
    """A wire to try: "shm" (shared memory) or "loopback" (TCP) between two ranks of this host, or
    a link of `bits_per_s` between two hosts.
    """

    name: str
    bits_per_s: float | None = None


def parse_wires(text: str) -> tuple[LabWire, ...]:
    """'shm,loopback,1gbit,200mbit' as wires. Raises UsageError that names what it cannot read."""
    wires: dict[str, LabWire] = {}
    for name in (part.strip().lower() for part in text.split(",")):
        speed = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([mg])bit", name)
        rate = float(speed[1]) * UNITS[speed[2]] if speed else 0.0
        if LEAST_BITS_PER_S <= rate <= MOST_BITS_PER_S:
            wires[name] = LabWire(name, rate)
        elif name in ("shm", "loopback"):
            wires[name] = LabWire(name)
        else:
            raise UsageError(
                f"--wires has {name!r}, expected shm, loopback, or a speed from 1mbit to 10gbit"
            )
    return tuple(wires.values())


def parse_users(text: str) -> tuple[int, ...]:
    """'1,8' as numbers. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part[:9]) <= MOST_USERS for part in parts):
        raise UsageError(
            f"--users is {text!r}, expected whole numbers from 1 to {MOST_USERS} such as 1,8"
        )
    return tuple(sorted({int(part) for part in parts}))


def experiment(
    wires: Sequence[LabWire],
    *,
    users: Sequence[int],
    folder: Path,
    progress: Progress = lambda done, of, what: None,
) -> Lab:
    """Probe each wire, predict TP, PP and DP over it, and run them. Raises WirecutError."""
    of = len(wires) * (PROBE_TICKS + len(LAYOUTS) * RUN_TICKS)
    own: list[Fabric] = []  # this host as probed: shared memory and loopback at once
    tried: list[Tried] = []
    cells: list[Cell] = []
    left_out: list[str] = []
    for number, wire in enumerate(wires):
        begin = number * (of // len(wires))

        def probing(done: int, steps: int, what: str, wire=wire, begin=begin) -> None:
            progress(begin + PROBE_TICKS * done // max(1, steps), of, f"{wire.name}: {what}")

        with _hosts_of(wire) as hosts:
            if hosts:
                fabric = _probed(probe(hosts=hosts, progress=probing))
            else:
                own = own or [_probed(probe(RANKS, progress=probing))]
                fabric = own[0] if wire.name == "shm" else own[0].only("tcp")
            link = fabric.link(0, 1)
            tried.append(
                Tried(wire.name, link.kind, wire.bits_per_s, 8 * link.bytes_per_s, link.latency_s)
            )
            for i, layout in enumerate(LAYOUTS):
                done = begin + PROBE_TICKS + i * RUN_TICKS
                progress(done, of, f"{wire.name}: {layout}")
                outcome = _try(wire, layout, users, folder, fabric, hosts)
                if isinstance(outcome, str):
                    left_out.append(f"{layout} over {wire.name}: {outcome}")
                else:
                    cells += outcome
    if not cells:
        raise UsageError(f"none of the layouts can run: {'; '.join(left_out)}")
    tried = [each for each in tried if any(cell.wire == each.name for cell in cells)]
    tried.sort(key=lambda each: -each.bits_per_s)
    return Lab(folder.name, tuple(tried), tuple(cells), tuple(left_out))


def _probed(fabric: Fabric | None) -> Fabric:
    """Raises UsageError where a launcher has started this process as one of many."""
    if fabric is None:
        raise UsageError("the lab starts its own ranks: run it without torchrun")
    return fabric


@contextmanager
def _hosts_of(wire: LabWire) -> Iterator[tuple[RankHost, ...]]:
    """Two hosts joined by the wire; none when it is this host's own."""
    if wire.bits_per_s is None:
        yield ()
        return
    names = [f"host{i}" for i in range(RANKS)]
    with shaped_hosts(names, bits_per_s=wire.bits_per_s) as bed:
        yield bed.hosts


def _try(
    wire: LabWire,
    layout: Layout,
    users: Sequence[int],
    folder: Path,
    fabric: Fabric,
    hosts: Sequence[RankHost],
) -> list[Cell] | str:
    """A cell for each number of users; or why this layout cannot run."""
    pricing = pricing_of(folder, fabric)
    room = pricing.engine.in_blocks(INPUT_TOKENS + OUTPUT_TOKENS)
    limits = Limits(kv_tokens=max(users) * room)
    pricing = pricing_of(folder, fabric, limits=limits)
    loads = [prompts(pricing.spec.vocab, count) for count in users]
    guesses: list[Estimate] = []
    for load in loads:
        outcome = outcome_of(pricing, layout, traffic_of(load))
        if not isinstance(outcome, Candidate):
            return outcome.reason
        guesses.append(price(outcome, traffic_of(load)))
    rounds = run_rounds(folder, pricing, guesses[0], loads, limits=limits, hosts=hosts)
    return [
        Cell(
            wire=wire.name,
            layout=str(layout),
            users=count,
            predicted_tpot_s=guess.tpot_s,
            predicted_tokens_per_s=guess.output_tokens_per_s,
            predicted_interval=guess.interval["output_tokens_per_s"],
            tpot_s=Spread.of([_tpot_s(answers) for answers in passed]),
            tokens_per_s=Spread.of([_tokens_per_s(answers) for answers in passed]),
        )
        for count, guess, passed in zip(users, guesses, rounds, strict=True)
    ]


def prompts(vocab: int, count: int, output_tokens: int = OUTPUT_TOKENS) -> list[Prompt]:
    """Prompts of random tokens, the same each time."""
    draw = random.Random(count)
    return [
        Prompt(tuple(draw.randrange(vocab) for _ in range(INPUT_TOKENS)), output_tokens)
        for _ in range(count)
    ]


def run_rounds(
    folder: Path,
    pricing: Pricing,
    guess: Estimate,
    loads: Sequence[Sequence[Prompt]],
    *,
    limits: Limits,
    hosts: Sequence[RankHost],
) -> list[list[list[Answer]]]:
    """Answers by load and round, from one start of the engine: rounds go through the loads in turn,
    after a short one that warms up and is not kept.
    """
    passed: list[list[list[Answer]]] = [[] for _ in loads]
    with Engine(
        folder, guess.cut, pricing.fabric, limits=limits, dtype=pricing.dtype, hosts=hosts
    ) as engine:
        for load in loads:
            engine.generate(prompts(pricing.spec.vocab, len(load), WARM_UP_TOKENS))
        for _ in range(ROUNDS):
            for load, kept in zip(loads, passed, strict=True):
                kept.append(engine.generate(load))
        engine.finish()
    return passed


def _tpot_s(answers: Sequence[Answer]) -> float:
    """Mean over the answers; each has OUTPUT_TOKENS."""
    return statistics.mean(answer.tpot_s or 0.0 for answer in answers)


def _tokens_per_s(answers: Sequence[Answer]) -> float:
    return sum(len(answer.tokens) for answer in answers) / max(a.at_s[-1] for a in answers)
