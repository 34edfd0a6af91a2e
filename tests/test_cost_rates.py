"""How fast one device works: products from measured points, alone and with others busy, and GPUs by
their datasheets.
"""

import math
from dataclasses import replace

import pytest

from fabrics import fabric
from pricing import BARE, US, bundled, on_gpus, priced, replica_of, terms_of
from wirecut.cost.compute import MatrixRate
from wirecut.cost.engines import Steps
from wirecut.cost.forward import Batch
from wirecut.cost.kernel_rate import Kernels, kernel_format
from wirecut.cost.kernels import matmul_s
from wirecut.cost.kernels_gpu import GENERATIONS
from wirecut.cost.measured_rate import Measured
from wirecut.cost.product import Product
from wirecut.cost.rates import rate_of
from wirecut.cost.work import Routed, layer_work
from wirecut.errors import FabricError
from wirecut.fabric.device import MatrixPoint
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout
from wirecut.spec.formats import KINDS, element_bits
from wirecut.spec.traffic import Traffic

POINTS = tuple(
    MatrixPoint("bf16", rows, size, seconds)
    for rows, size, seconds in (
        (1, 10**6, 1e-4),
        (4, 10**6, 2e-4),
        (1, 10**8, 4e-2),
        (4, 10**8, 8e-2),
    )
)


@pytest.mark.parametrize(
    ("rows", "working_set", "seconds_per_mb"),
    [
        (1, 10**6, 1e-4),
        (2, 10**6, math.sqrt(2) * 1e-4),  # half way in log rows: the geometric mean
        (8, 10**6, 4e-4),  # beyond: twice the rows, twice the time
        (1, 10**7, 2e-4),  # half way in log working set, between 1e-4 and 4e-4
        (1, 10**3, 1e-4),  # smaller than measured: as the smallest
        (1, 10**10, 4e-4),
    ],
)
def test_measured_products_are_interpolated(rows: int, working_set: int, seconds_per_mb: float):
    for dtype in ("bf16", "fp16"):  # bf16 stands in for fp16
        rate = MatrixRate(fabric(1, points=POINTS).devices[0], dtype)
        found = rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=working_set)
        assert found == pytest.approx(seconds_per_mb)


def beside_idle(num_devices: int, *, hosts: bool = False) -> Fabric:
    """Devices that are twice as fast alone, and start operations in half the time: 1e-9 s a byte
    with all busy, whatever the rows.
    """
    points = tuple(MatrixPoint("bf16", rows, 10**6, 1e-3) for rows in (1, 8, 64))
    halves = tuple(replace(point, seconds=point.seconds / 2) for point in points)
    wires = fabric(num_devices, points=points, launch_s=US)
    devices = tuple(
        replace(each, alone=halves, launch_alone_s=US / 2, host=f"h{each.id}" if hosts else "here")
        for each in wires.devices
    )
    return replace(wires, devices=devices)


@pytest.mark.parametrize(
    ("busy", "total", "share"),
    [(1, 2, 0.5), (2, 2, 1), (0, 2, 1), (5, 2, 1), (1, 1, 1), (1, 5, 0.5), (3, 5, 0.75)],
)
def test_seconds_lie_between_alone_and_all_busy(busy: int, total: int, share: float):
    rate = MatrixRate(beside_idle(1).devices[0], "bf16", total)
    for rows in (1, 5, 64):
        found = rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=1e6, busy=busy)
        assert found == pytest.approx(share * 1e-3)
    assert rate.launch_s(busy) == pytest.approx(share * US)


def test_alone_takes_its_ratio_from_the_points_around():
    # ratios alone over busy: 0.9 at 1 MB, 0.4 at 100 MB with 1 row, 1.0 (noise above) with 4
    ratios = {(1, 10**6): 0.9, (4, 10**6): 0.9, (1, 10**8): 0.4, (4, 10**8): 1.3}
    alone = tuple(replace(p, seconds=p.seconds * ratios[p.rows, p.weight_bytes]) for p in POINTS)
    device = replace(fabric(1, points=POINTS).devices[0], alone=alone)
    rate = MatrixRate(device, "bf16", 2)
    for rows, size, ratio in (
        (1, 10**6, 0.9),
        (1, 10**9, 0.4),
        (100, 10**8, 1.0),
        (2, 10**8, math.sqrt(0.4)),
        (1, 10**7, math.sqrt(0.9 * 0.4)),
    ):
        one, both = (
            rate.seconds(weight_bytes=1e6, rows=rows, working_set_bytes=size, busy=busy)
            for busy in (1, 2)
        )
        assert one == pytest.approx(ratio * both)


