"""Weight formats: what `quantization_config` says of each tensor, and what it weighs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs import DEMO, spec_of
from wirecut.errors import ModelError, UsageError
from wirecut.spec.bundled import FOLDER, find_bundled
from wirecut.spec.fields import Fields
from wirecut.spec.formats import element_bits
from wirecut.spec.hf import from_config, read_config
from wirecut.spec.quantization import Names

LINEAR = {"targets": ["Linear"]}


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16),
        ("fp8", 8),
        ("fp8-b128", 8 + 32 / 128**2),
        ("int4-g128", 4 + 20 / 128),
        ("int4-s32", 4.5),
        ("int4-row", 4),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
        ("nf4", 4.5),
    ],
)
def test_bits_of_an_element_with_its_scales(name, bits):
    assert element_bits(name) == bits


@pytest.mark.parametrize("name", ["", "fp3", "bf16-g8", "int4-g0", "int4-", "INT4", "int4-g128x"])
def test_an_unknown_format_is_refused(name):
    with pytest.raises(UsageError, match="is not known; wirecut knows fp32"):
        element_bits(name)


def formats(spec, layer: int = 0) -> dict[str, str]:
    return {tensor.name: tensor.format for tensor in spec.layer_tensors(spec.layers[layer])}


def demo(config):
    return spec_of(quantization_config=config)


@pytest.mark.parametrize(
    ("config", "linear", "activations"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-b128", "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4-g64", ""),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", ""),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4-row", ""),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", ""),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "nvfp4"),
        ({"quantization": {"quant_algo": "W4A8_AWQ"}}, "int4-g128", "fp8"),
    ],
)
def test_methods(config, linear, activations):
    spec = demo(config)
    assert (spec.weights.linear, spec.weights.activations) == (linear, activations)
    found = formats(spec)
    assert found["mlp.up_proj.weight"] == found["self_attn.q_proj.weight"] == linear
    assert found["input_layernorm.weight"] == ""
    assert spec.outside_tensors[-1].name == "lm_head.weight"
    assert spec.outside_tensors[-1].format == ""


@pytest.mark.parametrize(
    ("weights", "inputs", "linear", "activations"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "tensor"}, 8, "fp8", "fp8"),
        ({"num_bits": 8, "type": "float", "strategy": "block"}, 8, "fp8-b128", "fp8"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, 4, "nvfp4", "nvfp4"),
        ({"num_bits": 4, "type": "float", "group_size": 32}, None, "mxfp4", ""),
    ],
)
def test_compressed_tensors(weights, inputs, linear, activations):
    group = {**LINEAR, "weights": weights}
    if inputs:
        group["input_activations"] = {"num_bits": inputs, "type": "float"}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    spec = demo({**config, "kv_cache_scheme": {"num_bits": 8, "type": "float"}})
    assert (spec.weights.linear, spec.weights.activations) == (linear, activations)
    assert (spec.kv_dtype, spec.head_format) == ("fp8", linear)  # the head is a Linear too
    kept = demo({**config, "ignore": ["lm_head", "re:.*self_attn.*"]})
    assert kept.head_format == formats(kept)["self_attn.q_proj.weight"] == ""
    assert formats(kept)["mlp.up_proj.weight"] == linear


def test_a_layer_that_is_left_alone_is_a_kind_of_its_own():
    spec = demo({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]})
    assert formats(spec, 0)["mlp.up_proj.weight"] == ""
    assert formats(spec, 1)["mlp.up_proj.weight"] == "fp8"
    assert sorted(spec.kinds.values()) == [1, 7]
    everything = demo({"quant_method": "fp8"})
    assert spec.weight_bytes() - everything.weight_bytes() == 3 * 704 * 256


@pytest.mark.parametrize(
    ("pattern", "module", "holds"),
    [
        ("lm_head", "lm_head", True),
        ("model.layers.1", "model.layers.1.mlp.up_proj", True),
        ("model.layers.1", "model.layers.10.mlp.up_proj", False),
        ("model.layers.1.*", "model.layers.10.mlp.up_proj", False),
        ("model.layers.*.self_attn", "model.layers.3.self_attn.q_proj", True),
        ("re:.*mlp\\.(gate|up)_proj.*", "model.layers.0.mlp.up_proj", True),
        ("re:.*mlp\\.(gate|up)_proj.*", "model.layers.0.mlp.experts.0.up_proj", False),
        ("gate", "model.layers.0.mlp.gate", True),
        ("gate", "model.layers.0.mlp.gate_proj", False),
    ],
)
def test_patterns_of_modules(pattern, module, holds):
    assert (module in Names([pattern])) == holds


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "hqq"}, r"quant_method 'hqq'; wirecut knows auto-round, awq"),
        ({"quant_method": "gptq", "bits": 3}, "bits is 3, wirecut knows 4 and 8"),
        ({"quant_method": "fp8", "weight_block_size": ["a"]}, r"weight_block_size is \['a'\]"),
        ({"quant_method": "fp8", "modules_to_not_convert": [1]}, "1 is listed as a module"),
        ({"quant_method": "compressed-tensors"}, "config_groups names no group"),
        ({"quant_algo": "FP5"}, "quant_algo is 'FP5'; wirecut knows MIXED_PRECISION, FP8"),
        ({"quant_algo": "MIXED_PRECISION"}, "quantized_layers names nothing"),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["re:("]},
            "no regular expressions",
        ),
    ],
)
def test_what_cannot_be_read_says_what_is_known(config, words):
    with pytest.raises(ModelError, match=words):
        demo(config)


def test_modelopt_s_own_file_beside_the_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DEMO))
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    spec = read_config(tmp_path / "config.json")
    assert (spec.weights.linear, spec.kv_dtype) == ("nvfp4", "fp8")
    own = {**DEMO, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    spec = read_config(tmp_path / "config.json")
    assert (spec.weights.linear, spec.kv_dtype) == ("fp8", "fp8")


# gpt-oss: checkpoints of 12.8 and 60.8 GiB (its model card); Kimi-K2.5: about 594 GB.
@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("openai/gpt-oss-20b", 13.74),
        ("openai/gpt-oss-120b", 65.28),
        ("moonshotai/Kimi-K2.5", 594.0),
    ],
)
def test_weights_weigh_what_is_published(name, gigabytes):
    spec = find_bundled(name)
    assert spec is not None
    assert spec.weight_bytes() / 1e9 == pytest.approx(gigabytes, rel=0.005)


def test_an_fp8_checkpoint_by_hand():
    spec = find_bundled("nvidia/Llama-3.1-70B-Instruct-FP8")
    assert spec is not None
    kept = 2 * 128256 * 8192 + (2 * 80 + 1) * 8192  # embedding, head and norms: two bytes each
    assert spec.weight_bytes() == spec.parameters + kept


def test_experts_alone_in_a_format():
    spec = find_bundled("openai/gpt-oss-20b")
    assert spec is not None
    quantised = {name for name, format in formats(spec).items() if format}
    at = "mlp.experts.{expert}."
    assert quantised == {f"{at}{name}_proj.weight" for name in ("gate", "up", "down")}
    mixed = find_bundled("deepseek-ai/DeepSeek-V4-Flash")
    assert mixed is not None
    found = formats(mixed)
    assert found["ffn.experts.{expert}.up_proj.weight"] == "mxfp4"
    assert found["ffn.shared_experts.up_proj.weight"] == "fp8-b128"


REAL = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))[::7]]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_harmed_configuration_crashes(data):
    config = data.draw(st.sampled_from(REAL))
    fields = config.get("text_config", config)
    quantised = config.get("quantization_config") or {}
    harm = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), anything, max_size=3))
    harmed = {**fields, **harm}
    if "text_config" in config:
        harmed = {**config, "text_config": harmed}
    if quantised:
        keys = st.sampled_from(sorted(quantised))
        harmed["quantization_config"] = {
            **quantised,
            **data.draw(st.dictionaries(keys, anything, max_size=2)),
        }
    try:
        spec = from_config(harmed, name="test", where="config.json")
    except ModelError:
        return
    assert spec.parameters > 0


def test_fields_say_where_they_are_from():
    with pytest.raises(ModelError, match=r"^here: inside: size is 'x'"):
        Fields({"inside": {"size": "x"}}, "here").inner("inside").count("size")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("nvidia/Qwen3.6-27B-NVFP4", 0.001),  # all but the small projections of linear attention
        ("nvidia/Gemma-4-31B-IT-NVFP4", 0.29),  # attention stays
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", 0.001),
        ("nvidia/Kimi-K2.5-NVFP4", 0.006),  # 61 x 101 M of attention in 1,026 B
        ("MiniMaxAI/MiniMax-M2.5", 0.001),
    ],
)
def test_names_in_lists_of_modules_meet_the_tensors(name, plain):
    spec = find_bundled(name)
    assert spec is not None
    linears = [
        (tensor.elements * count, tensor.format)
        for layer, count in spec.kinds.items()
        for tensor in spec.layer_tensors(layer)
        if tensor.is_linear and tensor.part not in ("router", "decay")
    ]
    kept = sum(elements for elements, format in linears if not format)
    assert kept / sum(elements for elements, _ in linears) == pytest.approx(plain, abs=0.004)
