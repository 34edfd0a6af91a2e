"""Every architecture in one process: the tokens and logits that transformers computes, in fp32."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import parity
from inprocess import generate, whole_stage
from wirecut.engine.models.known import STYLES
from wirecut.spec.runnable import ARCHITECTURES, ROPES
from zoo import ROPES as SCALED
from zoo import SIZES, ZOO, write_random

TOLERANCE = 5e-5  # of logits; sums in another order, in float32
LENGTHS, NEW_TOKENS = (29, 5, 47), 16
CHUNKS = (1000, 20)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(folder: Path) -> None:
    """Greedy tokens, one after another, are those that transformers finds likeliest behind all
    before.
    """
    draw = random.Random(0)
    prompts = [[draw.randrange(5, SIZES["vocab_size"]) for _ in range(n)] for n in LENGTHS]
    model = parity.load(folder)
    for chunk in CHUNKS:
        tokens, logits = generate(whole_stage(folder), prompts, NEW_TOKENS, chunk=chunk)
        for prompt, answer, mine in zip(prompts, tokens, logits, strict=True):
            with torch.inference_mode():
                theirs = model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
            compare(mine, theirs)
            assert answer == theirs.argmax(-1).tolist()


def compare(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (mine - theirs).abs().max().item()
    assert difference < TOLERANCE
    assert parity.margin(theirs) > 2 * difference  # or else equal tokens are luck


@pytest.mark.parametrize("architecture", ZOO)
def test_architecture(architecture: str, tmp_path: Path) -> None:
    check(write_random(tmp_path, architecture))


@pytest.mark.parametrize("rope", [name for name in SCALED if name != "dynamic"])
def test_scaled_rope(rope: str, tmp_path: Path) -> None:
    check(write_random(tmp_path, "mistral", rope_parameters=SCALED[rope]))


def test_a_dynamic_rope_grows_with_the_sequence(tmp_path: Path) -> None:
    changes = {"rope_parameters": SCALED["dynamic"], "max_position_embeddings": 32}
    folder = write_random(tmp_path, "mistral", **changes)
    theirs = parity.reference(folder, lengths=(29, 31), new_tokens=8)
    for chunk in CHUNKS:
        tokens, logits = generate(whole_stage(folder), theirs.prompts, 8, chunk=chunk)
        for mine, expected in zip(logits, theirs.logits, strict=True):
            compare(mine, expected)
        assert tuple(tokens) == theirs.tokens


def test_what_is_known_is_said_to_be() -> None:
    assert set(STYLES) == set(ARCHITECTURES)
    assert set(ZOO) == set(STYLES) - {"gemma3"}
    assert {"default", "llama3"} | {rope.split("-")[0] for rope in SCALED} == set(ROPES)
