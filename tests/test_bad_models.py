"""Models that are not there, damaged or contradict themselves are refused by every command."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bad_input import GENERATE_PLAN, all_refuse, from_model, refused

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "no such folder"),
        ("owner/nowhere", "Hugging Face"),
        ("model/config.json/x", "no model"),
        (".", "no config.json"),
        ("", "the model's name is empty"),
        ("a" * 300, "no model '" + "a" * 80 + "...'"),
        ("a/" + "b" * 300, "no model 'a/bbb"),
        ("a" * 300 + " (fp8)", "no model 'aaa"),
        ("\udcff", "no model"),
    ],
)
def test_no_such_model(name: str, says: str) -> None:
    all_refuse(from_model(name), says)


CONFIG_DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"model_type": "mamba"}, "'mamba'; wirecut knows"),
    "layers": ({"num_hidden_layers": 5}, "model.layers.4."),
    "hidden": ({"hidden_size": 32}, "config.json makes it [320, 32]"),
    "heads": ({"num_attention_heads": 3}, "no multiple of num_key_value_heads"),
    "vocab": ({"vocab_size": 321}, "config.json makes it [321, 64]"),
    "negative": ({"vocab_size": -1}, "expected a whole number"),
    "absurd": ({"hidden_size": 10**30}, "expected a whole number"),
    "text": ({"num_hidden_layers": "four"}, "expected a whole number"),
    "scaled": ({"rope_scaling": "yarn"}, "rope_scaling"),
}


@pytest.mark.parametrize("damage", CONFIG_DAMAGES)
def test_a_config_that_is_unknown_or_contradicts_its_tensors(home: Path, damage: str) -> None:
    changes, says = CONFIG_DAMAGES[damage]
    path = home / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    all_refuse([*from_model(), GENERATE_PLAN], says)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_config_cut_short(home: Path, keep: int) -> None:
    path = home / "model" / "config.json"
    path.write_text(path.read_text()[:keep])
    all_refuse([*from_model(), GENERATE_PLAN], "config.json is not valid JSON")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_weights_cut_short(home: Path, keep: int) -> None:
    path = home / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    all_refuse([*from_model(), GENERATE_PLAN], "model.safetensors is cut short")


def test_a_tensor_missing(home: Path) -> None:
    path = home / "model" / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    renamed = whole[8 : 8 + length].replace(b"layers.2.mlp.up_proj", b"layers.2.mlp.up_xxxx")
    path.write_bytes(whole[:8] + renamed + whole[8 + length :])
    missing = "lacks 1 of the 39 tensors that its config.json asks for: model.layers.2.mlp.up_proj"
    all_refuse([*from_model(), GENERATE_PLAN], missing)


def test_no_weights_at_all(home: Path) -> None:
    (home / "model" / "model.safetensors").unlink()
    refused(*GENERATE_PLAN, says="has no model.safetensors")


@pytest.mark.parametrize("text", [None, "", "{", '{"version": "1.0"}', "[]"])
def test_a_tokenizer_missing_or_damaged(home: Path, text: str | None) -> None:
    path = home / "model" / "tokenizer.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    refused(*GENERATE_PLAN, says="tokenizer.json")


def test_a_tokenizer_of_another_model(home: Path) -> None:
    path = home / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["h"] = 400
    path.write_text(json.dumps(tokenizer))
    refused(*GENERATE_PLAN, says="token ids outside 0 to 319")
