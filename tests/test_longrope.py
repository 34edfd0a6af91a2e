"""LongRoPE: short sequences turn by one set of factors, long ones by another, and one that grows
from short to long is computed again.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

import parity
from matrix import MODES
from sched_fake import FakeEngine, create_scheduler
from wirecut.bench.report import dealt
from wirecut.engine.messages import Dealt
from wirecut.engine.models.known import STYLES
from wirecut.engine.models.ropes import LongRope
from wirecut.engine.rope import rope_tables
from wirecut.errors import ModelError
from wirecut.layout.layout import Layout
from wirecut.sched.request import Request
from wirecut.spec.fields import Fields
from wirecut.spec.hf import read_config
from wirecut.spec.runnable import why_not_run
from zoo import ROPES, SIZES, write_random

ORIGINAL = 32
ROPE = ROPES["longrope"]
SAID = {"hidden_size": 96, "original_max_position_embeddings": ORIGINAL, "rope_parameters": ROPE}
# Of 12 tokens more: short to the end, outgrown at the 1st, at the 6th and at none of them.
LENGTHS = (ORIGINAL - 12, ORIGINAL, ORIGINAL - 5, ORIGINAL + 9)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> parity.Reference:
    folder = write_random(tmp_path_factory.mktemp("phi3"), "phi3", **SAID)
    assert why_not_run(read_config(folder / "config.json")) is None
    return parity.reference(folder, lengths=LENGTHS, new_tokens=12)


@pytest.mark.parametrize(
    ("layout", "mode", "rounds"),
    [
        (Layout(), "plain", 1),
        (Layout(), "prefix hits", 2),
        (Layout(tp=3), "preempted", 1),
        (Layout(pp=2), "chunked", 1),
    ],
    ids=str,
)
def test_tokens_are_those_of_generate(
    theirs: parity.Reference, layout: Layout, mode: str, rounds: int
) -> None:
    cell = parity.run_cell(theirs, layout, limits=MODES[mode].limits, rounds=rounds)
    parity.check(cell)
    assert cell.dealt.outgrown == 2 * rounds
    assert cell.dealt.preemptions == 0


@pytest.mark.parametrize(
    "changes", [{}, {"attention_factor": 1.5}, {"factor": 5.0}, {"partial_rotary_factor": 0.5}]
)
def test_tables_are_those_of_transformers(changes: dict[str, Any]) -> None:
    pairs = 8 if "partial_rotary_factor" not in changes else 4
    factors = {name: ROPE[name][:pairs] for name in ("short_factor", "long_factor")}
    said = {**SIZES, **SAID, "rope_parameters": {**ROPE, **changes, **factors}}
    rope = STYLES["phi3"](Fields(said, "config.json")).rope
    where = {"dtype": torch.float32, "device": torch.device("cpu")}
    cos_PD, sin_PD = rope_tables(rope, 16, positions=100, **where)
    model = Phi3RotaryEmbedding(Phi3Config(**said))
    for length, first in ((ORIGINAL, 0), (ORIGINAL + 1, 100), (100, 100)):
        cos, sin = model(torch.zeros(1), torch.arange(length)[None])
        assert torch.equal(cos_PD[first : first + length], cos[0])
        assert torch.equal(sin_PD[first : first + length].abs(), sin[0].abs())


def test_the_name_that_it_had_first() -> None:
    """Phi-3-mini-128k-instruct's configuration of April 2024, at its sizes."""
    factors = {name: [1.0 + 0.1 * i for i in range(48)] for name in ("short_factor", "long_factor")}
    said = {"hidden_size": 3072, "num_attention_heads": 32, "max_position_embeddings": 131072}
    said |= {"original_max_position_embeddings": 4096, "rope_scaling": {"type": "su", **factors}}
    scaling = STYLES["phi3"](Fields(said, "config.json")).rope.scaling
    assert isinstance(scaling, LongRope)
    assert scaling.original == 4096
    assert scaling.magnitude == pytest.approx(1.190238, abs=1e-6)  # sqrt(1 + ln 32 / ln 4096)


def test_factors_that_do_not_fit_the_head() -> None:
    said = {**SIZES, **SAID, "rope_parameters": {**ROPE, "long_factor": [1.0] * 7}}
    with pytest.raises(ModelError, match="long_factor has 7 factors for 8 pairs of dims that turn"):
        STYLES["phi3"](Fields(said, "config.json"))
    said = {**SIZES, **SAID, "rope_parameters": {**ROPE, "short_factor": [1.0] * 7 + [0]}}
    with pytest.raises(ModelError, match=r"short_factor\[7\] is 0, expected a positive number"):
        STYLES["phi3"](Fields(said, "config.json"))


def test_a_request_that_becomes_long_starts_again_and_finds_long_blocks_only() -> None:
    engine = FakeEngine(create_scheduler(longest_short=8, block_tokens=2))
    prompt = tuple(range(7))
    engine.add(Request("grows", prompt, 4))
    engine.run()
    spans = [(e.start, e.stop, e.long) for step in engine.steps for e in step.entries]
    # 9 tokens are long: the two that were written are computed with the prompt
    assert spans == [(0, 7, False), (7, 8, False), (0, 9, True), (9, 10, True)]
    scheduler = engine.scheduler
    assert (scheduler.num_preemptions, scheduler.num_outgrown) == (0, 1)
    assert scheduler.num_recomputed_tokens == 8
    engine.add(Request("long", prompt + tuple(engine.requests["grows"].output[:2]), 1))
    engine.add(Request("short", prompt, 1))
    engine.run()
    found = {e.request_id: (e.start, e.long) for e in engine.steps[-1].entries}
    assert found == {"long": (8, True), "short": (6, False)}


def test_a_report_tells_them_from_requests_that_had_no_room() -> None:
    def said(**did: int) -> str:
        counts = {"preemptions": 0, "outgrown": 0} | did
        return str(dealt(SimpleNamespace(dealt=Dealt(100, 8, **counts, recomputed_tokens=30))))

    assert "again" not in said()
    assert "preempted" not in said(outgrown=2)
    assert "requests became long and needed other keys 2 times, for which 30" in said(outgrown=2)
    assert "for want of KV room and became long" in said(outgrown=2, preemptions=1)
