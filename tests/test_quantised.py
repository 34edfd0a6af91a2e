"""Quantised checkpoints: every format sliced as its plain weights are, run to the same tokens, held
in the bytes that are planned for.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import packers
import parity
from inprocess import Cluster
from models import write_model
from wirecut.api import pricing_of
from wirecut.engine.engine import Engine
from wirecut.engine.quantized import AWQ_PLACES
from wirecut.engine.weights import SliceReader
from wirecut.errors import LayoutError, ModelError
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.rules import OWN_ENGINE, why_not
from wirecut.layout.shards import rank_bytes
from wirecut.machine.coded import Coded
from wirecut.machine.kernels import PackedLinear
from wirecut.machine.quantized import Int4Linear, Int8Linear, KeptCodes, coded_linear, kernel_group
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.held import as_held
from wirecut.spec.hf import read_config

CPU, FP32 = torch.device("cpu"), torch.float32
LINEARS = [f"self_attn.{n}_proj" for n in "qkvo"] + [
    f"mlp.{n}_proj" for n in ("gate", "up", "down")
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLP of 8 groups of 32 inputs: 2 for each group of heads."""
    return write_plain(tmp_path_factory.mktemp("source"), intermediate=256)


def write_plain(to: Path, *, intermediate: int) -> Path:
    """4 heads of 32 in 4 groups."""
    return write_model(
        to / "plain",
        hidden=128,
        layers=2,
        heads=4,
        kv_heads=4,
        intermediate=intermediate,
        vocab=323,
        positions=512,
        dtype=FP32,
        seed=4,
    )


