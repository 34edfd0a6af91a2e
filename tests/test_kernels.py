"""Kernels' times: what physics asks of them, and a few measured ones.

Measured figures are from the wheel aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0).
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecut.cost.kernels import FORMATS, Gpu, elementwise_s, format_on, gpu_of, matmul_s
from wirecut.cost.kernels_attention import (
    decode_attention_s,
    latent_decode_s,
    latent_prefill_s,
    prefill_attention_s,
)
from wirecut.cost.kernels_experts import experts_s, rank_load, routed
from wirecut.cost.kernels_gpu import GENERATIONS
from wirecut.cost.kernels_linear import indexer_s, linear_attention_s
from wirecut.cost.kernels_rates import Generation
from wirecut.fabric.catalogue import all_devices, find_device
from wirecut.fabric.fabric import Device


def gpu(name: str) -> Gpu:
    """A device of the catalogue, or by hand, as pricing gets it."""
    spec = find_device(name)
    return gpu_of(
        Device(
            id=0,
            host="host",
            kind="gpu",
            name=spec.name,
            memory_bytes=spec.memory_bytes,
            bytes_per_s=spec.bytes_per_s,
            flops_per_s=spec.flops_per_s,
            launch_s=3e-6,
            source="datasheet",
        )
    )


NAMES = ("A100-SXM-80GB", "H100-SXM", "B200-SXM", "L40S", "RTX-PRO-6000-Server", "RTX-3090", "T4")
GPUS = st.sampled_from([gpu(name) for name in NAMES])
ROWS = st.integers(1, 16384)
SIDES = st.sampled_from([512, 1024, 1536, 4096, 7168, 8192, 14336, 28672])
# DeepSeek-V3's and -V3.2's
MLA = {"key_dim": 192, "value_dim": 128}
CACHED = {"kv_rank": 512, "rope_dim": 64}
INDEX = {"index_heads": 64, "index_dim": 128}
STORED = st.sampled_from(sorted(FORMATS))


def peak(of: Gpu, format: str) -> float:
    """The datasheet's rate for what multiplies this format on this GPU."""
    dtype = FORMATS[format_on(of, format)].rate
    return of.dense_flops_per_s if dtype == "bf16" else of.flops_per_s[dtype]


@given(of=GPUS, rows=ROWS, n=SIDES, k=SIDES, format=STORED)
def test_no_product_is_faster_than_the_datasheet(
    of: Gpu, rows: int, n: int, k: int, format: str
) -> None:
    seconds = matmul_s(of, rows, n, k, format)
    assert seconds > n * k * FORMATS[format_on(of, format)].weight_bytes / of.bytes_per_s
    assert seconds > 2 * rows * n * k / peak(of, format)


@given(of=GPUS, rows=ROWS, n=SIDES, k=SIDES, format=STORED)
def test_a_product_takes_longer_with_more_rows_columns_and_depth(
    of: Gpu, rows: int, n: int, k: int, format: str
) -> None:
    seconds = matmul_s(of, rows, n, k, format)
    for more in ((rows + 1, n, k), (rows, 2 * n, k), (rows, n, 2 * k)):
        assert matmul_s(of, *more, format) >= seconds


@given(of=GPUS, format=STORED)
def test_what_is_large_doubles(of: Gpu, format: str) -> None:
    few = matmul_s(of, 1, 2**19, 8192, format)
    assert matmul_s(of, 1, 2**20, 8192, format) == pytest.approx(2 * few, rel=0.06)
    many = matmul_s(of, 16384, 16384, 8192, format)
    assert matmul_s(of, 32768, 16384, 8192, format) == pytest.approx(2 * many, rel=0.06)


@given(of=GPUS, rows=ROWS)
def test_a_gpu_of_twice_the_rates_is_at_most_twice_as_fast(of: Gpu, rows: int) -> None:
    rates = {name: 2 * rate for name, rate in of.flops_per_s.items()}
    twice = replace(of, bytes_per_s=2 * of.bytes_per_s, flops_per_s=rates)
    ratio = matmul_s(of, rows, 8192, 8192, "bf16") / matmul_s(twice, rows, 8192, 8192, "bf16")
    assert 1 < ratio <= 2


