"""What the engine of this version runs, and what it says of models that it only plans."""

import pytest

from specs import DEMO, spec_of
from wirecut.engine.engine import check_runnable
from wirecut.engine.text import Text
from wirecut.errors import ModelError
from wirecut.spec.bundled import find_bundled


def test_a_plain_llama_is_run():
    check_runnable(spec_of(DEMO))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bias": True}, "has biases: wirecut plans it"),
        ({"mlp_bias": True}, "has biases: wirecut plans it"),
        ({"quantization_config": {"quant_method": "fp8"}}, "has weights in fp8: wirecut plans it"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "scales its rotary embedding"),
        ({"model_type": "mistral"}, "is a mistral model: wirecut plans it, but runs llama"),
    ],
)
def test_what_is_planned_only_says_why(changes, words):
    with pytest.raises(ModelError, match=words):
        check_runnable(spec_of(DEMO, **changes))


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "deepseek-ai/DeepSeek-V3", "facebook/opt-13b"])
def test_other_architectures_are_planned_only(name):
    spec = find_bundled(name)
    assert spec is not None
    with pytest.raises(ModelError, match=f"is a {spec.architecture} model"):
        check_runnable(spec)


def test_weights_that_are_not_here(tmp_path):
    with pytest.raises(ModelError, match="weights are not on this machine"):
        Text(tmp_path / "models--a--b")
