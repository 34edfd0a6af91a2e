"""Whether the memory is there: what ranks say they hold is what they take, and no more is begun."""

from pathlib import Path

import pytest
import torch

from models import write_model
from wirecut.engine.attention import Cache
from wirecut.engine.comm import Comm
from wirecut.engine.engine import Engine
from wirecut.engine.messages import Task
from wirecut.engine.models import build
from wirecut.engine.models.known import read_style
from wirecut.engine.room import Takes, check_room, held_by
from wirecut.engine.weights import SliceReader
from wirecut.engine.wired import Wired
from wirecut.errors import RankFailed
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.stages import cut_stages
from wirecut.spec.hf import read_config
from wirecut.units import GIB, MIB
from zoo import write_random

BLOCK = 32


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [("llama", "tp2pp2"), ("gemma3_text", "tp4"), ("qwen3_moe", "tp3pp2"), ("deepseek_v2", "pp3")],
)
def test_a_rank_holds_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, layout: str
) -> None:
    """Of a cache the whole blocks that the room has; windows do not make it smaller."""
    folder = write_random(tmp_path, architecture)
    spec, parsed = read_config(folder / "config.json"), parse_layout(layout)
    ranks = range(parsed.world_size)
    stages = cut_stages([1.0] * spec.num_layers, parsed.pp)
    task = Task(
        folder=str(folder),
        dtype="fp32",
        cut=Cut(parsed, tuple(ranks), stages),
        devices=["cpu"] * len(ranks),
        wired=Wired([], []),
        limits=Limits(kv_tokens=3 * BLOCK + 7),
        block_tokens=BLOCK,
        keep_logits=False,
        most_spans=0,
        weights="",
    )
    caches: list[Cache] = []

    def made(*parts: torch.Tensor) -> Cache:
        caches.append(Cache(*parts))
        return caches[-1]

    monkeypatch.setattr(build, "Cache", made)
    for rank in ranks:
        caches.clear()
        reader = SliceReader(
            folder, spec, task.cut, rank=rank, dtype=torch.float32, device=torch.device("cpu")
        )
        build.build_stage(
            reader,
            read_style(folder, spec.architecture),
            task.cut,
            num_places=3 * BLOCK,
            tp=Comm(None),
            progress=lambda: None,
        )
        held = Takes(rank, reader.bytes_held, sum(map(nbytes, caches)))
        assert held_by(task, spec, rank) == held


def nbytes(cache: Cache) -> int:
    """Memory that both may share is counted once."""
    parts = (cache.keys_KSD, cache.values_KSD)
    return sum({part.untyped_storage().data_ptr(): part.nbytes for part in parts[::-1]}.values())


def test_what_is_needed_is_told_beside_what_is_free() -> None:
    takes = [Takes(0, 2 * GIB, GIB // 2), Takes(3, GIB, GIB // 2)]
    check_room(takes, 4 * GIB, where="box", kv_tokens=4096)
    said = (
        r"box has 3.90 GiB of memory free, rank 0, 3 need 4.00 GiB: weights 3.00 GiB, KV room for "
        r"4,096 tokens 1.00 GiB\. End what else"
    )
    with pytest.raises(RankFailed, match=said):
        check_room(takes, 4 * GIB - 100 * MIB, where="box", kv_tokens=4096)


def test_ranks_that_do_not_fit_do_not_start(tmp_path: Path) -> None:
    """Nothing is allocated: such a cache would be, page by page, until the kernel kills."""
    folder = write_model(tmp_path / "model", layers=32)
    cut = Cut(parse_layout("tp2"), (0, 1), ((0, 32),))
    limits = Limits(kv_tokens=10**9)
    said = r"the ranks cannot start: .* of memory free, rank 0, 1 need .* for 1,000,000,000 tokens"
    with pytest.raises(RankFailed, match=said):
        Engine(folder, cut, assumed_fabric(2), limits=limits, dtype="fp32")
