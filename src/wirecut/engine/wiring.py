"""Gives each rank its wires: the groups that it is in, on what `wired` chose to carry them.

Every rank walks through all groups in the same order, so that places in shared memory and process
groups agree; it keeps the ones that it is in. Ranks of one host meet in shared memory, others
through sockets.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from wirecut.engine.comm import Comm, HandOff, SharedHandOff, SocketHandOff
from wirecut.engine.wired import Wired, replica_ranks
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Limits
from wirecut.machine.shm import Arena, Mailbox, ShmGroup
from wirecut.machine.sockets import TorchGroup, join, meet
from wirecut.units import KIB, MIB

STAGE_DEADLINE_S = 600.0  # another stage computes meanwhile: minutes for a long prompt on CPUs
LARGEST_SLOT = 8 * MIB  # of a collective; longer ones go in pieces
# Room in a step's MessagePack, generously: an id of a token or a block is at most 5 bytes, an
# entry's other fields at most 45, and a block holds more than 16 tokens.
STEP_BYTES, STEP_BYTES_PER_TOKEN, STEP_BYTES_PER_SEQ = 4096, 12, 256
STEP_BYTES_PER_KV_TOKEN = 5 / 16


@dataclass(frozen=True, slots=True)
class Wires:
    """Everything that one rank talks through. `steps` and `tokens` are None in a replica of one
    rank or stage.
    """

    tp: Comm
    incoming: HandOff | None
    outgoing: HandOff | None
    steps: "SharedBytes | SocketBytes | None"
    tokens: "SharedBytes | SocketBytes | None"


class SharedBytes:
    """Small messages from one rank to others of its replica through a mailbox."""

    def __init__(self, box: Mailbox, reader: int | None) -> None:
        self._box, self._reader = box, reader

    def send(self, message: bytes) -> None:
        self._box.write(message)

    def receive(self) -> bytes:
        assert self._reader is not None
        return self._box.read_bytes(self._reader)


class SocketBytes:
    """The same through sockets: a length, then the bytes, to each of the others in turn."""

    def __init__(self, group: TorchGroup, source: int, readers: tuple[int, ...]) -> None:
        self._group, self._source, self._readers = group, source, readers

    def send(self, message: bytes) -> None:
        body = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        for reader in self._readers:
            self._group.send(torch.tensor([len(message)]), to=reader)
            self._group.send(body, to=reader)

    def receive(self) -> bytes:
        length = self._group.receive(torch.zeros(1, dtype=torch.int64), source=self._source)
        body = torch.empty(int(length), dtype=torch.uint8)
        return bytes(self._group.receive(body, source=self._source).numpy())


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
    master: tuple[str, int] | None = None,
) -> Wires:
    """The wires of `rank`. Collective: every rank of the job calls it at the same time."""
    shape = _Shape(layout, wired, limits, sizes, crowded)
    parts = dict(_shared_parts(arena, shape, rank))
    if wired.backend:
        world = {"rank": rank, "num_ranks": layout.world_size}
        store = meet(**world, port_box=parts["port"], master=master)
        join(store, **world, backend=wired.backend)
        parts |= _socket_parts(shape, rank)
    return Wires(
        tp=Comm(parts.get("tp")),
        incoming=parts.get("incoming"),
        outgoing=parts.get("outgoing"),
        steps=parts.get("steps"),
        tokens=parts.get("tokens"),
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
    layout, tp = shape.layout, shape.layout.tp
    yield "port", arena.flags(1)[0]
    for group, kind in zip(layout.groups("tp"), shape.wired.tp, strict=True):
        if tp == 1 or kind != "shm":
            continue
        at = layout.coord(group[0])
        name = f"tp group of stage {at['pp']}, replica {at['dp']}"
        here = group.index(rank) if rank in group else None
        made = ShmGroup(
            arena,
            size=tp,
            rank=here or 0,
            slot_bytes=shape.slot_bytes,
            crowded=shape.crowded,
            name=name,
            members=group,
        )
        if here is not None:
            yield "tp", made
    for replica, kind in enumerate(shape.wired.replicas):
        if kind == "shm":
            yield from _shared_replica(arena, shape, replica, rank)


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


def _socket_parts(shape: _Shape, rank: int) -> dict[str, object]:
    """The groups that sockets carry. Every rank makes every one of them, in this order."""
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
    for replica, kind in enumerate(shape.wired.replicas):
        members = replica_ranks(layout, replica)
        if kind == "shm" or len(members) == 1:
            continue
        control = TorchGroup(members)
        if rank in members:
            mine["steps"] = SocketBytes(control, 0, tuple(range(1, len(members))))
        for boundary in range(pp - 1):
            for column in range(tp):
                pair = tuple(layout.rank(dp=replica, pp=boundary + i, tp=column) for i in (0, 1))
                made = TorchGroup(pair)
                if rank in pair:
                    side = "outgoing" if rank == pair[0] else "incoming"
                    mine[side] = SocketHandOff(made, tp_groups.get(rank), column, tp)
        if pp > 1:
            ends = (members[0], layout.rank(dp=replica, pp=pp - 1))
            made = TorchGroup(ends)
            if rank in ends:
                mine["tokens"] = SocketBytes(made, 1, (0,))
    return mine
