"""Reading `config.json`: sizes by hand, and every contradiction named."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs import DEMO, LLAMA_8B, spec_of
from wirecut.errors import ModelError, UsageError
from wirecut.spec.attention import Attention
from wirecut.spec.feedforward import Mlp
from wirecut.spec.hf import from_config, read_config
from wirecut.spec.model import Layer
from wirecut.spec.traffic import Traffic


def test_the_demo_model_by_hand():
    spec = spec_of()
    assert spec.layers == (Layer(Attention(8, 4, 32), Mlp(704)),) * 8
    attention = 256 * (256 + 128 + 128 + 256)
    assert spec.parameters == 2 * 4096 * 256 + 8 * (attention + 3 * 256 * 704 + 2 * 256) + 256
    assert spec.parameters == 7_999_744
    assert spec.kv_bytes_per_token("bf16") == 8 * 2 * 4 * 32 * 2
    assert spec.kv_bytes_per_token("fp32") == 2 * spec.kv_bytes_per_token("bf16")
    assert (spec.dtype, spec.stop_tokens, spec.max_positions) == ("bf16", (2,), 512)


def test_llama_3_1_8b_has_the_published_number_of_parameters():
    spec = spec_of(LLAMA_8B)
    assert spec.parameters == 8_030_261_248
    assert spec.kv_bytes_per_token("bf16") == 131072


def test_a_tied_head_is_counted_once():
    tied = spec_of(tie_word_embeddings=True)
    assert tied.parameters == 7_999_744 - 4096 * 256
    assert "lm_head.weight" not in [tensor.name for tensor in tied.tensors]


def test_tensors_have_checkpoint_names_and_shapes():
    shapes = {tensor.name: tensor.shape for tensor in spec_of().tensors}
    assert len(shapes) == 3 + 8 * 9
    assert shapes["model.layers.7.self_attn.k_proj.weight"] == (128, 256)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (256, 704)
    assert shapes["model.norm.weight"] == (256,)
    assert shapes["lm_head.weight"] == (4096, 256)


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({"head_dim": 16}, Attention(8, 4, 16)),
        ({"head_dim": None}, Attention(8, 4, 32)),
        ({"num_key_value_heads": None}, Attention(8, 8, 32)),
        ({"hidden_size": 250, "head_dim": 64}, Attention(8, 4, 64)),
    ],
)
def test_what_is_not_given_follows_from_the_rest(changes, attention):
    assert spec_of(**changes).layers[0].mixer == attention


@pytest.mark.parametrize(
    ("changes", "dtype", "theta", "stop"),
    [
        ({"torch_dtype": None}, "fp32", 10000.0, (2,)),
        ({"dtype": "float16"}, "fp16", 10000.0, (2,)),
        ({"rope_theta": 5e5, "eos_token_id": [2, 7]}, "bf16", 5e5, (2, 7)),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 7}, "eos_token_id": None},
            "bf16",
            7.0,
            (),
        ),
    ],
)
def test_fields_old_and_new(changes, dtype, theta, stop):
    spec = spec_of(**changes)
    assert (spec.dtype, spec.rope_theta, spec.stop_tokens) == (dtype, theta, stop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, r"model_type is 'gpt2'; wirecut knows .*llama.*not guessed"),
        ({"model_type": None}, r"model_type is None"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]"),
        ({"hidden_size": None}, r"hidden_size is None, expected a whole number"),
        ({"hidden_size": "256"}, r"hidden_size is '256'"),
        ({"hidden_size": 256.0}, r"hidden_size is 256\.0"),
        ({"hidden_size": True}, r"hidden_size is True"),
        ({"hidden_size": 0}, r"hidden_size is 0"),
        ({"vocab_size": -5}, r"vocab_size is -5"),
        ({"vocab_size": 10**12}, r"vocab_size is 1000000000000, .* to 10000000"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers is 0"),
        ({"num_hidden_layers": 100_000}, r"num_hidden_layers is 100000, .* to 10000"),
        ({"num_key_value_heads": 3}, r"num_attention_heads 8 is no multiple of .* 3"),
        ({"hidden_size": 250}, r"hidden_size 250 is no multiple of num_attention_heads 8"),
        ({"head_dim": 33}, r"head_dim 33 is odd"),
        ({"rope_scaling": "llama3"}, r"rope_scaling is 'llama3', expected an object"),
        ({"quantization_config": {"bits": 4}}, r"quant_method ''; wirecut knows .*awq"),
        ({"quantization_config": 4}, r"quantization_config is 4, expected an object"),
        ({"attention_bias": 1}, r"attention_bias is 1, expected true or false"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu', expected 'silu'"),
        ({"rms_norm_eps": -1}, r"rms_norm_eps is -1"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is nan"),
        ({"rope_theta": "big"}, r"rope_theta is 'big'"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        ({"rope_parameters": {"rope_type": 3}}, r"rope_type is 3"),
        ({"dtype": "int8"}, r"dtype is 'int8', expected one of float32"),
        ({"dtype": {"x": 1}}, r"dtype is \{'x': 1\}"),
        ({"eos_token_id": True}, r"eos_token_id is True"),
        ({"eos_token_id": "end"}, r"eos_token_id is 'end'"),
        ({"eos_token_id": [1, -2]}, r"eos_token_id is \[1, -2\]"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings is 0"),
    ],
)
def test_a_configuration_that_cannot_be_used_names_file_and_field(changes, words):
    with pytest.raises(ModelError, match=r"^config\.json: .*" + words):
        spec_of(**changes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (json.dumps(DEMO).encode()[:100], "is it cut short"),
        (b"[1, 2]", "holds list, expected a JSON object"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_file(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_file_gives_the_model_its_folder_s_name(tmp_path):
    folder = tmp_path / "little-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DEMO))
    assert read_config(folder / "config.json").name == "little-llama"
    with pytest.raises(ModelError, match=r"cannot read .*No such file"):
        read_config(tmp_path / "config.json")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3) | st.just("rope_type"), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted([*DEMO, "dtype", "rope_parameters"])), anything))
def test_no_configuration_crashes(changes):
    try:
        spec = from_config({**DEMO, **changes}, name="test", where="config.json")
    except ModelError:
        return
    assert spec.num_layers >= 1
    assert spec.rope_theta > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_tokens": 0}, "input_tokens is 0"),
        ({"output_tokens": -1}, "output_tokens is -1"),
        ({"input_tokens": 1.5}, r"input_tokens is 1\.5"),
        ({"input_tokens": True}, "input_tokens is True"),
        ({"output_tokens": None}, "output_tokens is None"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"num_requests": 10**9}, "num_requests is 1000000000, .* to 100000000"),
        ({"rate": 0.0}, r"rate is 0\.0, expected a number from 1e-09"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"ttft_ms": -3.0}, r"ttft_ms is -3\.0"),
        ({"concurrency": 4, "rate": 2.0}, "both concurrency and rate"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        Traffic(**fields)


@pytest.mark.parametrize(
    ("traffic", "at_once"),
    [
        (Traffic(), 1),
        (Traffic(concurrency=8), 8),
        (Traffic(concurrency=8, num_requests=5), 5),
        (Traffic(rate=2.0), None),
        (Traffic(rate=math.inf), None),
        (Traffic(rate=math.inf, num_requests=256), 256),
        (Traffic(static_batch=True, num_requests=256), 256),
        (Traffic(static_batch=True, concurrency=32), 32),
        (Traffic(static_batch=True, rate=math.inf), 1),
    ],
)
def test_requests_at_once(traffic: Traffic, at_once: int | None):
    assert traffic.requests_at_once == at_once


def test_traffic_in_words():
    assert Traffic(512, 128, 8).describe() == "512 tokens in, 128 out, 8 at once"
    assert Traffic(512, 128).describe() == "512 tokens in, 128 out, 1 at once"
    assert Traffic(5, 1, rate=2.5).describe() == "5 tokens in, 1 out, 2.5 requests/s"
    batch = Traffic(5, 1, num_requests=32, static_batch=True)
    assert batch.describe() == "5 tokens in, 1 out, 32 at once"
