"""What the engine reads of a configuration beside sizes, and what it says when that is wrong."""

import math

import pytest
import torch

from wirecut.engine.models.known import STYLES
from wirecut.engine.models.ropes import Yarn, read_rope
from wirecut.engine.rope import rope_tables
from wirecut.errors import ModelError
from wirecut.spec.fields import Fields
from zoo import SIZES, ZOO


def fields(architecture: str, **changes: object) -> Fields:
    return Fields({**SIZES, **ZOO[architecture], **changes}, "config.json")


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "axial"}},
            "rope_type is 'axial'; wirecut runs",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor is None, expected a pos"),
        (
            "llama",
            {"rope_parameters": {**ZOO["llama"]["rope_parameters"], "low_freq_factor": 4.0}},
            "low_freq_factor 4.0 is not below",
        ),
        (
            "phi3",
            {"rope_parameters": {"partial_rotary_factor": 1.5}},
            "partial_rotary_factor is 1.5, expected at",
        ),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_activation is 'relu'; wirecut runs"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act is 'relu'; wirecut runs silu"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is"),
        ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping is -1.0, expected"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', expected one of"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob is true, expected false"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax', expected"),
        ("deepseek_v3", {"n_group": None}, "n_group is None, expected a whole number"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes', expected true or false"),
    ],
)
def test_what_is_not_known_is_refused(
    architecture: str, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ModelError, match=f"^config.json: {says}"):
        STYLES[architecture](fields(architecture, **changes))


def test_ropes_before_transformers_5() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert read_rope(Fields(old, "a")) == read_rope(Fields(new, "b"))
    gemma = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "hidden_size": 64}
    scaled = {**gemma, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    style = STYLES["gemma3_text"](Fields(scaled, "c"))
    assert style.window_rope is not None
    assert (style.rope.theta, style.window_rope.theta) == (1e6, 1e4)
    assert style.window_rope.scaling != style.rope.scaling


def test_yarn_as_deepseek_v3_has_it() -> None:
    """Factor 40 with equal mscales: cosines as they are, scores times (0.1 ln 40 + 1) squared."""
    yarn = {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0}
    yarn |= {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
    heads = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rope_scaling": yarn}
    style = STYLES["deepseek_v3"](fields("deepseek_v3", rope_parameters=None, **heads))
    assert isinstance(style.rope.scaling, Yarn)
    assert style.rope.scaling.magnitude == 1.0
    assert style.scale == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)


def test_the_share_of_a_head_that_turns() -> None:
    rope = read_rope(fields("phi3"))
    cos_PD, sin_PD = rope_tables(
        rope, 16, positions=8, dtype=torch.float32, device=torch.device("cpu")
    )
    assert cos_PD.shape == sin_PD.shape == (8, 12)
