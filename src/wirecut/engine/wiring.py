"""Gives each rank its wires: the groups that it is in, on what `wired` chose to carry them.

Every rank walks through all groups in the same order, so that places in shared memory and process
groups agree; it keeps the ones that it is in. Ranks of one host meet in shared memory, others
through sockets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from wirecut.engine.comm import Comm, HandOff, SharedHandOff, SocketHandOff
from wirecut.engine.exchange import ExpertComm
from wirecut.engine.rounds import PairsGather, Rounds
from wirecut.engine.talk import SharedBytes, SocketBytes
from wirecut.engine.trace import Log, Off, What, watch, watch_inside
from wirecut.engine.wired import Wired, leader_ranks, replica_ranks, sums_in_one_host
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Limits
from wirecut.machine.clock import clock_ahead
from wirecut.machine.mailbox import Mailbox
from wirecut.machine.nic import address_towards
from wirecut.machine.pipes import Pipe, Pipes
from wirecut.machine.shm import CACHE_LINE, DEADLINE_S, Arena, ShmGroup
from wirecut.machine.sizes import LARGEST_SLOT
from wirecut.machine.sockets import Line, TorchGroup, TorchPair, join, meet
from wirecut.machine.symmetric import MOST_SYMMETRIC, TorchMemory, over
from wirecut.units import KIB

STAGE_DEADLINE_S = 600.0  # another stage computes meanwhile: minutes for a long prompt on CPUs
# Room in a step's MessagePack: an id of a token or a block is at most 5 bytes, an entry's other
# fields at most 45 as a rule, and a block holds more than 16 tokens. Steps with more go in pieces:
# blocks that several requests share are told for each, and penalties need all tokens so far.
STEP_BYTES, STEP_BYTES_PER_TOKEN, STEP_BYTES_PER_SEQ = 4096, 12, 256
STEP_BYTES_PER_KV_TOKEN = 5 / 16
# What is timed of each wire.
WATCHED: dict[str, dict[str, What]] = {
    "tp": {"all_reduce": "all-reduce", "gather": "logits gather"},
    "experts": {"all_to_all_rows": "rows to experts"},
    "leaders": {"all_gather": "wait for other replicas"},
    "incoming": {"receive": "receive from the stage before"},
    "outgoing": {"send": "send to the next stage"},
    "steps": {"receive": "wait for a step"},
    "tokens": {"receive": "wait for tokens"},
}
WATCHED_INSIDE: dict[str, What] = {"run": "all-reduce"}  # of native code


@dataclass(frozen=True, slots=True)
class Wires:
    """Everything that one rank talks through. `steps` and `tokens` are None in a replica of one
    rank or stage. `rounds` is for the first rank of a replica. `clock_ahead_ns`: what its host's
    clock is ahead of that of rank 0's.
    """

    tp: Comm
    experts: ExpertComm
    rounds: Rounds
    incoming: HandOff | None
    outgoing: HandOff | None
    steps: SharedBytes | SocketBytes | None
    tokens: SharedBytes | SocketBytes | None
    clock_ahead_ns: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one token's hidden state, of its logits on one rank of a TP group, and of what goes
    back with a sampled token.
    """

    row_bytes: int
    logits_bytes: int
    sampled_bytes: int


def shared_bytes(layout: Layout, wired: Wired, limits: Limits, sizes: Sizes) -> int:
    """Bytes of shared memory that `connect` will take; most of it is never touched."""
    arena = Arena(None)
    shape = _Shape(layout, wired, limits, sizes, crowded=True)
    list(_shared_parts(arena, shape, None))
    return arena.used