@pytest.fixture(scope="module", params=packers.SCHEMES, ids=lambda scheme: scheme.name)
def quantised(
    request: pytest.FixtureRequest, plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return packers.write_quantised(tmp_path_factory.mktemp("made"), request.param, source=plain)


def reader_of(
    folder: Path, tp: int, rank: int, dtype: torch.dtype = FP32, shares: tuple[int, ...] = ()
) -> SliceReader:
    cut = Cut(Layout(tp=tp), tuple(range(tp)), ((0, 2),), shares)
    spec = read_config(folder / "config.json")
    return SliceReader(folder, spec, cut, rank=rank, dtype=dtype, device=CPU)


@pytest.mark.parametrize(("tp", "shares"), [(1, ()), (2, ()), (3, ()), (2, (3, 1))], ids=str)
def test_ranks_hold_the_slices_of_the_plain_weights(
    quantised: tuple[Path, Path], tp: int, shares: tuple[int, ...]
) -> None:
    check_slices(*quantised, tp, shares)


@pytest.mark.parametrize(
    "scheme", [packers.awq(32), packers.gptq(8, 32), packers.fp8("block")], ids=lambda one: one.name
)
def test_ranks_may_share_a_group(tmp_path: Path, scheme: packers.Scheme) -> None:
    """Of 192 columns by 2 + 1 + 1 of 4 groups of heads the second rank has 96 to 144."""
    source = write_plain(tmp_path, intermediate=192)
    check_slices(*packers.write_quantised(tmp_path, scheme, source=source), tp=3)


def check_slices(packed: Path, made: Path, tp: int, shares: tuple[int, ...] = ()) -> None:
    for rank in range(tp):
        ours = reader_of(packed, tp, rank, shares=shares)
        theirs = reader_of(made, tp, rank, shares=shares)
        for name in LINEARS:
            tensor = ours.layer(1)[f"{name}.weight"]
            cut = ours.slice_of(tensor)
            whole = theirs.read(replace(tensor, dim=None))
            if cut.dim is not None:
                whole = whole.narrow(cut.dim, cut.start, cut.stop - cut.start)
            assert torch.equal(ours.read(tensor), whole), name


def test_tokens_are_those_of_the_plain_model(quantised: tuple[Path, Path]) -> None:
    prompts = [(5, 9, 200, 31), tuple(range(7, 40))]
    answers: list[tuple[list[list[int]], list[torch.Tensor]]] = []
    for folder in quantised:
        with Cluster(folder, Layout()) as whole:
            answers.append(whole.generate(prompts, 12, chunk=16))
    packed, made = answers
    assert packed[0] == made[0]
    for ours, theirs in zip(packed[1], made[1], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_codes_that_stay_take_the_bytes_that_were_read_for_them(
    quantised: tuple[Path, Path],
) -> None:
    """But for which group an input is in, which scales an output has, and the values of codes."""
    reader = reader_of(quantised[0], 1, 0)
    for name in LINEARS:
        before = reader.bytes_read
        coded = reader._coded(reader.layer(1)[f"{name}.weight"], None)
        assert coded is not None
        kept = KeptCodes(coded, torch.bfloat16, None).num_bytes
        beside = 4 * sum(coded.codes_OI.shape) + 2 * 512
        assert kept <= reader.bytes_read - before + beside, name


@pytest.mark.parametrize("tp", [1, 2, 3])
def test_ranks_together_read_the_checkpoint_once(quantised: tuple[Path, Path], tp: int) -> None:
    """Each byte by one rank, but for what every rank holds."""
    packed, _ = quantised
    readers = [reader_of(packed, tp, rank) for rank in range(tp)]
    for reader in readers:
        for tensors in (reader.layer(0), reader.layer(1), reader.outside):
            for tensor in tensors.values():
                reader.read(tensor)
        assert reader.tensors_done == len(reader)
    expected = 0
    for name, tensor in load_file(packed / "model.safetensors").items():
        if not name.endswith(".weight_shape"):
            expected += tensor.nbytes * (tp if _on_every_rank(name, tensor) else 1)
    read = sum(reader.bytes_read for reader in readers)
    if tp > 1 and packed.name == "gptq4-act":  # inputs dealt to groups at random need all scales
        assert expected < read < 1.1 * expected
    else:
        assert read == expected


def _on_every_rank(name: str, tensor: torch.Tensor) -> bool:
    module, _, part = name.rpartition(".")
    by_inputs = module.endswith(("o_proj", "down_proj"))  # the others are cut by outputs
    if part == "g_idx":
        return not by_inputs
    per_output = part == "SCB" or (part == "weight_scale" and tensor.shape[-1:] == (1,))
    return "norm" in name or tensor.numel() == 1 or (per_output and by_inputs)


def test_linears_of_a_layer_are_kept_as_codes_in_half_precision(
    quantised: tuple[Path, Path],
) -> None:
    """And make what the unpacked weights make, within bf16."""
    packed, _ = quantised
    kept, unpacked = reader_of(packed, 1, 0, torch.bfloat16), reader_of(packed, 1, 0)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    names = [f"self_attn.{n}_proj.weight" for n in "qkv"]
    ours = kept.linear(*(kept.layer(0)[name] for name in names))
    theirs = unpacked.linear(*(unpacked.layer(0)[name] for name in names))
    y, wanted = ours(x.bfloat16()).float(), theirs(x)
    assert (y - wanted).abs().max() < 0.02 * wanted.abs().max()
    format = kept.spec.layers[0].formats[0][1]
    expected = {"int4": Int4Linear, "int8": Int8Linear}.get(format.split("-")[0])
    if expected and format != "int8-g32":
        assert isinstance(ours, expected)
        assert ours.num_bytes < 0.6 * theirs.num_bytes / 2


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [
        (packers.awq(32), Layout(tp=2)),
        (packers.gptq(4, 32, by_activation=True), Layout(tp=3)),
        (packers.compressed_int4(32, symmetric=False), Layout(tp=2, pp=2)),
        (packers.fp8("block"), Layout(pp=2)),
    ],
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_the_engine_writes_what_transformers_writes_with_the_plain_weights(
    plain: Path, tmp_path: Path, scheme: packers.Scheme, layout: Layout
) -> None:
    packed, made = packers.write_quantised(tmp_path, scheme, source=plain)
    parity.check(parity.run_cell(replace(parity.reference(made), folder=packed), layout))


def test_known_vectors() -> None:
    """One int32 of each packing, by hand."""
    assert packers.words([[1, 2, 3, 4, 5, 6, 7, 8]], 4).tolist() == [[-0x789ABCDF]]  # 0x87654321
    row = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    stored = int(packers.words(row[:, list(packers.AWQ_ORDER)].tolist(), 4).item())
    assert stored & 0xFFFFFFFF == 0x75316420
    assert [(stored >> 4 * place) & 15 for place in AWQ_PLACES] == list(range(8))


def test_a_group_that_a_rank_would_split_is_refused_with_the_sizes_that_work(
    tmp_path: Path,
) -> None:
    """3 heads of 48 inputs: a third is no multiple of 32; all of them, or unpacked, is."""
    source = write_model(
        tmp_path / "plain",
        hidden=192,
        layers=1,
        heads=4,
        kv_heads=4,
        intermediate=96,
        dtype=FP32,
    )
    folder, _ = packers.write_quantised(tmp_path, packers.awq(32), source=source)
    spec = read_config(folder / "config.json")
    held = as_held(spec, dtype="bf16", on_cpus=True)
    reason = why_not(held, Layout(tp=4), 8, OWN_ENGINE) or ""
    assert "more than the 3 columns, or groups of them" in reason
    assert "sizes that work: 1, 2" in reason
    reason = why_not(held, Layout(tp=3), 8, OWN_ENGINE) or ""
    assert "int4-g32 weights in no multiples of 32" in reason
    assert "sizes that work: 1, 2" in reason
    assert why_not(as_held(spec, dtype="fp32", on_cpus=True), Layout(tp=3), 8, OWN_ENGINE) is None
    with pytest.raises(LayoutError, match="no multiples of 32"):
        Engine(
            folder,
            Cut(Layout(tp=3), (0, 1, 2), ((0, 1),)),
            assumed_fabric(3),
            limits=Limits(kv_tokens=64),
            dtype="bf16",
        )


@pytest.mark.parametrize(
    ("scheme", "dtype", "held"),
    [
        (packers.awq(32), None, "int4-g32"),
        (packers.awq(32), "fp32", "fp32"),
        (packers.compressed_int8(), None, "int8"),
        (packers.gptq(8, 32), None, "bf16"),
        (packers.fp8("row"), None, "bf16"),
    ],
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_a_rank_holds_what_was_planned_for(
    plain: Path, tmp_path: Path, scheme: packers.Scheme, dtype: str | None, held: str
) -> None:
    folder, _ = packers.write_quantised(tmp_path, scheme, source=plain)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    pricing = pricing_of(str(folder), assumed_fabric(2), dtype=dtype)
    assert pricing.spec.weights.linear == held
    cut = Cut(Layout(tp=2), (0, 1), ((0, 2),))
    with Engine(
        folder,
        cut,
        pricing.fabric,
        limits=Limits(kv_tokens=64),
        dtype=pricing.dtype,
        weights=pricing.spec.weights.linear,
    ) as engine:
        told = [loaded.bytes_held for loaded in engine.loaded]
    for rank, bytes_held in enumerate(told):
        planned = rank_bytes(
            pricing.spec, cut.stages, cut.layout, stage=0, tp_rank=rank, dtype=pricing.dtype
        )
        # Scales per row are not counted. Of 4 bits torch's kernel keeps zero points in 16 bits:
        # 12 bits a group more than is stored.
        tensors = [one for one in pricing.spec.tensors if one.format == "int4-g32"]
        groups = sum(one.elements for one in tensors) / 2 / 32
        assert bytes_held == pytest.approx(planned + groups * 12 / 8, rel=0.02)


def test_what_a_checkpoint_does_not_have_is_said(plain: Path, tmp_path: Path) -> None:
    folder, _ = packers.write_quantised(tmp_path, packers.awq(32), source=plain)
    spec = read_config(folder / "config.json")
    with pytest.raises(ModelError, match="stored in int4-g32: wirecut runs fp8 where"):
        as_held(spec, dtype="bf16", on_cpus=True, weights="fp8")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["group_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"qzeros has shape \[4, 16\], config.json makes it \[2, 16\]"
    ):
        check_checkpoint(folder, read_config(folder / "config.json"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.scales"]
    save_file(weights, folder / "model.safetensors")
    config["quantization_config"]["group_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks 1 of .*up_proj.scales"):
        check_checkpoint(folder, read_config(folder / "config.json"))


@pytest.mark.parametrize("size", [32, 64])
def test_four_bits_are_multiplied_in_groups_of_any_order(size: int) -> None:
    draw = torch.Generator().manual_seed(size)
    codes = torch.randint(0, 16, (20, 128), generator=draw, dtype=torch.uint8)
    groups = (torch.arange(128) // size)[torch.randperm(128, generator=draw)]
    scales = torch.rand(20, 128 // size, generator=draw)
    zeros = torch.randint(0, 16, (20, 128 // size), generator=draw, dtype=torch.uint8)
    coded = Coded(codes, scales, zeros, groups, 4)
    assert kernel_group(coded) == size
    bias, x = torch.randn(20, generator=draw), torch.randn(3, 128, generator=draw)
    product = coded_linear(coded, torch.bfloat16, bias.bfloat16())
    assert isinstance(product, Int4Linear)
    wanted = x @ coded.weight(FP32).t() + bias
    assert (product(x.bfloat16()).float() - wanted).abs().max() < 0.02 * wanted.abs().max()
    assert isinstance(coded_linear(coded, FP32, bias), PackedLinear)
    assert isinstance(coded_linear(coded, torch.bfloat16, keep=False), PackedLinear)
