"""What a rank does: load its slices, then run steps until told to stop.

The first rank of a replica leads it (`engine.leader`). The others have no memory of requests: a
step carries all that they need.
"""

import socket
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from wirecut.engine.batch import Batch, build_batch
from wirecut.engine.graphs import Graphs
from wirecut.engine.leader import Leader
from wirecut.engine.messages import Begin, Counted, Draws, Held, Loaded, Loading, Task, ToRank
from wirecut.engine.models.build import build_stage
from wirecut.engine.models.known import read_style
from wirecut.engine.room import check_room, held_by
from wirecut.engine.sampling import sample
from wirecut.engine.trace import Log, Off
from wirecut.engine.weights import SliceReader
from wirecut.engine.wiring import Sizes, Wires, connect
from wirecut.engine.wiring import shared_bytes as wires_bytes
from wirecut.errors import during
from wirecut.fabric.host import free_memory_bytes
from wirecut.layout.shards import padded_vocab
from wirecut.machine.channel import Channel
from wirecut.machine.cuda_graph import Recorder
from wirecut.machine.host import RankProcess
from wirecut.machine.shm import Arena
from wirecut.sched.sampling import MOST_LOGPROBS
from wirecut.sched.step import END, REST, Entry, Step
from wirecut.spec.feedforward import Moe
from wirecut.spec.hf import read_config
from wirecut.spec.model import ModelSpec

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOGPROBS_BYTES = 16 * (MOST_LOGPROBS + 2)  # in MessagePack, with the token
WARM_UP_TOKENS = 16  # within one block

_encode = msgspec.msgpack.Encoder().encode
_decode_step = msgspec.msgpack.Decoder(Step).decode


def prepare(payload: bytes, ranks: Sequence[int]) -> int:
    """Shared memory that the ranks of this task will take; most of it is never touched. Raises
    RankFailed when this host has no room for what its `ranks` hold.
    """
    task = msgspec.msgpack.decode(payload, type=Task)
    spec = read_config(Path(task.folder) / "config.json")
    takes = [held_by(task, spec, rank) for rank in ranks if task.devices[rank] == "cpu"]
    if (free := free_memory_bytes()) is not None:
        check_room(takes, free, where=socket.gethostname(), kv_tokens=task.limits.kv_tokens)
    return wires_bytes(task.cut.layout, task.wired, task.limits, _sizes(task, spec))


def _sizes(task: Task, spec: ModelSpec) -> Sizes:
    tp, itemsize = task.cut.layout.tp, TORCH_DTYPES[task.dtype].itemsize
    return Sizes(
        row_bytes=spec.hidden * itemsize,
        logits_bytes=padded_vocab(spec.vocab, tp) // tp * itemsize,
        sampled_bytes=LOGPROBS_BYTES + (8 + 4 * spec.vocab if task.keep_logits else 0),
    )


def run(process: RankProcess) -> None:
    """Entry of a rank process; see `machine.ranks.start_ranks`."""
    torch.set_num_threads(max(1, len(process.cpus)))
    task = msgspec.msgpack.decode(process.payload, type=Task)
    process.channel.expect(ToRank)
    with torch.inference_mode():
        rank = Rank(process, task)
        if rank.is_leader:
            Leader(rank, process.channel).run()
        else:
            rank.follow()
        process.channel.send(rank.counted())
        process.channel.receive()  # until the front closes it: slower ranks need our sockets


