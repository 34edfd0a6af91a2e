"""Every bundled model: parameters as published, and what its layers keep and compute by hand."""

import json
from pathlib import Path

import pytest

from wirecut.errors import ModelError, UsageError
from wirecut.spec.attention import Attention, LatentAttention
from wirecut.spec.bundled import FOLDER, catalogue_names, find_bundled, published_parameters
from wirecut.spec.feedforward import Moe
from wirecut.spec.find import find_model
from wirecut.spec.hf import READERS, from_config
from wirecut.spec.model import ModelSpec
from wirecut.spec.recurrent import LinearAttention, Mamba

PUBLISHED = published_parameters()


def bundled(name: str) -> ModelSpec:
    spec = find_bundled(name)
    assert spec is not None, name
    return spec


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    assert bundled(name).parameters == PUBLISHED[name]


def test_counts_of_note_are_in_the_list():
    wanted = {
        "meta-llama/Meta-Llama-3.1-8B": 8_030_261_248,
        "meta-llama/Meta-Llama-3.1-405B": 405_853_388_800,
        "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
        "Qwen/Qwen2.5-7B": 7_615_616_512,
        "google/gemma-2-27b": 27_227_128_320,
        "deepseek-ai/DeepSeek-V3": 671_026_419_200,
        "openai/gpt-oss-120b": 116_829_156_672,
        "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    }
    assert {name: PUBLISHED[name] for name in wanted} == wanted


# What transformers 5.23 counts on its meta device, with the router's correction bias that it holds
# as a buffer; of the families that PUBLISHED does not cover.
COUNTED = {
    "MiniMaxAI/MiniMax-M2.5": 228_689_764_864,
    "MiniMaxAI/MiniMax-M3": 426_174_572_928,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 79_674_391_296,
    "Qwen/Qwen3.5-27B": 26_895_998_464,
    "Qwen/Qwen3.5-397B-A17B": 396_346_350_336,
    "XiaomiMiMo/MiMo-V2-Flash": 308_778_780_864,
    "deepseek-ai/DeepSeek-V3.2": 671_877_944_064,
    "deepseek-ai/DeepSeek-V4-Flash": 284_332_240_471,
    "google/gemma-3-27b-it": 27_009_346_304,
    "google/gemma-4-26B-A4B": 25_233_141_790,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 107_769_861_120,
    "moonshotai/Kimi-K2.5": 1_026_408_232_448,
    "nvidia/Nemotron-H-56B-Base-8K": 56_324_350_464,
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8": 120_668_707_840,
    "zai-org/GLM-4.5-Air": 106_852_251_264,
    "zai-org/GLM-4.7-Flash": 29_943_393_920,
    "zai-org/GLM-5": 743_911_218_432,
    "zai-org/GLM-5.3": 743_377_019_904,
}


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_those_that_transformers_counts(name):
    assert bundled(name).parameters == COUNTED[name]


def test_every_bundled_model_adds_up():
    names = catalogue_names()
    assert len(names) > 400
    for name in names:
        spec = bundled(name)
        assert spec.name == name
        assert 0 < spec.active_parameters <= spec.parameters
        assert 0 < spec.weight_bytes() <= 4 * spec.parameters
        assert spec.kv_bytes_per_token("bf16") > 0, name
        assert spec.flops_per_token(2048) > spec.flops_per_token(1) > 0


def test_every_architecture_has_a_bundled_model():
    seen = {bundled(name).architecture for name in catalogue_names()}
    alike = {  # read by the same reader as another that is seen
        *("ministral", "ministral3", "qwen2_vl", "qwen2_5_vl", "gemma3_text"),
        *("llama4_text", "kimi_k25", "glm5_next_text", "gemma4_text", "step3p5", "minimax_m3_vl"),
        *("qwen3_5_text", "qwen3_5_moe_text", "cohere2", "kimi_k3"),
    }
    assert set(READERS) - seen <= alike


def test_tensors_are_the_layers_and_what_is_outside():
    for name in ("openai/gpt-oss-20b", "Qwen/Qwen3.5-35B-A3B", "zai-org/GLM-5"):
        spec = bundled(name)
        assert sum(tensor.elements for tensor in spec.tensors) == spec.parameters
        names = [tensor.name for tensor in spec.tensors]
        assert len(set(names)) == len(names)


def test_active_parameters_by_hand():
    spec = bundled("Qwen/Qwen3-30B-A3B")
    moe = spec.layers[0].mlp
    assert isinstance(moe, Moe)
    assert (moe.experts, moe.top_k, moe.intermediate, moe.shared) == (128, 8, 768, 0)
    asleep = 48 * (128 - 8) * 3 * 768 * 2048
    assert spec.active_parameters == spec.parameters - asleep


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", 80 * 2 * 8 * 128),
        ("google/gemma-2-9b", 42 * 2 * 8 * 256),
        ("deepseek-ai/DeepSeek-V3", 61 * (512 + 64)),
        ("zai-org/GLM-5", 78 * (512 + 64 + 128)),
        ("zai-org/GLM-5.3", 78 * (512 + 64) + 21 * 128),  # 21 layers have an indexer of their own
        ("Qwen/Qwen3.5-27B", 16 * 2 * 4 * 256),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 6 * 2 * 2 * 128),
        ("XiaomiMiMo/MiMo-V2-Flash", 9 * 4 * (192 + 128) + 39 * 8 * (192 + 128)),
    ],
)
def test_what_a_token_leaves_behind(name, elements):
    assert bundled(name).kv_bytes_per_token("bf16") == 2 * elements


