"""Tensors are found and read alike wherever a checkpoint stores them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inprocess import Cluster
from wirecut.errors import ModelError
from wirecut.layout.layout import Layout
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config
from zoo import write_random

Weights = dict[str, torch.Tensor]
PROMPT = (7, 30, 150, 8, 91)


def logits(folder: Path) -> torch.Tensor:
    with Cluster(folder, Layout(tp=3)) as cluster:
        return cluster.generate([PROMPT, PROMPT], 1, chunk=9)[1][0]


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    changed = change(load_file(file))
    save_file({name: weight.contiguous() for name, weight in changed.items()}, file)


def stack_experts(weights: Weights) -> Weights:
    """As transformers holds experts: gate above up, all of a layer in one tensor."""
    found = {name: weight for name, weight in weights.items() if ".experts." not in name}
    for layer in range(3):
        at = f"model.layers.{layer}.mlp.experts."
        if f"{at}0.up_proj.weight" not in weights:
            continue
        parts = {
            part: torch.stack([weights[f"{at}{i}.{part}_proj.weight"] for i in range(5)])
            for part in ("gate", "up", "down")
        }
        found[f"{at}gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], 1)
        found[f"{at}down_proj"] = parts["down"]
    return found


def test_stacked_experts(tmp_path: Path) -> None:
    folder = write_random(tmp_path, "qwen2_moe")
    before = logits(folder)
    rewrite(folder, stack_experts)
    assert torch.equal(logits(folder), before)


def part_fused(weights: Weights) -> Weights:
    found: Weights = {}
    for name, weight in weights.items():
        if "qkv_proj" in name:
            parts = zip("qkv", weight.split([96, 48, 48]), strict=True)
            found |= {name.replace("qkv", one): part for one, part in parts}
        elif "gate_up" in name:
            parts = zip(("gate", "up"), weight.chunk(2), strict=True)
            found |= {name.replace("gate_up", one): part for one, part in parts}
        else:
            found[name] = weight
    return found


def test_what_phi3_fuses_may_lie_apart(tmp_path: Path) -> None:
    folder = write_random(tmp_path, "phi3")
    before = logits(folder)
    rewrite(folder, part_fused)
    assert torch.equal(logits(folder), before)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_language_model_within_one_that_sees(tmp_path: Path, prefix: str) -> None:
    folder = write_random(tmp_path, "gemma3_text")
    before = logits(folder)
    rewrite(folder, lambda weights: {n.replace("model.", prefix, 1): w for n, w in weights.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    assert torch.equal(logits(folder), before)


@pytest.mark.parametrize(
    ("architecture", "name", "says"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight", "lacks 1 of the"),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj_bias", "lacks 10 of the"),
        ("phi3", "model.layers.1.self_attn.qkv_proj.weight", "lacks 3 of the"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, architecture: str, name: str, says: str) -> None:
    folder = write_random(tmp_path, architecture)
    rewrite(folder, lambda weights: {n: w for n, w in weights.items() if n != name})
    with pytest.raises(ModelError, match=says):
        check_checkpoint(folder, read_config(folder / "config.json"))


def test_a_fused_tensor_of_another_shape(tmp_path: Path) -> None:
    folder = write_random(tmp_path, "gpt_oss")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    rewrite(folder, lambda weights: {**weights, name: weights[name][:, :, :-2]})
    with pytest.raises(ModelError, match=f"{name} has shape .5, 48, 138., config.json makes it"):
        check_checkpoint(folder, read_config(folder / "config.json"))
