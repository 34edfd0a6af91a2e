"""Weights of GPUs that stay codes: the same products, in the memory that is planned."""

import pytest
import torch

from pricing import bundled
from wirecut.api import pricing_of
from wirecut.fabric.discover import assumed_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.shards import rank_bytes
from wirecut.machine import quantized
from wirecut.machine.quantized import Coded, KeptCodes

OUTS, INS, GROUP = 48, 128, 32
GROUPS = INS // GROUP
E2M1 = [0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12]


def coded(kind: str) -> Coded:
    draw = torch.Generator().manual_seed(0)
    group_I = torch.arange(INS) // GROUP
    scales_OG = torch.rand(OUTS, GROUPS, generator=draw)
    places = torch.randint(0, 15, (OUTS, INS), generator=draw)
    match kind:
        case "int4":
            zeros_OG = torch.randint(0, 16, (OUTS, GROUPS), generator=draw, dtype=torch.uint8)
            return Coded(places.to(torch.uint8), scales_OG, zeros_OG, group_I, 4)
        case "mxfp4":
            values = torch.tensor(E2M1, dtype=torch.int8)
            return Coded(values[places], scales_OG, None, group_I, 8)
        case "int8":
            codes = torch.randint(-128, 128, (OUTS, INS), generator=draw, dtype=torch.int8)
            return Coded(codes, scales_OG[:, :1], None, torch.zeros_like(group_I), 8)
        case _:
            codes = torch.randn(OUTS, INS, generator=draw).to(torch.float8_e4m3fn)
            return Coded(codes, scales_OG, None, group_I, 8)


@pytest.mark.parametrize(("kind", "bits"), [("int4", 4), ("mxfp4", 4), ("int8", 8), ("fp8", 8)])
def test_codes_that_stay_make_what_unpacked_weights_make(
    kind: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "SLAB_ELEMENTS", 20 * INS)  # 48 outputs in three pieces
    one = coded(kind)
    dtype = torch.float64  # so that only a wrong weight shows
    bias_O, x_TI = torch.randn(OUTS, dtype=dtype), torch.randn(5, INS, dtype=dtype)
    product = KeptCodes(one, dtype, bias_O)
    wanted = torch.nn.functional.linear(x_TI, one.weight(dtype), bias_O)
    torch.testing.assert_close(product(x_TI), wanted)
    beside = one.scales_OG.nbytes + (0 if one.zeros_OG is None else one.zeros_OG.nbytes)
    assert product.num_bytes == OUTS * INS * bits // 8 + beside


def test_a_plan_for_gpus_counts_codes_and_for_cpus_what_they_become() -> None:
    spec = bundled("deepseek-ai/DeepSeek-R1")
    stages, layout = ((0, spec.num_layers),), Layout(tp=8)
    codes, unpacked = (
        rank_bytes(pricing_of(spec, fabric).spec, stages, layout, stage=0)
        for fabric in ("8xH200-SXM", assumed_fabric(8))
    )
    assert 80e9 < codes < 95e9
    assert 1.9 * codes < unpacked < 2 * codes