def test_windows_bound_what_is_read_and_kept():
    layers = bundled("google/gemma-2-9b").layers
    near, far = layers[0].mixer, layers[1].mixer
    assert isinstance(near, Attention)
    assert isinstance(far, Attention)
    assert (near.window, far.window) == (4096, None)
    assert [near.keys(n) for n in (10, 4096, 8000)] == [10, 4096, 4096]
    assert (near.cached_tokens(8000), far.cached_tokens(8000)) == (4096, 8000)


def test_latent_attention_by_hand():
    mixer = bundled("deepseek-ai/DeepSeek-V3").layers[0].mixer
    assert mixer == LatentAttention(128, 1536, 512, 128, 64, 128)
    assert mixer.pair_flops(decode=False) == 2 * 128 * (128 + 64 + 128)
    assert mixer.pair_flops(decode=True) == 2 * 128 * (512 + 64 + 512)
    sparse = bundled("deepseek-ai/DeepSeek-V3.2").layers[0].mixer
    assert sparse is not None
    assert [sparse.keys(n) for n in (100, 2048, 9000)] == [100, 2048, 2048]
    assert (sparse.index_keys(9000), sparse.index_flops) == (9000, 2 * 64 * 128)


def test_hybrids_keep_a_state_beside_few_keys():
    spec = bundled("Qwen/Qwen3-Next-80B-A3B-Instruct")
    linear = LinearAttention(16, 32, 128, 128, 4)
    assert [layer.mixer == linear for layer in spec.layers[:4]] == [True, True, True, False]
    state = 32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128)
    assert spec.state_elements == 36 * state
    nemotron = bundled("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    kinds = [type(layer.mixer or layer.mlp) for layer in nemotron.layers]
    assert (kinds.count(Mamba), kinds.count(Moe), kinds.count(Attention)) == (23, 23, 6)
    assert all((layer.mixer is None) != (layer.mlp is None) for layer in nemotron.layers)


def test_compressed_keys_of_deepseek_v4():
    spec = bundled("deepseek-ai/DeepSeek-V4-Flash")
    window, indexed, pooled = spec.layers[0].mixer, spec.layers[2].mixer, spec.layers[3].mixer
    assert None not in (window, indexed, pooled)
    assert [mixer.keys(64_000) for mixer in (window, indexed, pooled)] == [128, 128 + 512, 628]
    assert (window.kv, pooled.kv[0].each, indexed.kv[0].each) == ((), 4, (512 + 128) // 4)


def test_flops_are_twice_the_active_weights_and_the_attention():
    spec = bundled("meta-llama/Meta-Llama-3.1-8B")
    norms = (2 * 32 + 1) * 4096
    products = 2 * (spec.parameters - norms - 128256 * 4096)
    assert spec.flops_per_token(1000) == products + 32 * 1000 * 4 * 4096
    tied = bundled("meta-llama/Llama-3.2-1B")
    assert tied.flops_per_token(0) == 2 * (tied.parameters - (2 * 16 + 1) * 2048)


def test_a_model_is_found_by_id_alias_and_short_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("meta-llama/Llama-3.1-70B", "llama-3.1-70b", "Meta-Llama-3.1-70B-Instruct"):
        _, spec = find_model(name)
        assert spec.parameters == 70_553_706_496, name
    assert find_model("meta-llama/Llama-3.1-70B")[1].name == "meta-llama/Llama-3.1-70B"
    assert find_model("nvidia/Llama-3.3-70B-Instruct-FP8")[1].weights.linear == "fp8"


def test_a_short_name_that_fits_several_models_lists_them(monkeypatch, tmp_path):
    made = {"a/Same-1B": ("x/one", None), "b/Same-1B": ("x/two", None)}
    monkeypatch.setattr("wirecut.spec.bundled.catalogue_names", lambda: tuple(made))
    monkeypatch.setattr("wirecut.spec.bundled._origin", made.get)
    with pytest.raises(ModelError, match=r"'same-1b' fits a/Same-1B, b/Same-1B: give one"):
        find_bundled("same-1b")


def test_the_cache_of_the_hub_comes_before_the_catalogue(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    home = tmp_path / "hub" / "models--meta-llama--Meta-Llama-3-8B"
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert find_model("meta-llama/Meta-Llama-3-8B")[1].num_layers == 32
    config = json.loads((FOLDER / "meta-llama--Meta-Llama-3-8B.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    folder, spec = find_model("meta-llama/Meta-Llama-3-8B")
    assert (folder, spec.num_layers) == (snapshot, 2)


@pytest.mark.parametrize(
    ("suffix", "linear"), [("AWQ", "int4-g128"), ("AutoRound INT4", "int4-g128"), ("FP8", "fp8")]
)
def test_a_format_in_parentheses(suffix, linear):
    name = f"Qwen/Qwen3-32B ({suffix})"
    spec = find_model(name)[1]
    assert (spec.name, spec.weights.linear) == (name, linear)


def test_a_name_that_is_nowhere():
    for name in ("no such model", "Qwen3-32B (of mine)", "()", "x ()"):
        with pytest.raises(ModelError, match="catalogue does not know it"):
            find_model(name)


def test_bundled_files_are_read_as_they_are():
    for path in Path(FOLDER).glob("*.json"):
        config = json.loads(path.read_text())
        assert from_config(config, name=path.stem, where=path.name).num_layers > 1


def test_requantising_leaves_embedding_head_and_router():
    spec = bundled("Qwen/Qwen3-30B-A3B")
    half = spec.quantized("int8")
    assert half.parameters == spec.parameters
    kept = 2 * 151936 * 2048 + 2048 + 48 * (128 * 2048 + 2 * 2048 + 2 * 128)
    assert half.weight_bytes() == spec.parameters + kept
    assert half.weights.linear == "int8"
    with pytest.raises(UsageError, match="format 'int3' is not known; wirecut knows"):
        spec.quantized("int3")