def test_weights_alone_decide_at_a_few_rows() -> None:
    h100 = gpu("H100-SXM")
    assert matmul_s(h100, 16, 8192, 8192, "bf16") < 1.1 * matmul_s(h100, 1, 8192, 8192, "bf16")
    ratio = matmul_s(h100, 1, 28672, 8192, "bf16") / matmul_s(h100, 1, 28672, 8192, "fp8")
    assert 1.7 < ratio < 2


def test_formats_without_tensor_cores_are_unpacked() -> None:
    a100 = gpu("A100-SXM-80GB")
    assert format_on(a100, "fp8") == "fp8_wo"
    assert format_on(gpu("H100-SXM"), "mxfp4") == "mxfp4_wo"
    assert format_on(gpu("B200-SXM"), "nvfp4") == "nvfp4"
    assert matmul_s(a100, 1, 28672, 8192, "fp8") < 0.7 * matmul_s(a100, 1, 28672, 8192, "bf16")
    with pytest.raises(KeyError):
        format_on(a100, "fp7")


# (GPU, format, rows, n, k), microseconds, the median of three frameworks
PRODUCTS = [
    (("H100-SXM", "bf16", 8, 8192, 8192), 48),
    (("H100-SXM", "bf16", 4096, 8192, 8192), 690),
    (("H200-SXM", "bf16", 8, 16384, 8192), 66),
    (("A100-SXM-80GB", "bf16", 8, 16384, 8192), 174),
    (("A100-SXM-80GB", "bf16", 1024, 8192, 8192), 532),
    (("B200-SXM", "bf16", 64, 8192, 8192), 24),
    (("B200-SXM", "bf16", 4096, 8192, 8192), 358),
    (("L40S", "bf16", 8, 8192, 8192), 196),
    (("L40S", "bf16", 4096, 8192, 8192), 2525),
    (("RTX-PRO-6000-Server", "bf16", 1024, 8192, 8192), 357),
    (("Arc-Pro-B60", "bf16", 1024, 8192, 8192), 1490),
]


@pytest.mark.parametrize(("product", "microseconds"), PRODUCTS)
def test_measured_products(product: tuple[str, str, int, int, int], microseconds: float) -> None:
    name, format, rows, n, k = product
    assert matmul_s(gpu(name), rows, n, k, format) * 1e6 == pytest.approx(microseconds, rel=0.15)


@given(of=GPUS, sequences=st.integers(1, 256), context=st.integers(1, 65536))
def test_decode_reads_the_cache(of: Gpu, sequences: int, context: int) -> None:
    seconds = decode_attention_s(of, sequences, context, 32, 8, 128)
    assert seconds > 2 * 2 * sequences * context * 8 * 128 / of.bytes_per_s
    assert decode_attention_s(of, sequences, 2 * context, 32, 8, 128) > seconds
    assert decode_attention_s(of, sequences, context, 32, 8, 128, "fp8") <= seconds
    assert decode_attention_s(of, sequences, context, 32, 8, 128, window=128) <= seconds


@given(of=GPUS, queries=st.integers(1, 8192), before=st.integers(0, 65536))
def test_prefill_grows_with_queries_and_keys(of: Gpu, queries: int, before: int) -> None:
    seconds = prefill_attention_s(of, queries, before, 32, 8, 128)
    pairs = queries * before + queries * (queries + 1) / 2
    assert seconds > 4 * 32 * 128 * pairs / of.dense_flops_per_s
    assert prefill_attention_s(of, queries, before + 512, 32, 8, 128) > seconds
    assert prefill_attention_s(of, queries, before, 32, 8, 128, sequences=2) >= seconds
    assert prefill_attention_s(of, queries, before, 32, 8, 128, window=512) <= seconds
    assert latent_prefill_s(of, queries, before, 16, **MLA) <= latent_prefill_s(
        of, queries, before, 32, **MLA
    )