def test_devices_never_measured_alone_cost_the_same_however_many_work():
    rate = MatrixRate(fabric(2, points=POINTS, launch_s=US).devices[0], "bf16", 2)
    one, both = (
        rate.seconds(weight_bytes=1e6, rows=2, working_set_bytes=1e7, busy=busy) for busy in (1, 2)
    )
    assert one == both
    assert rate.launch_s(1) == US


@pytest.mark.parametrize("hosts", [False, True], ids=["one host", "a host each"])
@pytest.mark.parametrize(
    ("layout", "users", "share"),
    [
        ("tp1", 8, 0.5),
        ("dp2", 1, 0.5),
        ("dp2", 2, 1),
        ("dp2", 8, 1),
        ("pp2", 1, 0.5),
        ("pp2", 2, 1),
        ("tp2", 1, 1),
    ],
)
def test_only_devices_at_work_slow_each_other(layout: str, users: int, share: float, hosts: bool):
    wires = beside_idle(2, hosts=hosts)
    traffic = Traffic(100, 10, concurrency=users)
    engine = replace(BARE, steps=Steps(ops_per_layer=10))
    one = priced(layout, traffic, wires=wires, engine=engine)
    bare = tuple(replace(each, alone=(), launch_alone_s=0.0) for each in wires.devices)
    all_busy = priced(layout, traffic, wires=replace(wires, devices=bare), engine=engine)
    for phase in ("prefill", "decode"):
        found, expected = terms_of(one, phase), terms_of(all_busy, phase)
        for name in ("weights", "LM head", "launches"):
            assert found[name] == pytest.approx(share * expected[name])


def test_the_words_for_weights_and_launches_give_the_rates_that_were_used():
    engine = replace(BARE, steps=Steps(ops_per_layer=10))
    one = priced("dp2", Traffic(100, 10), wires=beside_idle(2), engine=engine)
    because = {term.name: term.because for term in one.terms if term.phase == "decode"}
    assert "2.00 GB/s with 1 row" in because["weights"]
    assert because["launches"].endswith("4 layers: 5.00 us each")


def test_a_dtype_without_any_rate_is_an_error():
    wires = fabric(1)
    device = wires.devices[0]
    bare = replace(device, flops_per_s={"fp32": 1e9})
    with pytest.raises(FabricError, match=r"bf16.*fp32"):
        _ = MatrixRate(bare, "bf16").flops_per_s


def test_what_was_probed_goes_by_its_points_and_other_gpus_by_their_kernels():
    device = typed_fabric("1xL40S").devices[0]
    points = (MatrixPoint("bf16", 1, 10**6, 1e-5),)
    assert isinstance(rate_of(device, "bf16", kv="bf16"), Kernels)
    assert isinstance(rate_of(replace(device, points=points), "bf16", kv="bf16"), Measured)
    assert isinstance(rate_of(fabric(1).devices[0], "bf16", kv="bf16"), Measured)


@pytest.mark.parametrize(
    ("format", "kernels"),
    [
        ("bf16", "bf16"),
        ("fp16", "bf16"),
        ("fp8", "fp8"),
        ("fp8-b128", "fp8_block"),
        ("int4-g128", "int4"),
        ("nvfp4", "nvfp4"),
        ("mxfp8", "fp8_block"),
    ],
)
def test_formats_have_kernels(format: str, kernels: str):
    assert kernel_format(format) == kernels
    rate = rate_of(typed_fabric("1xH100-SXM").devices[0], "bf16", kv="bf16")
    assert isinstance(rate, Kernels)
    held = 4096 * 4096 * element_bits(format) / 8
    seconds = rate.product_s(Product("down", 4096, 4096, format, held), 8)
    assert seconds == pytest.approx(matmul_s(rate.gpu, 8, 4096, 4096, kernels), rel=0.04)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["T4", "A100-SXM-80GB", "H100-SXM", "B200-SXM", "MI300X"])
def test_every_kind_of_format_has_kernels(kind: str, device: str):
    rate = rate_of(typed_fabric(f"1x{device}").devices[0], "bf16", kv="bf16")
    held = 4096 * 4096 * element_bits(kind) / 8
    assert 0 < rate.product_s(Product("down", 4096, 4096, kind, held), 8) < 1e-3
    routed = Routed(8, 8, 2, 4096, 1024, True, kind, 8 * 3 * 1024 / 4096 * held)
    assert 0 < rate.routed_s(routed, 8) < 1e-2


