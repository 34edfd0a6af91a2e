"""Every architecture, whole and cut, in one process: the tokens and logits that transformers
computes, in fp32.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import parity
from inprocess import Cluster
from wirecut.engine.models.known import STYLES
from wirecut.layout.layout import Layout
from wirecut.spec.runnable import ARCHITECTURES, ROPES
from zoo import ROPES as SCALED
from zoo import SIZES, ZOO, write_random

TOLERANCE = 1e-4  # of logits; sums in another order, in float32
LENGTHS, NEW_TOKENS = (29, 5, 47), 10
CHUNKS = (1000, 20)
BY_LENGTH = ("dynamic", "longrope")  # ropes that differ by the length of a sequence
# 6 query heads and 3 key-value heads: alike, in whole groups, and one key head on several ranks.
CUTS = (Layout(tp=2), Layout(tp=3, pp=2), Layout(tp=6))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=ZOO)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp(request.param), request.param)


def check(folder: Path, layout: Layout, *, chunk: int, shares: tuple[int, ...] = ()) -> None:
    """Greedy tokens, one after another, are those that transformers finds likeliest behind all
    before.
    """
    draw = random.Random(0)
    prompts = [[draw.randrange(5, SIZES["vocab_size"]) for _ in range(n)] for n in LENGTHS]
    with Cluster(folder, layout, shares=shares) as cluster:
        tokens, logits = cluster.generate(prompts, NEW_TOKENS, chunk=chunk)
    model = loaded(folder)
    for prompt, answer, mine in zip(prompts, tokens, logits, strict=True):
        with torch.inference_mode():
            theirs = model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
        compare(mine, theirs)
        assert answer == theirs.argmax(-1).tolist()


@lru_cache(maxsize=1)
def loaded(folder: Path):
    return parity.load(folder)


def compare(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (mine - theirs).abs().max().item()
    assert difference < TOLERANCE
    assert parity.margin(theirs) > 2 * difference  # or else equal tokens are luck


@pytest.mark.parametrize("chunk", CHUNKS)
def test_whole(folder: Path, chunk: int) -> None:
    check(folder, Layout(), chunk=chunk)


@pytest.mark.parametrize("layout", CUTS, ids=str)
def test_cut(folder: Path, layout: Layout) -> None:
    check(folder, layout, chunk=20)


def test_cut_by_shares(folder: Path) -> None:
    check(folder, Layout(tp=2), chunk=20, shares=(2, 1))


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("layout", [Layout(tp=2, ep=2), Layout(tp=6, ep=2)], ids=str)
def test_experts_dealt_within_a_tp_group(architecture: str, layout: Layout, tmp_path: Path) -> None:
    check(write_random(tmp_path, architecture), layout, chunk=20)


@pytest.mark.parametrize("rope", [name for name in SCALED if name not in BY_LENGTH])
def test_scaled_rope(rope: str, tmp_path: Path) -> None:
    check(write_random(tmp_path, "mistral", rope_parameters=SCALED[rope]), Layout(), chunk=20)


@pytest.mark.parametrize("length", [29, 31])
def test_a_dynamic_rope_grows_with_the_sequence(tmp_path: Path, length: int) -> None:
    changes = {"rope_parameters": SCALED["dynamic"], "max_position_embeddings": 32}
    folder = write_random(tmp_path, "mistral", **changes)
    theirs = parity.reference(folder, lengths=(length,), new_tokens=8)
    with Cluster(folder, Layout()) as cluster:
        tokens, logits = cluster.generate(theirs.prompts * 2, 8, chunk=20)
    for mine in logits:
        compare(mine, theirs.logits[0])
    assert tokens == [theirs.tokens[0]] * 2


def test_what_is_known_is_said_to_be() -> None:
    assert set(STYLES) == set(ARCHITECTURES)
    assert set(ZOO) == set(STYLES) - {"gemma3"}
    assert {"default", "llama3"} | {rope.split("-")[0] for rope in SCALED} == set(ROPES)
