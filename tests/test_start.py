"""The start of an engine: ranks that load at different speeds, and one that dies meanwhile."""

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
import torch

from in_threads import in_threads
from models import write_model
from wirecut.engine import wiring, worker
from wirecut.engine.messages import Begin, FromRank, Held, Loaded, Task, ToRank
from wirecut.engine.start import wait_until_ready
from wirecut.engine.wired import choose_wires
from wirecut.errors import RankFailed
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.machine.channel import Channel
from wirecut.machine.host import RankProcess
from wirecut.machine.ranks import Ranks, start_ranks

LAYERS = 2
LIMITS = Limits(kv_tokens=256, max_batched_tokens=32, max_seqs=2)


def task_of(folder: Path, layout: str, wire: str) -> Task:
    parsed = parse_layout(layout)
    cut = Cut(parsed, (0, 1), ((0, LAYERS),) if parsed.pp == 1 else ((0, 1), (1, LAYERS)))
    return Task(
        folder=str(write_model(folder / "model", layers=LAYERS)),
        dtype="fp32",
        cut=cut,
        devices=["cpu"] * 2,
        wired=choose_wires(cut, assumed_fabric(2).only(wire)),
        limits=LIMITS,
        block_tokens=32,
        keep_logits=False,
        most_spans=0,
        weights="",
    )


def test_a_rank_may_load_for_longer_than_others_would_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "DEADLINE_S", 0.3)
    task, slow = task_of(tmp_path, "tp2", "shm"), threading.local()
    payload = msgspec.msgpack.encode(task)
    shared = mmap.mmap(-1, worker.prepare(payload, range(2)))
    build = worker.build_stage

    def build_slowly(*args, **told):
        time.sleep(1.0 if slow.rank == 1 else 0)
        return build(*args, **told)

    monkeypatch.setattr(worker, "build_stage", build_slowly)
    pairs = [Channel.pair() for _ in range(2)]
    ranks = Ranks([], {i: Channel(front, FromRank) for i, (front, _) in enumerate(pairs)})

    def run(index: int) -> list[Loaded] | None:
        if index == 2:
            return wait_until_ready(ranks, 2, lambda done, of: None)
        slow.rank, channel = index, Channel(pairs[index][1], ToRank)
        told = {"neighbours": (0, 1), "master": None, "cpus": [], "crowded": True}
        process = RankProcess(index, 2, **told, shared=shared, channel=channel, payload=payload)
        with torch.inference_mode():
            worker.Rank(process, task)
        return None

    try:
        *_, loaded = in_threads(3, run)
    finally:
        ranks.stop()
        for _, end in pairs:
            end.close()
    assert loaded is not None
    assert len(loaded) == 2


def held(tmp_path: Path, layout: str, wire: str) -> Ranks:
    """Ranks that have said that they hold their slices, and nothing since."""
    payload = msgspec.msgpack.encode(task_of(tmp_path, layout, wire))
    ranks = start_ranks("wirecut.engine.worker", [payload] * 2, [[0], [0]], accepts=FromRank)
    said = {0: [], 1: []}
    while not all(any(isinstance(one, Held) for one in each) for each in said.values()):
        rank, message = ranks.next_message(timeout_s=60)
        said[rank].append(message)
    return ranks


@pytest.mark.parametrize(("layout", "wire"), [("tp2", "shm"), ("tp2", "tcp"), ("pp2", "tcp")])
def test_none_begins_before_it_is_told_whatever_the_wires(
    tmp_path: Path, layout: str, wire: str
) -> None:
    with held(tmp_path, layout, wire) as ranks:
        with pytest.raises(TimeoutError):
            ranks.next_message(timeout_s=0.5)
        for rank in range(2):
            ranks.send(rank, Begin())
        said = [ranks.next_message(timeout_s=60) for _ in range(2)]
        assert sorted(rank for rank, message in said if isinstance(message, Loaded)) == [0, 1]


def test_a_rank_that_dies_while_others_wait_for_it_is_named_at_once(tmp_path: Path) -> None:
    with held(tmp_path, "tp2", "shm") as ranks:
        host = ranks._hosts[0].process.pid
        forked = Path(f"/proc/{host}/task/{host}/children").read_text().split()
        os.kill(sorted(map(int, forked))[1], signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(RankFailed, match="rank 1 died: killed by SIGKILL"):
            wait_until_ready(ranks, 2, lambda done, of: None)
        assert time.monotonic() - begin < 5


def test_a_rank_on_cpus_imports_no_compiler_of_torchs() -> None:
    """It takes longer than all else that a rank imports beside torch."""
    code = "import sys, wirecut.engine.worker; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