def connect(
    layout: Layout,
    wired: Wired,
    limits: Limits,
    sizes: Sizes,
    *,
    rank: int,
    arena: Arena,
    crowded: bool,
    log: Log | Off,
    master: tuple[str, int] | None,
    neighbours: tuple[int, ...],
) -> Wires:
    """The wires of `rank`, whose calls `log` times; `neighbours` are the ranks of its host.
    Collective: every rank of the job calls it at the same time.
    """
    shape = _Shape(layout, wired, limits, sizes, crowded)
    parts = dict(_shared_parts(arena, shape, rank))
    ahead_ns = 0
    if wired.backend:
        world = {"rank": rank, "num_ranks": layout.world_size}
        store = meet(**world, port_box=parts["port"], master=master)
        join(store, **world, backend=wired.backend)
        names = [f"rank {each}" for each in range(layout.world_size)]
        line = Line(store, names, rank)
        pipes = Pipes(line, address=address_towards(master[0]) if master else "127.0.0.1")
        ahead_ns = clock_ahead(line, pipes, neighbours)
        parts |= _socket_parts(shape, rank, pipes)
        pipes.close()
        if sums_in_one_host(layout, wired, rank, neighbours):
            nccl = cast(TorchGroup, parts["tp"])
            most_bytes = min(MOST_SYMMETRIC, shape.budget_bytes)
            parts["tp"] = over(nccl, TorchMemory(), most_bytes=most_bytes)
    parts |= {
        name: watch(parts[name], log, calls) for name, calls in WATCHED.items() if name in parts
    }
    native = watch_inside(parts.get("native tp"), log, WATCHED_INSIDE)
    return Wires(
        tp=Comm(parts.get("tp"), native),
        experts=ExpertComm(
            layout,
            index=layout.stage_ranks(layout.coord(rank)["pp"]).index(rank),
            transport=parts.get("experts"),
        ),
        rounds=Rounds(parts.get("leaders")),
        incoming=parts.get("incoming"),
        outgoing=parts.get("outgoing"),
        steps=parts.get("steps"),
        tokens=parts.get("tokens"),
        clock_ahead_ns=ahead_ns,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    layout: Layout
    wired: Wired
    limits: Limits
    sizes: Sizes
    crowded: bool

    @property
    def budget_bytes(self) -> int:
        """Hidden states of a step that is full."""
        return self.limits.max_batched_tokens * self.sizes.row_bytes

    @property
    def slot_bytes(self) -> int:
        """A slot of a collective: a gather needs room for the logits of at least one token."""
        return max(64 * KIB, self.sizes.logits_bytes, min(LARGEST_SLOT, self.budget_bytes))

    @property
    def tokens_bytes(self) -> int:
        """What the last stage says of a step: at most a token for every running request."""
        return 64 + (16 + self.sizes.sampled_bytes) * self.limits.max_seqs

    @property
    def step_bytes(self) -> int:
        most = self.limits
        return (
            STEP_BYTES
            + STEP_BYTES_PER_TOKEN * most.max_batched_tokens
            + STEP_BYTES_PER_SEQ * most.max_seqs
            + int(STEP_BYTES_PER_KV_TOKEN * most.kv_tokens)
        )


def _shared_parts(arena: Arena, shape: _Shape, rank: int | None) -> Iterator[tuple[str, object]]:
    """Lay out all shared memory; yield what `rank` keeps (nothing when it is None)."""
    yield "port", arena.flags(1)[0]
    for what, group, name, slot_bytes in _shared_groups(shape):
        here = group.index(rank) if rank in group else None
        made = ShmGroup(
            arena,
            size=len(group),
            rank=here or 0,
            slot_bytes=slot_bytes,
            crowded=shape.crowded,
            name=name,
            members=group,
            deadline_s=DEADLINE_S if what == "tp" else STAGE_DEADLINE_S,
        )
        if here is not None:
            yield what, made
            if what == "tp":
                yield "native tp", made
    for replica, kind in enumerate(shape.wired.replicas):
        if kind == "shm":
            yield from _shared_replica(arena, shape, replica, rank)


def _shared_groups(shape: _Shape) -> Iterator[tuple[str, tuple[int, ...], str, int]]:
    """The groups in shared memory: what for, whose, their names, and the bytes of a slot."""
    layout, wired, large = shape.layout, shape.wired, shape.slot_bytes
    for group, kind in zip(layout.groups("tp"), wired.tp, strict=True):
        if layout.tp > 1 and kind == "shm":
            at = layout.coord(group[0])
            yield "tp", group, f"tp group of stage {at['pp']}, replica {at['dp']}", large
    for stage, kind in enumerate(wired.experts):
        if kind == "shm":
            yield "experts", layout.stage_ranks(stage), f"experts of stage {stage}", large
    if wired.leaders == "shm":
        yield "leaders", leader_ranks(layout), "leaders of the replicas", CACHE_LINE


def _shared_replica(
    arena: Arena, shape: _Shape, replica: int, rank: int | None
) -> Iterator[tuple[str, object]]:
    layout, tp, pp = shape.layout, shape.layout.tp, shape.layout.pp
    members = replica_ranks(layout, replica)

    def box(name: str, readers: int, slot_bytes: int) -> Mailbox:
        full_name = f"{name}, replica {replica}"
        made = Mailbox(
            arena,
            readers=readers,
            slot_bytes=slot_bytes,
            depth=pp + 1,
            crowded=shape.crowded,
            name=full_name,
        )
        made.deadline_s = STAGE_DEADLINE_S
        return made

    if len(members) > 1:
        steps = box("steps", len(members) - 1, shape.step_bytes)
        steps.deadline_s = None  # an idle replica waits for work
        if rank in members:
            index = members.index(rank)
            yield "steps", SharedBytes(steps, index - 1 if index else None)
    for boundary in range(pp - 1):
        hand_off = box(f"hand-off of stage {boundary} to {boundary + 1}", tp, shape.budget_bytes)
        if rank in members:
            at = layout.coord(rank)
            if at["pp"] == boundary:
                yield "outgoing", SharedHandOff(hand_off, at["tp"])
            elif at["pp"] == boundary + 1:
                yield "incoming", SharedHandOff(hand_off, at["tp"])
    if pp > 1:
        tokens = box("tokens of the last stage", 1, shape.tokens_bytes)
        if rank == members[0]:
            yield "tokens", SharedBytes(tokens, 0)
        elif rank == layout.rank(dp=replica, pp=pp - 1):
            yield "tokens", SharedBytes(tokens, None)


def _socket_parts(shape: _Shape, rank: int, pipes: Pipes) -> dict[str, object]:
    """The groups and pipes of sockets. Every rank makes every group, in this order, and its own
    pipes.
    """
    layout, tp, pp = shape.layout, shape.layout.tp, shape.layout.pp
    mine: dict[str, object] = {}
    tp_groups: dict[int, TorchGroup] = {}
    for group, kind in zip(layout.groups("tp"), shape.wired.tp, strict=True):
        sockets_inside = shape.wired.replicas[layout.coord(group[0])["dp"]] == "tcp"
        if tp > 1 and (kind != "shm" or sockets_inside):
            made = TorchGroup(group)
            tp_groups |= dict.fromkeys(group, made)
            if rank in group and kind != "shm":
                mine["tp"] = made
    mine |= _sockets_between(shape, rank, pipes)
    for replica, kind in enumerate(shape.wired.replicas):
        members = replica_ranks(layout, replica)
        if kind == "shm" or len(members) == 1:
            continue
        leader, *others = members
        if rank == leader:
            mine["steps"] = SocketBytes([pipes.open(other, "steps") for other in others])
        elif rank in members:  # an idle replica waits for work
            mine["steps"] = SocketBytes([pipes.open(leader, "steps", deadline_s=None)])
        for boundary in range(pp - 1):
            for column in range(tp):
                pair = tuple(layout.rank(dp=replica, pp=boundary + i, tp=column) for i in (0, 1))
                gpus = TorchGroup(pair) if shape.wired.gpus else None
                if rank not in pair:
                    continue
                side, other = ("outgoing", pair[1]) if rank == pair[0] else ("incoming", pair[0])
                way = TorchPair(gpus) if gpus else _pipe(pipes, other, f"hand-off {boundary}")
                mine[side] = SocketHandOff(way, tp_groups.get(rank), column, tp)
        ends = (leader, layout.rank(dp=replica, pp=pp - 1))
        if pp > 1 and rank in ends:
            mine["tokens"] = SocketBytes([_pipe(pipes, ends[rank == leader], "tokens")])
    return mine


def _sockets_between(shape: _Shape, rank: int, pipes: Pipes) -> dict[str, object]:
    """What replicas that share experts have between them."""
    mine: dict[str, object] = {}
    for stage, kind in enumerate(shape.wired.experts):
        group = shape.layout.stage_ranks(stage)
        made = TorchGroup(group, timeout_s=STAGE_DEADLINE_S) if kind != "shm" else None
        if made and rank in group:
            mine["experts"] = made
    leaders = leader_ranks(shape.layout)
    if shape.wired.leaders == "tcp" and rank in leaders:
        others = [leader for leader in leaders if leader != rank]
        mine["leaders"] = PairsGather([_pipe(pipes, other, "round") for other in others])
    return mine


def _pipe(pipes: Pipes, other: int, what: str) -> Pipe:
    """A pipe between stages or replicas: what comes through it waits for others to compute."""
    return pipes.open(other, what, deadline_s=STAGE_DEADLINE_S)