# (GPU, sequences, keys), microseconds, 32 heads over 8 of 128, bf16
DECODES = [
    (("H100-SXM", 64, 1024), 108),
    (("H100-SXM", 8, 16384), 193),
    (("A100-SXM-80GB", 8, 16384), 342),
    (("L40S", 8, 4096), 207),
    (("B200-SXM", 64, 4096), 159),
]


@pytest.mark.parametrize(("shape", "microseconds"), DECODES)
def test_measured_decodes(shape: tuple[str, int, int], microseconds: float) -> None:
    name, sequences, keys = shape
    seconds = decode_attention_s(gpu(name), sequences, keys, 32, 8, 128)
    assert seconds * 1e6 == pytest.approx(microseconds, rel=0.25)


# (GPU, queries), microseconds, vLLM, 32 heads over 8 of 128, bf16
PREFILLS = [
    (("H100-SXM", 2048), 89),
    (("H100-SXM", 8192), 912),
    (("A100-SXM-80GB", 4096), 900),
    (("L40S", 4096), 776),
    (("B200-SXM", 8192), 514),
]


@pytest.mark.parametrize(("shape", "microseconds"), PREFILLS)
def test_measured_prefills(shape: tuple[str, int], microseconds: float) -> None:
    name, queries = shape
    seconds = prefill_attention_s(gpu(name), queries, 0, 32, 8, 128)
    assert seconds * 1e6 == pytest.approx(microseconds, rel=0.25)


@given(tokens=st.integers(1, 16384), top_k=st.integers(1, 8), skew=st.floats(1, 100))
def test_tokens_reach_experts(tokens: int, top_k: int, skew: float) -> None:
    rows = routed(tokens, 64, 64, top_k, skew=skew)
    assert min(64, top_k) * 0.5 < rows.touched <= min(64, tokens * top_k) * (1 + 1e-9)
    assert rows.pairs >= 0.6 * tokens * top_k
    assert rows.touched <= routed(tokens + 1, 64, 64, top_k, skew=skew).touched


def test_an_uneven_router_touches_fewer_experts_and_loads_one_rank_more() -> None:
    assert routed(64, 256, 256, 8, skew=1).touched == pytest.approx(222, abs=1)
    assert routed(64, 256, 256, 8, skew=50).touched < 190
    assert rank_load(256, 256) == 1
    assert rank_load(256, 32, skew=1) == 1
    assert 1 < rank_load(256, 32) < rank_load(256, 4) < 4


def experts(of: Gpu, tokens: int, format: str = "bf16", *, here: int = 128) -> float:
    """Qwen3-235B-A22B's experts."""
    return experts_s(
        of,
        tokens,
        experts_here=here,
        experts=128,
        top_k=8,
        hidden=4096,
        intermediate=1536,
        format=format,
    )


@given(of=GPUS, tokens=st.integers(1, 8192), format=st.sampled_from(["bf16", "fp8", "int4"]))
def test_experts_take_longer_with_more_tokens_and_more_experts(
    of: Gpu, tokens: int, format: str
) -> None:
    seconds = experts(of, tokens, format)
    assert experts(of, 2 * tokens, format) > seconds
    assert experts(of, tokens, format, here=16) < seconds
    assert seconds > 6 * tokens * 8 * 4096 * 1536 / peak(of, format) / 1.7  # rows are expected ones


def test_measured_experts() -> None:
    h100 = gpu("H100-SXM")  # vLLM and SGLang within 3 % up to 64 tokens
    for tokens, microseconds in ((1, 120), (4, 408), (128, 1650)):
        assert experts(h100, tokens) * 1e6 == pytest.approx(microseconds, rel=0.25)


