"""What looking at other tokens takes: elements of the cache that are read, counted by hand, what
choosing keys takes, and heads of other widths than DeepSeek-V3's.
"""

from dataclasses import replace
from itertools import pairwise

import pytest

from fabrics import fabric
from pricing import bundled
from wirecut.cost.attend import cache_bytes, chunk_flops, decode_flops
from wirecut.cost.forward import Batch
from wirecut.cost.kernel_rate import Kernels
from wirecut.cost.kernels_linear import indexer_s
from wirecut.cost.rates import rate_of
from wirecut.cost.work import LayerWork, layer_work
from wirecut.fabric.typed import typed_fabric
from wirecut.layout.layout import Layout
from wirecut.spec.attention import Attention, CompressedAttention, LatentAttention

SPARSE, POOLED, LATENT = "deepseek-ai/DeepSeek-V3.2", "zai-org/GLM-5.3-Flash", "zai-org/GLM-5"
COMPRESSED, UNEQUAL = "deepseek-ai/DeepSeek-V4-Flash", "XiaomiMiMo/MiMo-V2-Flash"
CONTEXT = 65536


def works(name: str, tp: int = 1) -> list[LayerWork]:
    """One rank's part of each kind of layer that has a mixer."""
    spec = bundled(name)
    found = (layer_work(spec, layer, Layout(tp=tp)) for layer in spec.kinds)
    return [work for work in found if work.mixer]


def with_index(name: str, tp: int = 1) -> LayerWork:
    """A layer that chooses its keys."""
    return next(work for work in works(name, tp) if getattr(work.mixer, "index", None))


def kernels() -> Kernels:
    rate = rate_of(typed_fabric("1xH100-SXM").devices[0], "bf16", kv="bf16")
    assert isinstance(rate, Kernels)
    return rate


# Elements at 65,536 tokens: keys attended x elements of each + keys scored x elements of each.
READ = {
    SPARSE: 2048 * 576 + 65536 * 128,
    POOLED: 2048 * 512 + 65536 // 16 * 128,
    COMPRESSED: (128 + 512) * 512 + 65536 // 4 * 128,
    "MiniMaxAI/MiniMax-M3": 2048 * 2 * 4 * 128 + 65536 * 128,
}


@pytest.mark.parametrize("name", READ)
def test_what_a_query_reads_by_hand(name: str) -> None:
    work = with_index(name)
    assert cache_bytes(work, sequences=3, context=CONTEXT, size=2) == 3 * 2 * READ[name]


def test_an_index_is_read_by_every_rank_and_heads_by_their_own() -> None:
    whole, half = (with_index("MiniMaxAI/MiniMax-M3", tp) for tp in (1, 2))
    read, part = (cache_bytes(work, sequences=1, context=CONTEXT, size=1) for work in (whole, half))
    assert read - part == 2048 * 4 * 128
    for name in (SPARSE, POOLED, COMPRESSED):
        one, other = (
            cache_bytes(with_index(name, tp), sequences=1, context=CONTEXT, size=1) for tp in (1, 8)
        )
        assert one == other


def test_every_rank_scores_for_all_heads_of_the_index() -> None:
    one, eight = (with_index(SPARSE, tp) for tp in (1, 8))
    scored = CONTEXT * 2 * 64 * 128
    for flops in (
        [decode_flops(work, sequences=1, context=CONTEXT) for work in (one, eight)],
        [chunk_flops(work, tokens=1, keys=CONTEXT) for work in (one, eight)],
    ):
        assert flops[0] - scored == pytest.approx(8 * (flops[1] - scored))


def bare(work: LayerWork) -> LayerWork:
    """The same layer that uses an earlier layer's choice."""
    assert isinstance(work.mixer, Attention | LatentAttention | CompressedAttention)
    return replace(work, mixer=replace(work.mixer, index=None))


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize(
    ("name", "heads", "pool"), [(SPARSE, 64, 1), (POOLED, 32, 16), (COMPRESSED, 64, 4)]
)
def test_choosing_keys_takes_time_in_prefill_and_decode_however_many_ranks(
    name: str, heads: int, pool: int, tp: int
) -> None:
    rate, work = kernels(), with_index(name, tp)
    index = {"index_heads": heads, "index_dim": 128}
    chunk = Batch(chunk=4096, prompts=2, before=CONTEXT)
    keys = (CONTEXT + 2049 / 2) / pool
    assert rate.chunk_s(work, chunk) - rate.chunk_s(bare(work), chunk) == pytest.approx(
        indexer_s(rate.gpu, 2048, keys, sequences=2, **index)
    )
    step = Batch(decodes=16, context=CONTEXT)
    assert rate.decode_s(work, step)[0] - rate.decode_s(bare(work), step)[0] == pytest.approx(
        indexer_s(rate.gpu, 1, CONTEXT / pool, sequences=16, **index)
    )


def test_sparse_prefill_grows_with_its_choice_not_with_its_keys() -> None:
    rate, work = kernels(), bare(with_index(SPARSE))
    times = [
        rate.chunk_s(work, Batch(chunk=2048, prompts=1, before=before))
        for before in (0, 4096, 32768, 131072)
    ]
    assert all(early <= late for early, late in pairwise(times))
    assert times[3] < 1.2 * times[2]  # four times the keys, as many chosen


def test_heads_of_latent_attention_have_their_own_widths() -> None:
    """GLM-5 with and without DeepSeek-V3's widths: 256 + 256 a pair of a prompt, not 192 + 128; a
    cache of twice the latent takes about twice as long to read.
    """
    rate, work = kernels(), bare(with_index(LATENT))
    assert isinstance(work.mixer, LatentAttention)
    dense = replace(work.mixer, top_k=None)
    slim = replace(dense, nope_dim=128, value_dim=128)
    batch = Batch(chunk=8192, prompts=1, before=8192)
    wide_s, slim_s = (rate.chunk_s(replace(work, mixer=one), batch) for one in (dense, slim))
    assert wide_s / slim_s == pytest.approx((256 + 256) / (192 + 128), rel=0.03)
    step = Batch(decodes=64, context=32768)
    double = replace(dense, kv_rank=1024, rope_dim=128)
    one_s, two_s = (rate.decode_s(replace(work, mixer=one), step)[0] for one in (dense, double))
    assert two_s / one_s == pytest.approx(2, rel=0.02)


def test_narrow_values_are_read_and_multiplied_as_such() -> None:
    """MiMo: keys of 192, values of 128."""
    rate = kernels()
    work = next(w for w in works(UNEQUAL) if isinstance(w.mixer, Attention) and not w.mixer.window)
    assert isinstance(work.mixer, Attention)
    equal = replace(work, mixer=replace(work.mixer, value_dim=None))
    for batch in (Batch(decodes=64, context=32768), Batch(chunk=8192, prompts=1, before=8192)):
        narrow_s, equal_s = (
            rate.decode_s(one, batch)[0] + rate.chunk_s(one, batch) for one in (work, equal)
        )
        assert narrow_s / equal_s == pytest.approx((192 + 128) / (192 + 192), rel=0.03)


def test_a_probed_device_reads_a_window_and_its_pooled_keys_once() -> None:
    rate = rate_of(fabric(1).devices[0], "bf16", kv="bf16")
    pooled, _ = rate.decode_s(with_index(COMPRESSED), Batch(decodes=1, context=CONTEXT))
    assert pooled == pytest.approx(2 * READ[COMPRESSED] / fabric(1).devices[0].bytes_per_s)
