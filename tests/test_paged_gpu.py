"""A GPU's attention over its paged cache. No GPU runs these: torch's kernel is stood in for by its
contract in plain torch, and what is asked of it is checked.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from wirecut.engine.attention import Look, attend
from wirecut.engine.batch import Batch, all_together, build_batch
from wirecut.machine import paged_gpu
from wirecut.sched.step import Entry

CPU, BF16 = torch.device("cpu"), torch.bfloat16
PAGE, PAGES, HEADS, KV_HEADS, DIM = 256, 8, 6, 2, 16
ENTRIES = (
    Entry(0, 299, (1,), (5, 2), True),  # decodes
    Entry(1, 0, (2,), (7,), True),
    Entry(2, 250, tuple(range(20)), (1, 4), False),  # a chunk over a page's end
    Entry(3, 0, tuple(range(9)), (3,), True),  # a prompt
)


def stand_in(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """What torch 2.13 says of `varlen_attn`, with FlashAttention 2's conditions."""
    number, heads = block_table.shape[0], query.shape[1]
    assert key.shape[1] % 256 == 0
    assert key.stride(-1) == value.stride(-1) == query.stride(-1) == 1
    assert {t.dtype for t in (cu_seq_q, cu_seq_k, seqused_k, block_table)} == {torch.int32}
    assert len(cu_seq_q) == len(cu_seq_k) == number + 1
    assert cu_seq_q[-1] == len(query)
    assert max_q == cu_seq_q.diff().max()
    assert max_k >= seqused_k.max()
    assert enable_gqa or heads == key.shape[2]
    out = torch.empty_like(query)
    for i in range(number):
        rows, length = slice(cu_seq_q[i], cu_seq_q[i + 1]), int(seqused_k[i])
        k, v = (
            pages[block_table[i].long()]
            .flatten(0, 1)[:length]
            .repeat_interleave(heads // key.shape[2], 1)
            for pages in (key, value)
        )
        scores = torch.einsum("thd,lhd->htl", query[rows].float(), k.float()) * scale
        at = (
            torch.arange(length)
            - (length - scores.shape[1] + torch.arange(scores.shape[1]))[:, None]
        )
        behind, ahead = window_size
        hidden = (at > ahead) & (ahead >= 0) | (at < -behind) & (behind >= 0)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[rows] = torch.einsum("htl,lhd->thd", weights, v.float()).to(out.dtype)
    return out


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    paged_gpu.trusted.cache_clear()
    yield
    paged_gpu.trusted.cache_clear()


def step_of(entries: tuple[Entry, ...], window: int | None) -> Batch:
    """As a GPU gets it."""
    batch = build_batch(entries, block_tokens=PAGE, dtype=BF16, device=CPU, windows=(window,))
    spans = all_together(batch.spans, PAGE, CPU)
    return replace(batch, together=spans, decodes=None, prompts=None)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(BF16)


def takes_all(*_: object) -> bool:
    return True


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES[:2], ENTRIES[1:3]])
@pytest.mark.parametrize("look", [Look(), Look(window=7), Look(window=300), Look(scale=0.5)])
@pytest.mark.parametrize("kv_heads", [1, KV_HEADS, HEADS])
def test_a_step_in_one_call_is_sequence_by_sequence(
    monkeypatch: pytest.MonkeyPatch, entries: tuple[Entry, ...], look: Look, kv_heads: int
) -> None:
    batch = step_of(entries, look.window)
    q, k, v = (some(batch.num_tokens, heads, DIM) for heads in (HEADS, kv_heads, kv_heads))
    keys, values = some(kv_heads, PAGE * PAGES, DIM), some(kv_heads, PAGE * PAGES, DIM) + 1
    asked: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(1)
        return stand_in(*args, **kwargs)

    monkeypatch.setattr(paged_gpu, "varlen", lambda: counted)
    one_by_one = attend(q, k, v, keys.clone(), values.clone(), replace(batch, together=None), look)
    assert not asked
    monkeypatch.setattr(paged_gpu, "takes", takes_all)
    in_one_call = attend(q, k, v, keys, values, batch, look)
    assert len(asked) == 1
    torch.testing.assert_close(in_one_call, one_by_one, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("look", [Look(cap=30.0), Look(sinks_H=torch.zeros(HEADS))])
def test_caps_and_sinks_are_not_asked_of_it(monkeypatch: pytest.MonkeyPatch, look: Look) -> None:
    monkeypatch.setattr(paged_gpu, "takes", takes_all)
    monkeypatch.setattr(paged_gpu, "varlen", lambda: None)
    q, k = some(3, HEADS, DIM), some(3, KV_HEADS, DIM)
    cache = some(KV_HEADS, PAGE * PAGES, DIM)
    batch = step_of((Entry(0, 4, (1, 2, 3), (1,), True),), None)
    assert attend(q, k, k, cache, cache, batch, look).isfinite().all()


def test_a_decode_may_be_dealt_to_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention 2 does so where a single row is told to see everything."""
    told: list[tuple[int, int]] = []

    def listen(*args: Any, **kwargs: Any) -> torch.Tensor:
        told.append(kwargs["window_size"])
        return stand_in(*args, **kwargs)

    monkeypatch.setattr(paged_gpu, "varlen", lambda: listen)
    cache = some(KV_HEADS, PAGE * PAGES, DIM)
    for entries, window in ((ENTRIES[:2], None), (ENTRIES, None), (ENTRIES[:2], 9)):
        step = step_of(entries, None).together
        assert step is not None
        q = some(int(step.firsts_X[-1]), HEADS, DIM)
        paged_gpu.attend(q, cache, cache, step, scale=0.25, window=window)
    assert told == [(-1, -1), (-1, 0), (8, 0)]


def test_what_it_is_made_for() -> None:
    assert paged_gpu.fits(BF16, 128, 256)
    assert paged_gpu.fits(torch.float16, 64, 512)
    assert not paged_gpu.fits(torch.float32, 128, 256)
    assert not paged_gpu.fits(BF16, 128, 32)
    assert not paged_gpu.fits(BF16, 100, 256)
    assert not paged_gpu.fits(BF16, 512, 256)
    cpu = some(1, HEADS, DIM), some(KV_HEADS, PAGE, DIM)
    assert not paged_gpu.takes(cpu[0], cpu[1], cpu[1], PAGE)


def test_it_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = (CPU, BF16, HEADS, KV_HEADS, DIM)
    monkeypatch.setattr(paged_gpu, "varlen", lambda: stand_in)
    assert paged_gpu.trusted(*shape)
    assert capsys.readouterr().err == ""


def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
    return stand_in(*args, **{**kwargs, "window_size": (-1, -1)})


def nothing(*args: Any, **_: Any) -> torch.Tensor:
    return torch.full_like(args[0], float("nan"))


def refuses(*_: Any, **__: Any) -> torch.Tensor:
    raise RuntimeError("block_table is not supported\nC++ frames follow")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [(wrong, "wrong by"), (nothing, "wrong by nan"), (refuses, "(block_table is not supported)")],
)
def test_what_fails_its_trial_is_said_once_and_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kernel: Any, said: str
) -> None:
    monkeypatch.setattr(paged_gpu, "varlen", lambda: kernel)
    assert not paged_gpu.trusted(CPU, BF16, HEADS, KV_HEADS, DIM)
    assert not paged_gpu.trusted(CPU, BF16, HEADS, KV_HEADS, DIM)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told
    assert "sequence by sequence on cpu" in told
