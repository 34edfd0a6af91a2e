"""The front of the engine: starts the ranks of a cut, deals requests to its replicas, streams
tokens back.

    with Engine(folder, cut, fabric, limits=limits, dtype="bf16") as engine:
        for index, piece in engine.stream([Prompt((1, 2, 3), max_tokens=16)], [Answer()]):
            ...
        totals = engine.finish()

Imports no torch: the ranks do.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wirecut.engine.hearing import Hearing
from wirecut.engine.load import Load, read_load
from wirecut.engine.messages import (
    Cancel,
    Counted,
    Dealt,
    Elsewhere,
    Sampled,
    Stop,
    Submit,
    add_up,
)
from wirecut.engine.models.known import read_style
from wirecut.engine.prompt import Answer, Prompt, block_tokens, kv_room
from wirecut.engine.start import device_name, find_places, start, wait_until_ready
from wirecut.engine.text import Text, Writer
from wirecut.engine.timeline import Timeline, read_timeline
from wirecut.engine.wired import leader_ranks
from wirecut.errors import LayoutError, ModelError, RankFailed, UsageError
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.rules import OWN_ENGINE, why_not, why_not_shares
from wirecut.machine.world import RankHost
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.held import as_held
from wirecut.spec.hf import read_config
from wirecut.spec.model import ModelSpec
from wirecut.spec.runnable import why_not_run

REPORT_S = 30.0  # what ranks get to report and end


@dataclass(frozen=True, slots=True)
class Totals:
    """What the ranks counted, over all replicas: by axis, the forwards that it belongs to, by
    replica, what the replicas' schedulers dealt, what the ranks did when, and who picked which
    experts.
    """

    comm: dict[str, dict[str, int]]
    replicas: tuple[Counted, ...]
    dealt: Dealt
    timeline: Timeline
    load: Load


class Engine:
    """Ranks that hold a model. A context manager: leaving it ends every rank, whatever happened."""

    def __init__(
        self,
        folder: Path,
        cut: Cut,
        fabric: Fabric,
        *,
        limits: Limits,
        dtype: str,
        weights: str = "",
        keep_logits: bool = False,
        trace: bool = False,
        hosts: Sequence[RankHost] = (),
        text: Text | None = None,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Start the ranks and return once each holds its slices. Raises WirecutError.

        With `trace` every span is kept, else the last of them (on GPUs none: timing them makes
        each call wait). `weights` is what quantised linears are held in, "" as they are stored
        where a kernel reads that. With `text` answers have text, and prompts may have stop strings.
        `hosts` are where the fabric's hosts are, by name, when they are not all this one.
        `progress` is called with tensors read and tensors to read, over all ranks.
        """
        self.spec = read_config(folder / "config.json")
        self.cut, self.limits = cut, limits
        self._text, self._num_asked = text, 0
        kinds = {fabric.devices[device].kind for device in cut.placement}
        held = as_held(self.spec, dtype=dtype, on_cpus="gpu" not in kinds, weights=weights)
        if reason := why_not(held, cut.layout, len(fabric.devices), OWN_ENGINE):
            raise LayoutError(reason)
        if reason := why_not_shares(self.spec, cut.layout, cut.shares):
            raise LayoutError(reason)
        if cut.stages[-1][1] != self.spec.num_layers:
            raise UsageError(
                f"the plan's stages {cut.stages} are for {cut.stages[-1][1]} layers, "
                f"{self.spec.name} has {self.spec.num_layers}: plan again"
            )
        self._kv_room = kv_room(limits.kv_tokens, on_gpus="gpu" in kinds)
        if not self._kv_room:
            least = block_tokens(on_gpus="gpu" in kinds)
            raise UsageError(f"kv_tokens is {limits.kv_tokens}, expected at least {least}")
        places = find_places(cut, fabric, hosts)
        self._devices = [device_name(fabric, device) for device in cut.placement]
        check_runnable(self.spec)
        read_style(folder, self.spec.architecture)  # complains before anything starts
        check_checkpoint(folder, self.spec)
        self._begin = time.monotonic()
        self._ranks = start(folder, cut, fabric, limits, dtype, weights, keep_logits, trace, places)
        try:
            self.loaded = wait_until_ready(self._ranks, cut.layout.world_size, progress)
        except BaseException:
            self._ranks.stop()
            raise
        self.load_s = time.monotonic() - self._begin

    def generate(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Serve `prompts` together and return their answers in order."""
        answers = [Answer() for _ in prompts]
        for _ in self.stream(prompts, answers):
            pass
        return answers

    def stream(self, prompts: Sequence[Prompt], answers: list[Answer]) -> Iterator[tuple[int, str]]:
        """Serve `prompts` together: (index of the prompt, what its newest token adds to the text)
        as they come; `answers` fill meanwhile. A prompt that cannot be served fails alone.
        """
        asked = self._submit(prompts, answers)
        begin = time.monotonic()
        try:
            while asked:
                _, message = self._ranks.next_message()
                now = time.monotonic() - begin
                assert isinstance(message, Sampled)
                for news in message.news:
                    if (one := asked.get(news.id)) is None:
                        continue  # cancelled, and told before that was heard
                    if (piece := one.hear(news, now)) is not None:
                        yield one.index, piece
                    if one.answer.reason is not None:
                        del asked[news.id]
                        if news.reason is None:
                            self._tell(one.leader, Cancel(news.id))
        finally:
            for id, one in asked.items():
                self._tell(one.leader, Cancel(id))

    def _submit(self, prompts: Sequence[Prompt], answers: list[Answer]) -> dict[int, Hearing]:
        """Deal the prompts that can be served to the replicas, the least loaded first."""
        layout, asked = self.cut.layout, dict[int, Hearing]()
        load = [0] * layout.dp
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            try:
                prompt.check(self.spec, self._kv_room)
                writer = self._writer(prompt)
            except UsageError as error:
                answer.fail(error)
                continue
            replica = load.index(min(load))
            load[replica] += len(prompt.tokens) + prompt.max_tokens
            leader = layout.rank(dp=replica)
            self._num_asked += 1
            asked[self._num_asked] = Hearing(index, leader, answer, writer)
            self._tell(
                leader,
                Submit(
                    self._num_asked,
                    prompt.tokens,
                    prompt.max_tokens,
                    prompt.stop_tokens,
                    prompt.ignore_eos,
                    prompt.sampling,
                ),
            )
        return asked

    def _writer(self, prompt: Prompt) -> Writer | None:
        if self._text is None and prompt.stop:
            raise UsageError("stop strings need the engine to be started with a tokenizer")
        return Writer(self._text, prompt.stop) if self._text else None

    def _tell(self, leader: int, message: Submit | Cancel) -> None:
        """Tell a replica; where replicas step together, every other hears that it was told."""
        layout = self.cut.layout
        for each in leader_ranks(layout) if layout.shares_experts else (leader,):
            self._ranks.send(each, message if each == leader else Elsewhere())

    def finish(self) -> Totals:
        """End the ranks in order and return what they counted."""
        layout = self.cut.layout
        for replica in range(layout.dp):
            self._ranks.send(layout.rank(dp=replica), Stop())
        counted: dict[int, Counted] = {}
        dealt: list[Dealt] = []
        try:
            while len(counted) < layout.world_size:
                rank, message = self._ranks.next_message(timeout_s=REPORT_S)
                if isinstance(message, Counted):
                    counted[rank] = message
                elif isinstance(message, Dealt):
                    dealt.append(message)
        except TimeoutError:
            silent = sorted(set(range(layout.world_size)) - set(counted))
            raise RankFailed(f"ranks {silent} did not report within {REPORT_S:.0f} s") from None
        self._ranks.stop()
        comm: dict[str, dict[str, int]] = {}
        for each in counted.values():
            for axis in each.calls:
                total = comm.setdefault(axis, {"calls": 0, "bytes": 0})
                total["calls"] += each.calls[axis]
                total["bytes"] += each.bytes[axis]
        return Totals(
            comm,
            tuple(self._replica_totals(counted, r) for r in range(layout.dp)),
            add_up(dealt),
            read_timeline(
                {rank: each.spans for rank, each in counted.items()},
                layout,
                self._devices,
                {rank: each.clock_ahead_ns for rank, each in counted.items()},
            ),
            read_load(counted, layout),
        )

    def _replica_totals(self, counted: dict[int, Counted], replica: int) -> Counted:
        """A replica's forwards, from the rank of it that samples: it sees every step."""
        return counted[self.cut.layout.rank(dp=replica, pp=self.cut.layout.pp - 1)]

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._ranks.stop()


def check_runnable(spec: ModelSpec) -> None:
    """Raise ModelError for what this version plans and does not run."""
    if reason := why_not_run(spec):
        raise ModelError(reason)