class Rank:
    """One rank's stage and wires, and the counters of what it ran."""

    def __init__(self, process: RankProcess, task: Task) -> None:
        begin = time.monotonic()
        cut, spec = task.cut, read_config(Path(task.folder) / "config.json")
        self.task, self.cut = task, cut
        self.at = cut.layout.coord(process.rank)
        self.stage_index = self.at["pp"]
        self.is_first, self.is_last = self.stage_index == 0, self.stage_index == cut.layout.pp - 1
        self.is_leader = self.is_first and self.at["tp"] == 0
        self.dtype, self.device = TORCH_DTYPES[task.dtype], torch.device(task.devices[process.rank])
        self.hidden, self.max_positions = spec.hidden, spec.max_positions
        self.attention_tokens = spec.attention_tokens
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            takes, free = held_by(task, spec, process.rank), torch.cuda.mem_get_info()[0]
            check_room([takes], free, where=str(self.device), kv_tokens=task.limits.kv_tokens)
        self.log = _open_log(task.most_spans, self.device)
        self.wires: Wires = connect(
            cut.layout,
            task.wired,
            task.limits,
            _sizes(task, spec),
            rank=process.rank,
            arena=Arena(process.shared),
            crowded=process.crowded,
            log=self.log,
            master=process.master,
            neighbours=process.neighbours,
        )
        reader = SliceReader(
            Path(task.folder),
            spec,
            cut,
            rank=process.rank,
            dtype=self.dtype,
            device=self.device,
            weights=task.weights,
        )
        self.num_blocks = task.limits.kv_tokens // task.block_tokens
        self._spare_blocks = 0 if self.device.type == "cpu" else 1
        style = read_style(Path(task.folder), spec.architecture)
        self.longest_short = style.rope.longest_short
        self.stage = build_stage(
            reader,
            style,
            cut,
            num_places=(self.num_blocks + self._spare_blocks) * task.block_tokens,
            tp=self.wires.tp,
            ep=self.wires.experts,
            progress=lambda: process.channel.send(Loading(reader.tensors_done, len(reader))),
        )
        self.graphs = self._graphs(spec)
        _meet_others(process.channel)
        self._count_from_zero()
        self._warm_up()
        self._count_from_zero()
        process.channel.send(Loaded(reader.bytes_read, reader.bytes_held, time.monotonic() - begin))

    def _graphs(self, spec: ModelSpec) -> Graphs | None:
        """For decodes of a dense model that is one stage on a GPU: neither experts, whose host
        counts rows, nor spans, which wait for the GPU, can be recorded.
        """
        dense = not any(isinstance(layer.mlp, Moe) for layer in spec.layers)
        whole = self.device.type == "cuda" and self.is_first and self.is_last
        if not (dense and whole and isinstance(self.log, Off)):
            return None
        longest = -(-spec.max_positions // self.task.block_tokens)
        return Graphs(
            self.stage,
            self._batch,
            Recorder(),
            blocks_each=min(longest, self.num_blocks),
            spare_block=self.num_blocks,
        )

    def _warm_up(self) -> None:
        """Run a prompt and a token: what is built at first use is built now."""
        long = min(WARM_UP_TOKENS, self.task.limits.max_batched_tokens)
        for start, tokens in ((0, (0,) * long), (long, (0,))):
            self.forward(Step(0, (Entry(0, start, tokens, (0,), True),)))

    def _count_from_zero(self) -> None:
        self.forwards = self.tokens = self.sampling_forwards = self.sampled_rows = 0
        self.joined = 0
        wires = self.wires
        wires.experts.reset()
        wires.tp.reset()
        for talks in (wires.incoming, wires.outgoing):
            if talks:
                talks.count.reset()
        self.log.clear()

    def forward(self, step: Step) -> Draws | None:
        """This rank's part of a step. What was drawn where that is done, None elsewhere. Without
        entries it takes part in the exchange of other replicas.
        """
        timed = self.log.step(step.id, tokens=step.num_tokens, decodes=step.num_decodes)
        with timed, during(step.name):
            return self._forward(step.entries) if step.entries else self._join()

    def _join(self) -> None:
        self.joined += 1
        self.wires.experts.join()

    def _forward(self, entries: tuple[Entry, ...]) -> Draws | None:
        self.forwards += 1
        self.tokens += sum(len(entry.tokens) for entry in entries)
        if self.graphs and self.graphs.take(entries):
            return self._draw(self.graphs.logits(entries), entries)
        batch = self._batch(entries)
        wires, x_TE = self.wires, None
        if wires.incoming:
            x_TE = wires.incoming.receive(
                torch.empty(batch.num_tokens, self.hidden, dtype=self.dtype, device=self.device)
            )
        x_TE = self.stage.forward(batch, x_TE)
        if wires.outgoing:
            wires.outgoing.send(x_TE)
        if not self.is_last:
            return None
        sampling = tuple(entry for entry in entries if entry.samples)
        if not sampling:
            return Draws([]) if self.at["tp"] == 0 else None
        return self._draw(self.stage.logits(batch, x_TE), sampling)

    def _batch(self, entries: tuple[Entry, ...]) -> Batch:
        return build_batch(
            entries,
            block_tokens=self.task.block_tokens,
            dtype=self.dtype,
            device=self.device,
            windows=self.stage.windows,
        )

    def _draw(self, logits_TV: torch.Tensor | None, sampling: tuple[Entry, ...]) -> Draws | None:
        """What each of these entries draws, on the rank that has the logits."""
        self.sampling_forwards += 1
        self.sampled_rows += len(sampling)
        if logits_TV is None:
            return None
        with self.log.span("sampling"):
            draws = sample(logits_TV, list(sampling))
        if self.task.keep_logits:
            kept = [row.float().cpu().numpy().tobytes() for row in logits_TV]
            return msgspec.structs.replace(draws, logits=kept)
        return draws

    def follow(self) -> None:
        """Run the leader's steps until the one that ends."""
        steps, tokens = self.wires.steps, self.wires.tokens
        assert steps
        while True:
            step = _decode_step(steps.receive())
            if step == END:
                return
            if step != REST:
                sampled = self.forward(step)
                if tokens and sampled:
                    tokens.send(_encode(sampled))

    def counted(self) -> Counted:
        """This rank's counts. A group's are told by its first rank, a boundary's by the sender."""
        wires = self.wires
        counts = {"ep": wires.experts.count} if self.cut.layout.shares_experts else {}
        if wires.tp.size > 1 and self.at["tp"] == 0:
            counts["tp"] = wires.tp.count
        if wires.outgoing and self.at["tp"] == 0:
            counts["pp"] = wires.outgoing.count
        return Counted(
            calls={axis: count.calls for axis, count in counts.items()},
            bytes={axis: count.bytes for axis, count in counts.items()},
            forwards=self.forwards,
            tokens=self.tokens,
            sampling_forwards=self.sampling_forwards,
            sampled_rows=self.sampled_rows,
            spans=self.log.packed(),
            clock_ahead_ns=wires.clock_ahead_ns,
            joined=self.joined,
            native_halves=wires.tp.native_halves,
            experts=wires.experts.counted(),
        )


def _meet_others(front: Channel) -> None:
    """Return once every rank holds its slices: what ranks do together has deadlines, loading none.
    Should one die meanwhile, the front ends them all.
    """
    front.send(Held())
    begin = front.receive()
    assert isinstance(begin, Begin)


def _open_log(most_spans: int, device: torch.device) -> Log | Off:
    if not most_spans:
        return Off()
    if device.type == "cpu":
        return Log(most_spans)

    def after_all() -> int:
        torch.cuda.synchronize(device)
        return time.monotonic_ns()

    return Log(most_spans, after_all)