def test_smaller_groups_of_scales_are_more_to_read():
    """4 bits and 20 of scale and zero point per group: 4.625 bits with 32, 4.15625 with 128."""
    rate = rate_of(typed_fabric("1xH100-SXM").devices[0], "bf16", kv="bf16")
    n, k = 65536, 8192
    fine, coarse = (
        rate.product_s(Product("up", n, k, format, n * k * element_bits(format) / 8), 1)
        for format in ("int4-g32", "int4-g128")
    )
    assert fine / coarse == pytest.approx(4.625 / 4.15625, rel=0.03)
    fine, coarse = (
        rate.routed_s(Routed(8, 8, 8, k, n // 8, True, name, 3 * n * k * element_bits(name) / 8), 4)
        for name in ("int4-g32", "int4-g128")
    )
    assert 1.03 < fine / coarse < 4.625 / 4.15625  # their tiles take part of the time


def test_starts_hide_behind_the_kernel_before():
    device = typed_fabric("1xH100-SXM").devices[0]
    whole, hidden, none = (
        rate_of(device, "bf16", kv="bf16", starts=share).small_s(4, 1e5)
        for share in (1.0, 0.5, 0.0)
    )
    assert 0 < none < hidden < whole
    assert whole - hidden == pytest.approx(hidden - none)


def test_starts_of_a_recurrence_hide_too():
    spec = bundled("Qwen/Qwen3.5-27B")
    work = next(
        work
        for work in (layer_work(spec, one, Layout()) for one in spec.kinds)
        if work.state_elements
    )
    device, batch = typed_fabric("1xH100-SXM").devices[0], Batch(decodes=1, context=100)
    whole, half, none = (
        rate_of(device, "bf16", kv="bf16", starts=share).decode_s(work, batch)[0]
        for share in (1.0, 0.5, 0.0)
    )
    hopper = GENERATIONS["hopper"]
    start_s = hopper.linear.start_s + hopper.elementwise.start_s  # the latter of the convolution
    assert whole - none == pytest.approx(start_s, rel=0.01)
    assert whole - half == pytest.approx(half - none)


def test_a_window_bounds_what_attention_reads():
    """gemma-3: five layers of six look at 1,024 tokens."""
    spec = bundled("google/gemma-3-27b-it")
    rate = rate_of(typed_fabric("1xH100-SXM").devices[0], "bf16", kv="bf16")
    near, far = sorted(
        (layer_work(spec, layer, Layout()) for layer in spec.kinds),
        key=lambda work: work.mixer.cached_tokens(10**6) if work.mixer else 0,
    )
    for context, alike in ((512, True), (16384, False)):
        batch = Batch(decodes=8, context=context)
        assert (rate.decode_s(near, batch) == pytest.approx(rate.decode_s(far, batch))) == alike
    long = Batch(chunk=2048, prompts=1, before=14000)
    assert rate.chunk_s(near, long) < 0.5 * rate.chunk_s(far, long)


def test_a_cache_in_fp8_is_read_sooner():
    spec = bundled("meta-llama/Llama-3.1-8B")
    device = typed_fabric("1xH100-SXM").devices[0]
    work = layer_work(spec, spec.layers[0], Layout())
    batch = Batch(decodes=64, context=8192)
    wide, narrow = (
        rate_of(device, "bf16", kv=kv).decode_s(work, batch)[0] for kv in ("bf16", "fp8")
    )
    assert narrow < 0.8 * wide
    assert (
        on_gpus("meta-llama/Llama-3.1-8B", "1xH100-SXM", "trtllm", quantized="fp8").kv_dtype
        == "fp8"
    )
    assert (
        on_gpus("meta-llama/Llama-3.1-8B", "1xH100-SXM", "vllm", quantized="fp8").kv_dtype == "bf16"
    )


@pytest.mark.parametrize("layout", ["tp2", "tp4", "tp8"])
def test_a_rank_works_on_its_own_heads(layout: str):
    pricing = on_gpus("meta-llama/Llama-3.1-70B", "8xH100-SXM")
    batch = Batch(decodes=32, context=4096)
    whole, part = (replica_of(pricing, cut).stages[0] for cut in ("tp1", layout))
    tp = int(layout[2:])
    (work, layers), (own, own_layers) = whole.works[0], part.works[0]
    assert layers == own_layers == 80
    assert (own.heads, own.kv_heads) == (work.heads // tp, work.kv_heads // tp)
    assert part.rate.decode_s(own, batch)[0] < whole.rate.decode_s(work, batch)[0]
