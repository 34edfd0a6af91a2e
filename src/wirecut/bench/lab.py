"""`wirecut lab`: TP, PP and DP on this machine's own wires, predicted and then run.

    lab = experiment(parse_wires("shm,1gbit,100mbit"), users=(1, 8), folder=folder)
    for race in lab.races():
        print(race.wire, race.users, race.predicted, race.measured, race.agree)

Imports no torch: the ranks do.
"""

import random
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from wirecut.api import pricing_of
from wirecut.bench.lab_facts import Cell, Lab, Spread, Tried
from wirecut.bench.run import traffic_of
from wirecut.bench.testbed import LEAST_BITS_PER_S, MOST_BITS_PER_S, shaped_hosts
from wirecut.cost.estimate import Candidate, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Answer, Prompt
from wirecut.errors import UsageError
from wirecut.fabric.device import AttentionPoint, MatrixPoint
from wirecut.fabric.fabric import Device, Fabric
from wirecut.fabric.probe import probe
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Limits
from wirecut.machine.world import RankHost
from wirecut.planner.plan import outcome_of

RANKS = 2
LAYOUTS = (Layout(tp=RANKS), Layout(pp=RANKS), Layout(dp=RANKS))
INPUT_TOKENS, OUTPUT_TOKENS = 32, 40
PASSES, ROUNDS = 2, 2  # through all wires, and after each start of the engine
WARM_UP_TOKENS = 4
MOST_USERS = 64
UNITS = {"m": 1e6, "g": 1e9}
PROBE_TICKS, RUN_TICKS = 40, 20  # of the progress bar
Timed = TypeVar("Timed", MatrixPoint, AttentionPoint)
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
    """Probe each wire, predict TP, PP and DP over it, and run them. Raises WirecutError.

    What the devices compute is the median over all probes, and every wire is run in each of PASSES,
    so that a machine that is slower for a minute is so for everyone.
    """
    of = len(wires) * (PROBE_TICKS + PASSES * len(LAYOUTS) * RUN_TICKS)
    fabrics: dict[str, Fabric] = {}
    for number, wire in enumerate(wires):
        begin = number * PROBE_TICKS

        def probing(done: int, steps: int, what: str, wire=wire, begin=begin) -> None:
            progress(begin + PROBE_TICKS * done // max(1, steps), of, f"{wire.name}: {what}")

        fabrics[wire.name] = _probe(wire, fabrics, probing)
    fabrics = _with_median_rates(fabrics)
    trials = [
        Trial(wire, _pricing(folder, fabrics[wire.name], users), layout, users)
        for wire in wires
        for layout in LAYOUTS
    ]
    done = len(wires) * PROBE_TICKS
    for _ in range(PASSES):
        for wire in wires:
            with hosts_of(wire) as hosts:
                for trial in (each for each in trials if each.wire == wire):
                    progress(done, of, f"{wire.name}: {trial.layout}")
                    trial.run(folder, hosts)
                    done += RUN_TICKS
    cells = [cell for trial in trials for cell in trial.cells()]
    left_out = [f"{t.layout} over {t.wire.name}: {t.reason}" for t in trials if t.reason]
    if not cells:
        raise UsageError(f"none of the layouts can run: {'; '.join(left_out)}")
    tried = [_tried(wire, fabrics[wire.name]) for wire in wires]
    tried = [each for each in tried if any(cell.wire == each.name for cell in cells)]
    tried.sort(key=lambda each: -each.bits_per_s)
    return Lab(folder.name, tuple(tried), tuple(cells), tuple(left_out))


def _probe(wire: LabWire, known: dict[str, Fabric], progress: Progress) -> Fabric:
    """The wire as probed. This host's own wires are probed together, once."""
    own = next((known[name] for name in ("shm", "loopback") if name in known), None)
    if wire.bits_per_s is None and own is not None:
        return own
    with hosts_of(wire) as hosts:
        return _probed(
            probe(hosts=hosts, progress=progress) if hosts else probe(RANKS, progress=progress)
        )


def _tried(wire: LabWire, fabric: Fabric) -> Tried:
    link = _over(wire, fabric).link(0, 1)
    return Tried(wire.name, link.kind, wire.bits_per_s, 8 * link.bytes_per_s, link.latency_s)


def _over(wire: LabWire, fabric: Fabric) -> Fabric:
    """The fabric with this wire alone."""
    return fabric.only("shm" if wire.name == "shm" else "tcp")


def _with_median_rates(fabrics: dict[str, Fabric]) -> dict[str, Fabric]:
    """The same fabrics, each device with the median of what all of them measured of it."""
    distinct = list({id(fabric): fabric for fabric in fabrics.values()}.values())
    devices = [_median_device([fabric.devices[i] for fabric in distinct]) for i in range(RANKS)]
    return {
        name: replace(
            fabric,
            devices=tuple(
                replace(rates, host=own.host, cpus=own.cpus, memory_bytes=own.memory_bytes)
                for rates, own in zip(devices, fabric.devices, strict=True)
            ),
        )
        for name, fabric in fabrics.items()
    }


def _median_device(probed: Sequence[Device]) -> Device:
    """Of one device, probed several times with the same points, the median of each number."""

    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    def points(of: Callable[[Device], Sequence[Timed]]) -> tuple[Timed, ...]:
        together = zip(*(of(device) for device in probed), strict=True)
        return tuple(replace(same[0], seconds=middle(p.seconds for p in same)) for same in together)

    first = probed[0]
    return replace(
        first,
        bytes_per_s=middle(d.bytes_per_s for d in probed),
        flops_per_s={t: middle(d.flops_per_s[t] for d in probed) for t in first.flops_per_s},
        launch_s=middle(d.launch_s for d in probed),
        launch_cold_s=middle(d.launch_cold_s for d in probed),
        half_s=middle(d.half_s for d in probed),
        launch_alone_s=middle(d.launch_alone_s or d.launch_s for d in probed),
        points=points(lambda d: d.points),
        alone=points(lambda d: d.alone),
        attention=points(lambda d: d.attention),
    )


def _probed(fabric: Fabric | None) -> Fabric:
    """Raises UsageError where a launcher has started this process as one of many."""
    if fabric is None:
        raise UsageError("the lab starts its own ranks: run it without torchrun")
    return fabric


@contextmanager
def hosts_of(wire: LabWire) -> Iterator[tuple[RankHost, ...]]:
    """Two hosts joined by the wire; none when it is this host's own."""
    if wire.bits_per_s is None:
        yield ()
        return
    names = [f"host{i}" for i in range(RANKS)]
    with shaped_hosts(names, bits_per_s=wire.bits_per_s) as bed:
        yield bed.hosts


def _pricing(folder: Path, fabric: Fabric, users: Sequence[int]) -> Pricing:
    """With KV room for all users. Every round repeats its prompts, which nothing is to remember."""
    pricing = pricing_of(folder, fabric)
    room = pricing.in_blocks(INPUT_TOKENS + OUTPUT_TOKENS)
    return pricing_of(
        folder, fabric, limits=Limits(kv_tokens=max(users) * room, prefix_cache=False)
    )


class Trial:
    """One layout over one wire: what is predicted for each number of users, and what runs show.

    `reason` says why it cannot run, if it cannot.
    """

    def __init__(
        self, wire: LabWire, pricing: Pricing, layout: Layout, users: Sequence[int]
    ) -> None:
        self.wire, self.layout, self.reason = wire, layout, ""
        self._pricing = pricing.over(_over(wire, pricing.fabric))
        self._users = users
        self._loads = [prompts(pricing.spec.vocab, count) for count in users]
        self._guesses: list[Estimate] = []
        self._rounds: list[list[list[Answer]]] = [[] for _ in users]
        for load in self._loads:
            outcome = outcome_of(self._pricing, layout, traffic_of(load))
            if isinstance(outcome, Candidate):
                self._guesses.append(price(outcome, traffic_of(load)))
            else:
                self.reason = outcome.reason

    def run(self, folder: Path, hosts: Sequence[RankHost]) -> None:
        """One start of the engine, ROUNDS through the loads in turn after a short one that warms up
        and is not kept.
        """
        if self.reason:
            return
        pricing = self._pricing
        with Engine(
            folder,
            self._guesses[0].cut,
            pricing.fabric,
            limits=pricing.limits,
            dtype=pricing.dtype,
            hosts=hosts,
        ) as engine:
            for load in self._loads:
                engine.generate(prompts(pricing.spec.vocab, len(load), WARM_UP_TOKENS))
            for _ in range(ROUNDS):
                for load, kept in zip(self._loads, self._rounds, strict=True):
                    kept.append(engine.generate(load))
            engine.finish()

    def cells(self) -> Iterator[Cell]:
        """A cell for each number of users."""
        if self.reason:
            return
        for count, guess, passed in zip(self._users, self._guesses, self._rounds, strict=True):
            yield Cell(
                wire=self.wire.name,
                layout=str(self.layout),
                users=count,
                predicted_tpot_s=guess.tpot_s,
                predicted_tokens_per_s=guess.output_tokens_per_s,
                predicted_interval=guess.interval["output_tokens_per_s"],
                tpot_s=Spread.of([_tpot_s(answers) for answers in passed]),
                tokens_per_s=Spread.of([_tokens_per_s(answers) for answers in passed]),
            )


def prompts(vocab: int, count: int, output_tokens: int = OUTPUT_TOKENS) -> list[Prompt]:
    """Prompts of random tokens, the same each time."""
    draw = random.Random(count)
    return [
        Prompt(tuple(draw.randrange(vocab) for _ in range(INPUT_TOKENS)), output_tokens)
        for _ in range(count)
    ]


def _tpot_s(answers: Sequence[Answer]) -> float:
    """Mean over the answers; each has OUTPUT_TOKENS."""
    return statistics.mean(answer.tpot_s or 0.0 for answer in answers)


def _tokens_per_s(answers: Sequence[Answer]) -> float:
    return sum(len(answer.tokens) for answer in answers) / max(a.at_s[-1] for a in answers)