def test_other_mixers() -> None:
    h100 = gpu("H100-SXM")
    for tokens, seconds in ((1024, 1.44e-3), (256, 0.364e-3)):  # gated delta net, 32 heads
        priced = linear_attention_s(
            h100, tokens, tokens, key_heads=16, value_heads=32, key_dim=128, value_dim=128
        )
        assert priced == pytest.approx(seconds, rel=0.3)
    assert latent_decode_s(h100, 64, 16384, 16, **CACHED) == pytest.approx(415e-6, rel=0.2)
    assert latent_decode_s(h100, 64, 16384, 128, **CACHED) == pytest.approx(500e-6, rel=0.2)
    assert elementwise_s(h100, 3 * 4096 * 16384) == pytest.approx(67e-6, rel=0.15)
    assert indexer_s(h100, 1, 65536, **INDEX) < indexer_s(h100, 1, 65536, sequences=16, **INDEX)
    dense = latent_prefill_s(h100, 2048, 63488, 128, **MLA)
    assert (
        indexer_s(h100, 2048, 64512, **INDEX) + latent_prefill_s(h100, 2048, 0, 128, **MLA) < dense
    )


def test_every_device_of_the_catalogue_has_kernels() -> None:
    for name in all_devices():
        known = gpu(name)
        assert 8 <= known.sms <= 320, name
        assert 0 < matmul_s(known, 8, 8192, 8192, "int4") < 0.1, name
    assert gpu("24GB,936GB/s,71TFLOP/s").generation.source == "assumed"


def test_generations() -> None:
    assert gpu("L40S").generation.source == "measured"
    assert gpu("RTX-3090").generation.source == "assumed"
    assert [gpu(name).free for name in ("H20", "RTX-4090", "H100-SXM")] == [True, True, False]
    # Memory without error correction: RTX-6000-Ada has 960 GB/s, L40S 864
    ratio = matmul_s(gpu("L40S"), 1, 28672, 8192, "bf16") / matmul_s(
        gpu("RTX-6000-Ada"), 1, 28672, 8192, "bf16"
    )
    assert ratio > 960 / 864 * 1.1
    for generation in GENERATIONS.values():
        for tiles in (*generation.products.values(), *generation.experts.values()):
            assert min(tiles.memory, tiles.share, tiles.start_s) > 0
            assert max(tiles.memory, tiles.share) < 1


def shares(of: Generation) -> dict[str, list[float]]:
    """All fitted numbers of a generation by what scales them."""
    tiles = (*of.products.values(), *of.experts.values())
    look, line = of.attention, of.linear
    return {
        "starts": [each.start_s for each in tiles]
        + [look.decode_start_s, look.prefill_start_s, look.latent_start_s]
        + [line.start_s, line.chunk_start_s, of.elementwise.start_s],
        "compute": [each.share for each in tiles]
        + [look.decode_share, look.prefill_share, look.latent_share, look.latent_prefill_share]
        + [line.share, of.free_share],
        "memory": [each.memory for each in tiles]
        + [look.decode_memory, line.memory, of.elementwise.memory],
    }


@pytest.mark.parametrize("what", ["starts", "compute", "memory"])
@pytest.mark.parametrize("name", ["hopper", "ampere"])
def test_a_scaled_generation_is_scaled_throughout(what: str, name: str) -> None:
    whole = GENERATIONS[name]
    half = whole.scaled(**{what: 0.5})
    for group, numbers in shares(whole).items():
        times = 0.5 if group == what else 1.0
        assert shares(half)[group] == pytest.approx([times * number for number in numbers]), group
    assert max(shares(whole.scaled(memory=2))["memory"]) < 1


def test_cdna_is_hopper_scaled_throughout() -> None:
    cdna, hopper = GENERATIONS["cdna"].attention, GENERATIONS["hopper"].attention
    ratio = cdna.prefill_share / hopper.prefill_share
    assert ratio < 0.5
    assert cdna.latent_share == pytest.approx(ratio * hopper.latent_share)
    assert cdna.latent_start_s > hopper.latent_start_s
