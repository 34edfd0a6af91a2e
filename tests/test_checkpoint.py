"""Checkpoints from their headers: whole, sharded, and damaged in every way a download can be."""

import contextlib
import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecut.errors import ModelError
from wirecut.spec.attention import Attention
from wirecut.spec.checkpoint import check_checkpoint, read_checkpoint
from wirecut.spec.feedforward import Mlp
from wirecut.spec.model import Layer, ModelSpec

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F64": 8}
SPEC = ModelSpec(
    name="tiny",
    architecture="llama",
    hidden=8,
    vocab=16,
    layers=(Layer(Attention(4, 2, 2), Mlp(12)),) * 2,
    tied_embeddings=False,
    dtype="bf16",
    max_positions=64,
    norm_eps=1e-5,
    rope_theta=10000.0,
)


def stored(tensors, *, dtype="BF16", header_extra=None) -> bytes:
    """A safetensors file of zeros with these {name: shape}."""
    header, at = dict(header_extra or {}), 0
    for name, shape in tensors.items():
        size = math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return packed(header) + bytes(at)


def packed(header) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def shapes(spec=SPEC) -> dict:
    return {tensor.name: tensor.shape for tensor in spec.tensors}


def write(folder, tensors=None, name="model.safetensors", **options):
    path = folder / name
    path.write_bytes(stored(shapes() if tensors is None else tensors, **options))
    return path


def refused(folder, *words):
    with pytest.raises(ModelError) as caught:
        check_checkpoint(folder, SPEC)
    for word in words:
        assert word in str(caught.value)


def test_one_file(tmp_path):
    path = write(tmp_path, header_extra={"__metadata__": {"format": "pt"}})
    found = check_checkpoint(tmp_path, SPEC)
    assert set(found.tensors) == set(shapes())
    head = found.tensors["lm_head.weight"]
    assert (head.file, head.dtype, head.shape) == (path, "BF16", (16, 8))


def test_shards_with_an_index(tmp_path):
    everything = list(shapes().items())
    parts = {"a.safetensors": dict(everything[:5]), "b.safetensors": dict(everything[5:])}
    for name, tensors in parts.items():
        write(tmp_path, tensors, name)
    placed = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    found = check_checkpoint(tmp_path, SPEC)
    assert {name: t.file.name for name, t in found.tensors.items()} == placed

    placed["lm_head.weight"] = "a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    refused(tmp_path, "places lm_head.weight in a.safetensors, which does not hold it")
    (tmp_path / "b.safetensors").unlink()
    refused(tmp_path, "names b.safetensors, which is not there")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ('{"weight_map": ["x"]}', "damaged"),
        ('{"weight_map": {"x": "../y.safetensors"}}', "not beside it"),
        ('{"weight_map": {"x": "/etc/passwd"}}', "not beside it"),
        ('{"weight_map": {"x": ""}}', "not beside it"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_a_damaged_index(tmp_path, text, words):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refused(tmp_path, "model.safetensors.index.json", words)


def test_more_tensors_than_needed_do_no_harm(tmp_path):
    write(tmp_path, {**shapes(), "model.layers.0.self_attn.rotary_emb.inv_freq": (1,)})
    check_checkpoint(tmp_path, SPEC)


def test_layers_that_the_configuration_does_not_count_are_named(tmp_path):
    """But for those that predict further tokens, as DeepSeek-V3 has one behind its last."""
    extra = f"model.layers.{SPEC.num_layers}.mlp.up_proj.weight"
    write(tmp_path, {**shapes(), extra: (4, 4)})
    refused(tmp_path, f"config.json does not count, which says {SPEC.num_layers}: {extra}")
    (tmp_path / "config.json").write_text('{"num_nextn_predict_layers": 1}')
    check_checkpoint(tmp_path, SPEC)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_other_float_types_are_read(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    check_checkpoint(tmp_path, SPEC)


@pytest.mark.parametrize("dtype", ["I8", "F64"])
def test_an_unsupported_dtype_is_named(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    refused(tmp_path, f"embed_tokens.weight is stored as {dtype}", "F32, BF16, F16")


def test_missing_tensors_are_named_and_counted(tmp_path):
    tensors = shapes()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    write(tmp_path, tensors)
    refused(tmp_path, "lacks 1 of the 21", "model.layers.1.mlp.up_proj.weight")
    write(tmp_path, {name: shape for name, shape in tensors.items() if "layers.1" not in name})
    refused(tmp_path, "lacks 9 of the 21", "model.layers.1.input_layernorm.weight", "and 6 more")


def test_a_shape_that_contradicts_the_config_shows_both(tmp_path):
    write(tmp_path, {**shapes(), "model.layers.0.self_attn.k_proj.weight": (8, 8)})
    refused(tmp_path, "k_proj.weight has shape [8, 8]", "config.json makes it [4, 8]")


def test_a_folder_without_safetensors_says_what_is_there(tmp_path):
    refused(tmp_path, "has no model.safetensors", "empty")
    refused(tmp_path / "nowhere", "has no model.safetensors", "no folder")
    (tmp_path / "config.json").touch()
    refused(tmp_path, "it holds config.json")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "it holds pytorch_model.bin", "convert")
    write(tmp_path, name="model-00001-of-00002.safetensors")
    refused(tmp_path, "it holds model-00001-of-00002.safetensors", "the index")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 2000, -1])
