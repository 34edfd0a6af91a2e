"""gpt-oss as it is published, experts in MXFP4: read by expert and by columns, run to the tokens
of the weights that the codes say, held in the bytes that are planned for.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import packers
import parity
from wirecut.api import pricing_of
from wirecut.engine.quantized import read_coded
from wirecut.engine.weights import SliceReader
from wirecut.errors import ModelError
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.layout.shards import rank_bytes
from wirecut.machine.quantized import KeptCodes
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config
from wirecut.spec.packing import packings
from wirecut.spec.runnable import why_not_run
from wirecut.spec.stored import Packed, Place
from zoo import write_random

# 5 experts of 96 columns: halves of 48 end within a block of 32.
SIZES = {"hidden_size": 64, "intermediate_size": 96}
CPU, FP32 = torch.device("cpu"), torch.float32
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As published, and plain."""
    made = tmp_path_factory.mktemp("made")
    source = write_random(made / "source", "gpt_oss", **SIZES)
    return packers.write_quantised(made, packers.mxfp4(), source=source)


@pytest.fixture(scope="module")
def theirs(folders: tuple[Path, Path]) -> parity.Reference:
    return parity.reference(folders[1], lengths=(40, 3, 21), new_tokens=16)


def reader_of(folder: Path, layout: Layout, rank: int, dtype: torch.dtype = FP32) -> SliceReader:
    cut = Cut(layout, tuple(range(layout.world_size)), ((0, 3),))
    spec = read_config(folder / "config.json")
    return SliceReader(folder, spec, cut, rank=rank, dtype=dtype, device=CPU)


@pytest.mark.parametrize(
    "layout",
    [Layout(), Layout(tp=2), Layout(tp=2, ep=2), Layout(pp=2), Layout(tp=3, pp=2)],
    ids=str,
)
def test_the_engine_writes_what_transformers_writes_with_the_plain_weights(
    folders: tuple[Path, Path], theirs: parity.Reference, layout: Layout
) -> None:
    parity.check(parity.run_cell(replace(theirs, folder=folders[0]), layout))


def test_transformers_makes_the_plain_weights_of_it(folders: tuple[Path, Path]) -> None:
    how = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=FP32, quantization_config=how)
    plain = parity.load(folders[1]).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, plain[name]), name


def test_every_code_and_scale_is_what_transformers_makes_of_it() -> None:
    """All 256 bytes under each of 255 scales (the last is not a number), a scale a row."""
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 16).expand(255, 16, 16).contiguous()
    scales = torch.arange(255, dtype=torch.uint8)[:, None].expand(255, 16).contiguous()
    wanted = convert_moe_packed_tensors(blocks[None], scales[None], dtype=FP32)[0].t()
    stored = {"x_blocks": blocks, "x_scales": scales}
    packing = packings("mxfp4", "mxfp4")[0]
    places = {part.name: Place(f"x_{part.name}", (255, 512)) for part in packing.parts}
    coded = read_coded(
        Packed(packing, places), lambda name, region: stored[name][region], (0, 255), (7, 300)
    )
    assert torch.equal(coded.weight(FP32), wanted[:, 7:300])
    assert KeptCodes(coded, FP32, None).num_bytes == 255 * (147 + 10) + 4 * 293 + 512


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(tp=3), Layout(tp=4, ep=2)], ids=str)
def test_ranks_hold_the_slices_of_the_plain_weights_and_read_no_more(
    folders: tuple[Path, Path], layout: Layout
) -> None:
    packed, made = folders
    for rank in range(layout.world_size):
        ours, plain = reader_of(packed, layout, rank), reader_of(made, layout, rank)
        for name in ("gate", "up", "down"):
            tensor = ours.layer(1)[f"mlp.experts.{{expert}}.{name}_proj.weight"]
            cut = ours.slice_of(tensor)
            assert cut.dim is not None
            for expert in range(cut.first_expert, cut.last_expert):
                before = ours.bytes_read
                held = ours.read(tensor, expert=expert)
                assert torch.equal(held, plain.read(tensor, expert=expert))
                outs = held.shape[0]
                inputs = (cut.start, cut.stop) if cut.dim == 1 else (0, held.shape[1])
                blocks = -(-inputs[1] // 32) - inputs[0] // 32
                assert ours.bytes_read - before == outs * blocks * (16 + 1)


def test_a_rank_holds_what_was_planned_for(folders: tuple[Path, Path]) -> None:
    """In the engine's dtype, on every device; other engines keep what is stored."""
    spec = read_config(folders[0] / "config.json")
    assert spec.weights.linear == pricing_of(spec, "2xL40S", engine="vllm").spec.weights.linear
    held = pricing_of(spec, assumed_fabric(2), dtype="bf16").spec
    assert held == pricing_of(spec, "2xL40S", dtype="bf16").spec
    assert (spec.weights.linear, held.weights.linear) == ("mxfp4", "bf16")
    reader = reader_of(folders[0], Layout(tp=2), 1, torch.bfloat16)
    for tensor in reader.layer(0).values():
        mine = reader.slice_of(tensor)
        for expert in range(mine.first_expert, mine.last_expert) if tensor.experts else (None,):
            reader.read(tensor, expert=expert)
    for tensor in reader.outside.values():
        reader.read(tensor)
    one_layer = replace(held, layers=held.layers[:1])
    planned = rank_bytes(one_layer, ((0, 1),), Layout(tp=2), stage=0, tp_rank=1, dtype="bf16")
    assert reader.bytes_held == planned


def test_such_a_checkpoint_is_run_and_checked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    spec = read_config(folders[0] / "config.json")
    assert why_not_run(spec) is None
    check_checkpoint(folders[0], spec)
    refused = {
        "blocks": (lambda t: t[:, :, :1], r"gate_up_proj_blocks has shape \[5, 192, 1, 16\]"),
        "scales": (lambda t: t.float(), "gate_up_proj_scales is stored as F32, expected U8"),
        "bias": (lambda t: t[:, :-2], r"gate_up_proj_bias has shape \[5, 190\]"),
    }
    for part, (change, says) in refused.items():
        weights = load_file(folders[0] / "model.safetensors")
        name = f"model.layers.1.{GATE_UP}_{part}"
        weights[name] = change(weights[name]).contiguous()
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=says):
            check_checkpoint(tmp_path, spec)
    del weights[f"model.layers.2.{DOWN}_scales"], weights[name]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 15 of .*experts.0.gate_proj.bias"):
        check_checkpoint(tmp_path, spec)


def test_a_fused_linear_may_be_quantised(tmp_path: Path) -> None:
    """Phi-3's q, k and v in one packed tensor."""
    changes = {"head_dim": 32, "hidden_size": 192, "intermediate_size": 96}
    source = write_random(tmp_path / "source", "phi3", **changes)
    packed, made = packers.write_quantised(tmp_path, packers.gptq(4, 32), source=source)
    theirs = parity.reference(made, lengths=(20,), new_tokens=8)
    parity.check(parity.run_cell(replace(theirs, folder=packed), Layout(tp=3)))
