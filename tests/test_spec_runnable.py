"""What the engine of this version runs, and what it says of models that it only plans."""

import pytest

from specs import DEMO, spec_of
from wirecut.api import plan_file_of
from wirecut.engine.engine import check_runnable
from wirecut.engine.text import Text
from wirecut.errors import ModelError
from wirecut.explain.notes import notes
from wirecut.planner.plan_file import ranking_of
from wirecut.spec.bundled import find_bundled


def test_a_plain_llama_is_run():
    check_runnable(spec_of(DEMO))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "has weights in nf4 .bitsandbytes.: wirecut plans it",
        ),
        ({"rope_scaling": {"rope_type": "proportional"}}, "rotary embedding by proportional"),
        (
            {"model_type": "glm"},
            "is of architecture glm: wirecut plans it, but runs llama, mistral",
        ),
    ],
)
def test_what_is_planned_only_says_why(changes, words):
    with pytest.raises(ModelError, match=words):
        check_runnable(spec_of(DEMO, **changes))


@pytest.mark.parametrize("name", ["zai-org/GLM-4.5-Air", "facebook/opt-13b"])
def test_other_architectures_are_planned_only(name):
    spec = find_bundled(name)
    assert spec is not None
    with pytest.raises(ModelError, match=f"is of architecture {spec.architecture}"):
        check_runnable(spec)


def test_planning_for_the_own_engine_says_that_it_does_not_run_the_model():
    def told(model: str, engine: str) -> str:
        plan = plan_file_of(model, "2xL40S", engine=engine)
        return " ".join(one.text for one in notes(plan, ranking_of(plan)))

    other = "allenai/OLMo-2-1124-7B"
    says = "is of architecture olmo2: wirecut plans it, but runs llama, mistral"
    assert says in told(other, "wirecut")
    assert "plan with `--engine vllm`" in told(other, "wirecut")
    assert says not in told(other, "vllm")
    assert "does not run" not in told("Qwen/Qwen3-0.6B", "wirecut")


def test_weights_that_are_not_here(tmp_path):
    with pytest.raises(ModelError, match="weights are not on this machine"):
        Text(tmp_path / "models--a--b")
