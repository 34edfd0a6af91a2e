"""Weights of GPUs that stay codes: the same products, in the memory that is planned."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pricing import bundled
from wirecut.api import pricing_of
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.shards import rank_bytes
from wirecut.machine import quantized
from wirecut.machine.coded import Bytes, Coded, stacked
from wirecut.machine.quantized import KeptCodes
from wirecut.spec.formats import element_bits

INS = 1024
E2M1 = [sign * twice / 2 for twice in (0, 1, 2, 3, 4, 6, 8, 12) for sign in (1, -1)]


def coded(format: str, outs: int, ins: int = INS) -> Coded:
    """A random weight as the engine reads it from a checkpoint of this format."""
    draw = torch.Generator().manual_seed(0)

    def ints(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=draw, dtype=torch.uint8)

    def groups(size: int) -> torch.Tensor:
        return (torch.arange(ins) // size).int()

    places = ints(16, outs, ins)
    kind, _, size = format.partition("-")
    size = int(size[1:] or 0) if size else 32
    count = -(-ins // size)
    scales = torch.rand(outs, count, generator=draw)
    match kind:
        case "int4":
            return Coded(places, scales.half(), ints(16, outs, count), groups(size), 4, base=1)
        case "mxfp4":
            codes = torch.tensor(E2M1).to(torch.float8_e4m3fn).view(torch.uint8)[places.int()]
            powers = (120 + ints(10, outs, count)).view(torch.float8_e8m0fnu)
            return Coded(codes.view(torch.float8_e4m3fn), powers, None, groups(size), 8)
        case "int8":
            codes = ints(256, outs, ins).view(torch.int8)
            return Coded(codes, scales[:, :1].bfloat16(), None, groups(ins), 8)
        case _:
            codes = torch.randn(outs, ins, generator=draw).to(torch.float8_e4m3fn)
            row_O = (torch.arange(outs) // size).int()
            blocks = scales[: -(-outs // size)]
            return Coded(codes, blocks, None, groups(size), 8, row_O=row_O)


FORMATS = ["int4-g128", "int4-g32", "mxfp4", "fp8-b128", "int8"]


@pytest.mark.parametrize("format", FORMATS)
def test_codes_that_stay_take_what_is_planned(format: str) -> None:
    outs = 2048
    held = KeptCodes(coded(format, outs), torch.bfloat16, None).num_bytes
    assert held == pytest.approx(outs * INS * element_bits(format) / 8, rel=0.01)


@pytest.mark.parametrize("format", [*FORMATS, "fp8-b16"])
@pytest.mark.parametrize("ins", [256, 131])
def test_codes_that_stay_make_what_unpacked_weights_make(
    format: str, ins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "SLAB_ELEMENTS", 20 * ins)  # 48 outputs in three pieces
    one, outs = coded(format, 48, ins), 48
    dtype = torch.float64  # so that only a wrong weight shows
    bias_O, x_TI = torch.randn(outs, dtype=dtype), torch.randn(5, ins, dtype=dtype)
    wanted = torch.nn.functional.linear(x_TI, one.weight(dtype), bias_O)
    torch.testing.assert_close(KeptCodes(one, dtype, bias_O)(x_TI), wanted)


@pytest.mark.parametrize("format", [*FORMATS, "fp8-b16"])
def test_codes_above_each_other_say_what_each_said(format: str) -> None:
    parts = [coded(format, 40), coded(format, 24)]
    together = stacked(parts)
    assert together is not None
    wanted = torch.cat([one.weight(torch.float32) for one in parts])
    assert torch.equal(together.weight(torch.float32), wanted)
    assert together.scales_RG.nbytes == sum(one.scales_RG.nbytes for one in parts)


@pytest.mark.parametrize(
    ("values", "width", "nbytes"), [(16, 6, 9 + 512), (17, 6, 18), (5, 7, 524)]
)
def test_few_values_are_held_two_to_a_byte(values: int, width: int, nbytes: int) -> None:
    few = torch.randperm(256)[:values].to(torch.uint8)
    x = few[torch.arange(3 * width) % values].view(3, width).view(torch.int8)
    kept = Bytes(x, slab_elements=width)
    assert torch.equal(kept[0:3], x)
    assert torch.equal(kept[1:2], x[1:2])
    assert kept.nbytes == nbytes


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation makes."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.num_bytes = max(self.num_bytes, made.nbytes)
        return made


@pytest.mark.parametrize("format", FORMATS)
def test_packing_takes_little_beside_the_codes(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "SLAB_ELEMENTS", 16 * INS)
    one = coded(format, 512)
    with Largest() as largest:
        KeptCodes(one, torch.bfloat16, None)
    assert largest.num_bytes < one.codes_OI.nbytes


def test_a_plan_for_gpus_counts_codes_and_for_cpus_what_they_become() -> None:
    spec = bundled("deepseek-ai/DeepSeek-R1")
    stages, layout = ((0, spec.num_layers),), Layout(tp=8)
    codes, unpacked = (
        rank_bytes(pricing_of(spec, fabric).spec, stages, layout, stage=0)
        for fabric in ("8xH200-SXM", assumed_fabric(8))
    )
    assert 80e9 < codes < 95e9
    assert 1.9 * codes < unpacked < 2 * codes
