"""Models with experts dealt over the ranks of a stage: the tokens that transformers writes, the
bytes and loads that its routers' picks say, and no replica that waits for another for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import parity
from wirecut.bench.report import load_json, load_table
from wirecut.bench.run import formula_of, run_cut
from wirecut.cost.exchange import Tokens
from wirecut.cost.replica import Pricing
from wirecut.engine.engine import Engine, Totals
from wirecut.engine.load import uneven
from wirecut.engine.prompt import Answer, Prompt
from wirecut.explain.page import Grid, Heading, Paragraph
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import even_cut, expert_tp, holders
from wirecut.layout.stages import cut_stages
from wirecut.spec.hf import read_config
from zoo import SIZES, write_random

LENGTHS, NEW_TOKENS = (29, 5, 47), 12
LIMITS = Limits(max_batched_tokens=24, kv_tokens=512)
EXPERTS, LAYERS, ROW_BYTES = 5, SIZES["num_hidden_layers"], 4 * SIZES["hidden_size"]
TOP_K = 2


@dataclass(frozen=True)
class Asked:
    """A model, what it answers, and for each prompt by layer and token the experts picked."""

    reference: parity.Reference
    picks: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = write_random(tmp_path_factory.mktemp("mixtral"), "mixtral")
    reference = parity.reference(folder, lengths=LENGTHS, new_tokens=NEW_TOKENS)
    model, picks = parity.load(folder), []
    for prompt, answer in zip(reference.prompts, reference.tokens, strict=True):
        with torch.inference_mode():
            said = model(torch.tensor([[*prompt, *answer]]), output_router_logits=True)
        logits = torch.stack([layer.view(-1, EXPERTS) for layer in said.router_logits])
        picks.append(logits.topk(TOP_K).indices)
    return Asked(reference, tuple(picks))


def run(
    reference: parity.Reference,
    name: str,
    rounds: Sequence[Sequence[int]] = ((12, 3, 7),),
    *,
    wire: str = "shm",
) -> Totals:
    """Serve the prompts, in each round so many new tokens of each; check tokens and bytes."""
    spec, layout = read_config(reference.folder / "config.json"), parse_layout(name)
    fabric = assumed_fabric(max(2, layout.world_size)).only(wire)
    stages = cut_stages([1.0] * spec.num_layers, layout.pp)
    cut = Cut(layout, tuple(range(layout.world_size)), stages)
    with Engine(reference.folder, cut, fabric, limits=LIMITS, dtype="fp32") as engine:
        for wanted in rounds:
            served = [(i, n) for i, n in enumerate(wanted) if n]
            answers = engine.generate([Prompt(reference.prompts[i], n) for i, n in served])
            assert [a.tokens for a in answers] == [reference.tokens[i][:n] for i, n in served]
        totals = engine.finish()
    assert totals.comm == formula_of(Pricing(spec, fabric, dtype="fp32"), cut, totals)
    return totals


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        *((name, "shm") for name in ("tp2ep2", "dp2ep2", "dp3ep3", "tp2dp2ep4", "tp2dp2ep2")),
        ("pp2dp2ep2", "shm"),
        ("tp2dp2ep4", "tcp"),
    ],
)
def test_tokens_bytes_and_loads(mixtral: Asked, name: str, wire: str) -> None:
    """Five experts, so most cuts are uneven; three prompts, so replicas have unlike work."""
    totals, layout = run(mixtral.reference, name, wire=wire), parse_layout(name)
    computed = [n + new - 1 for n, new in zip(LENGTHS, (12, 3, 7), strict=True)]
    by_layer = torch.cat(
        [picks[:, :n] for picks, n in zip(mixtral.picks, computed, strict=True)], dim=1
    )
    counts = [layer.flatten().bincount(minlength=EXPERTS).tolist() for layer in by_layer]
    assert [list(picks) for picks in totals.load.layers] == counts
    if layout.pp == 1:
        each = [sum(picks) for picks in zip(*counts, strict=True)]
        cuts = [even_cut(EXPERTS, layout.ep, holder) for holder in range(layout.ep)]
        assert list(totals.load.of_ranks) == [
            sum(each[low:high]) for low, high in cuts for _ in range(expert_tp(layout))
        ]
    assert 1 <= uneven(totals.load.of_ranks) <= layout.world_size
    if layout.shares_experts:
        dealt = torch.tensor(holders(EXPERTS, layout.ep))[by_layer].flatten(0, 1).tolist()
        copies = sum(len(set(row)) for row in dealt) * expert_tp(layout)
        rounds = totals.replicas[0].forwards + totals.replicas[0].joined
        assert totals.comm["ep"] == {
            "calls": 2 * LAYERS * rounds,
            "bytes": copies * (2 * ROW_BYTES + 8 * TOP_K),
        }
    else:
        assert "ep" not in totals.comm


def test_replicas_without_work_join_and_all_rest_between_requests(mixtral: Asked) -> None:
    """One prompt at a time: the second replica, of two stages, only joins; then none has any."""
    totals = run(mixtral.reference, "pp2dp2ep2", [(0, 0, 5), (4, 0, 0), (2, 6, 0)])
    first, second = totals.replicas
    assert first.forwards + first.joined == second.forwards + second.joined
    assert second.joined > second.forwards > 0


def test_nothing_asked_and_an_answer_left_early(mixtral: Asked) -> None:
    """Replicas that step together end without having stepped, and go on behind a cancelled one."""
    asked, layout = mixtral.reference, parse_layout("dp2ep2")
    cut, fabric = Cut(layout, (0, 1), ((0, LAYERS),)), assumed_fabric(2)
    with Engine(asked.folder, cut, fabric, limits=LIMITS, dtype="fp32") as engine:
        assert engine.finish().comm == {"ep": {"calls": 0, "bytes": 0}}
    prompts = [Prompt(prompt, NEW_TOKENS) for prompt in asked.prompts]
    with Engine(asked.folder, cut, fabric, limits=LIMITS, dtype="fp32") as engine:
        leaving = engine.stream(prompts, [Answer() for _ in prompts])
        next(leaving)
        leaving.close()
        assert [answer.tokens for answer in engine.generate(prompts)] == list(asked.tokens)
        engine.finish()


@pytest.mark.parametrize("architecture", ["qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_other_architectures(architecture: str, tmp_path: Path) -> None:
    """Shared experts, dense layers between, a choice by groups, biases of experts that are cut."""
    folder = write_random(tmp_path, architecture)
    reference = parity.reference(folder, lengths=LENGTHS, new_tokens=NEW_TOKENS)
    run(reference, "tp2dp2ep2" if architecture != "qwen3_moe" else "tp2dp2ep4")


def test_a_run_says_how_its_experts_were_loaded(mixtral: Asked) -> None:
    """As a table, and for programs: a prompt of five tokens, and one of two that it writes."""
    folder, layout = mixtral.reference.folder, parse_layout("tp2dp2ep2")
    pricing = Pricing(read_config(folder / "config.json"), assumed_fabric(4), dtype="fp32")
    cut = Cut(layout, (0, 1, 2, 3), ((0, LAYERS),))
    done = run_cut(folder, pricing, cut, [Prompt(mixtral.reference.prompts[1], 2)], limits=LIMITS)
    load, tokens = load_json(done), 6
    assert load is not None
    assert [sum(picks) for picks in load["picks"]] == [tokens * TOP_K] * LAYERS
    assert sum(load["rank_rows"]) == 2 * tokens * TOP_K * LAYERS  # two ranks share an expert
    assert 2 * tokens * LAYERS <= load["copies"] <= 4 * tokens * LAYERS
    expected = 2 * tokens * LAYERS * Tokens(1, TOP_K, EXPERTS, 2).reached(2)
    assert load["copies_expected"] == pytest.approx(expected)
    assert load["dispatch_bytes"] + load["combine_bytes"] == done.counted["ep"]["bytes"]
    heading, grid, said = load_table(done)
    assert isinstance(grid, Grid)
    assert [row[0] for row in grid.rows] == ["picks of an expert", "rows of a rank"]
    assert isinstance(said, Paragraph)
    assert f"{load['copies']} copies of rows" in said.text
    assert isinstance(heading, Heading)