def test_a_file_cut_short(tmp_path, keep):
    path = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    refused(tmp_path, str(path), "is cut short")


def test_a_file_cut_short_gives_both_sizes(tmp_path):
    path = write(tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    refused(tmp_path, f"header says {size} bytes, the file has {size - 10}")
    path.write_bytes(stored(shapes()) + b"more")
    refused(tmp_path, "is damaged", f"header says {size} bytes, the file has {size + 4}")


F32_OF_2 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "9223372036854775808 bytes long"),
        (packed(b"{" * 50), "damaged header"),
        (packed(b"\xff\xfe{}"), "damaged header"),
        (packed(b"[" * 100_000), "damaged header"),
        (packed([1, 2]), "damaged header"),
        (packed({"x": 3}), "damaged header"),
        (packed({"x": {"dtype": "F32", "shape": [2]}}), "data_offsets"),
        (packed({"x": {**F32_OF_2, "shape": ["2"]}}) + bytes(8), "damaged header"),
        (packed({"x": {**F32_OF_2, "shape": [-2]}}) + bytes(8), "make no sense"),
        (packed({"x": {**F32_OF_2, "data_offsets": [8, 0]}}), "make no sense"),
        (packed({"x": {**F32_OF_2, "shape": [3]}}) + bytes(8), "8 bytes for (3,) of F32"),
        (packed({"x": {**F32_OF_2, "data_offsets": [4, 12]}}) + bytes(12), "byte 0 of its data"),
        (packed({"x": F32_OF_2, "y": F32_OF_2}) + bytes(8), "byte 8 of its data"),
    ],
)
def test_a_damaged_header(tmp_path, content, words):
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path, "model.safetensors", words)


def test_a_folder_in_the_file_s_place(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path, "cannot read", "Is a directory")


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
good_header = packed(json.loads(stored({"x": (2, 2)})[8:-8]))
contents = (
    st.binary(max_size=60)
    | st.builds(packed, st.binary(max_size=60))
    | st.builds(packed, values)
    | st.builds(packed, st.dictionaries(st.text(max_size=3), values, max_size=3))
    | st.builds(
        lambda at, byte: good_header[:at] + byte + good_header[at + 1 :] + bytes(8),
        st.integers(0, len(good_header) - 1),
        st.binary(min_size=1, max_size=1),
    )
)


@settings(max_examples=300, deadline=None)
@given(contents)
def test_no_bytes_crash_the_reader(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any-bytes"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    with contextlib.suppress(ModelError):
        found = read_checkpoint(folder)
        assert content[8:].lstrip()[:1] == b"{"
        assert all(isinstance(n, int) for t in found.tensors.values() for n in t.shape)
