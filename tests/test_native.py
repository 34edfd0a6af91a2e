"""The C kernels against torch, and that everything works without them."""

import ctypes
import os
import re
import subprocess
import sys

import pytest
import torch

from wirecut.machine import kernels, native, paged
from wirecut.machine.halves import NativeHalf, NativeHalves, Rows

needs_products = pytest.mark.skipif(
    not hasattr(native.load(), "linear_bf16"), reason="no bf16 products in vectors here"
)


@needs_products
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 12, 13, 31, 200])
@pytest.mark.parametrize(("outs", "ins"), [(1, 2), (33, 64), (64, 30), (100, 258)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_by_panels_is_torchs(rows: int, outs: int, ins: int, biased: bool) -> None:
    torch.manual_seed(rows)
    weight_OI, x_TI = torch.randn(outs, ins).bfloat16(), torch.randn(rows, ins).bfloat16()
    bias_O = torch.randn(outs).bfloat16() if biased else None
    y_TO = kernels.PackedLinear(weight_OI, bias_O)(x_TI)
    wide = None if bias_O is None else bias_O.double()
    right = torch.nn.functional.linear(x_TI.double(), weight_OI.double(), wide)
    torch.testing.assert_close(y_TO.double(), right, rtol=2**-8, atol=1e-4)


@needs_products
def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    product = kernels.PackedLinear(torch.randn(96, 512).bfloat16())
    x_TI = torch.randn(40, 512).bfloat16()
    together = product(x_TI)
    assert all(torch.equal(product(x_TI[i : i + 1])[0], together[i]) for i in range(40))


@pytest.mark.skipif(native.load() is None, reason="no C kernels here")
@pytest.mark.parametrize("drift", [{"LANES": 8}, {"Attention": ctypes.c_long * 3}])
def test_what_python_repeats_of_the_sources_is_checked(drift: dict) -> None:
    name, mine = next(iter(drift.items()))
    own = mine if isinstance(mine, int) else ctypes.sizeof(mine)
    with pytest.raises(native.NativeDrift, match=f"{name} is {own} in Python and"):
        native.agree(**drift)


@needs_products
def test_every_constant_and_struct_is_known_by_its_name() -> None:
    """Of these a name that C does not have would never be checked."""
    names = ("LANES", "PANEL", "MOST_BLOCK", "PROMPT_BLOCK", "MOST_WIDTH")
    for name in (*names, "Attention", "Half", "Group", "Step"):
        assert native.load().fact(name.encode()) > 0


def test_every_source_sees_the_kernels_as_others_do() -> None:
    for source in native.SOURCES.glob("*.c"):
        assert re.search(r'#include "(kernels|halves)\.h"', source.read_text()), source.name


@pytest.mark.parametrize("told", [{"WIRECUT_NATIVE": "0"}, {"PATH": "", "XDG_CACHE_HOME": "empty"}])
def test_without_the_library_torch_does_it(told: dict[str, str], tmp_path) -> None:
    """Told not to use it, or without a compiler, products are oneDNN's; only the second is news."""
    code = (
        "import torch; from wirecut.machine import kernels, native; assert native.load() is None;"
        "w, x = torch.randn(8, 4).bfloat16(), torch.randn(3, 4).bfloat16();"
        "y = kernels.PackedLinear(w)(x); assert torch.allclose(y, x @ w.T, rtol=0.05, atol=0.05)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | told,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("C kernels" in done.stderr) == ("PATH" in told)


BLOCK = 32
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 0.02, "atol": 0.02},
}


def both(once) -> tuple[torch.Tensor, torch.Tensor]:
    """What our kernels make of it, and torch."""
    ours = once()
    with kernels.Operations():
        return ours, once()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_what_stands_between_products_is_torchs(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    x_TE, weight_E = torch.randn(rows, 96).to(dtype), torch.randn(96).to(dtype)
    torch.testing.assert_close(
        *both(lambda: kernels.rms_norm(x_TE, weight_E, 1e-5)), **TOLERANCE[dtype]
    )
    torch.testing.assert_close(*both(lambda: kernels.swiglu(x_TE)), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "width"), [(64, 64), (96, 32), (32, 32), (16, 16)])
def test_turned_heads_are_torchs(dim: int, width: int, dtype: torch.dtype) -> None:
    qkv_THD, angles_TD = torch.randn(5, 6, dim).to(dtype), torch.randn(2, 5, width).to(dtype)
    torch.testing.assert_close(
        *both(lambda: kernels.rotate(qkv_THD.clone()[:, :4], *angles_TD)), **TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_kept_where_they_belong(dtype: torch.dtype) -> None:
    qkv_THD, slots_T = torch.randn(3, 8, 32).to(dtype), torch.tensor([7, 0, 4])

    def kept() -> torch.Tensor:
        cache_KSD = torch.zeros(2, 9, 32, dtype=dtype)
        kernels.keep(qkv_THD[:, 4:6], cache_KSD, slots_T)
        return cache_KSD

    assert torch.equal(*both(kept))


LOOKS = pytest.mark.parametrize("look", [{}, {"window": 9}, {"cap": 2.0}, {"sinks_H": True}])


@pytest.mark.skipif(native.load() is None, reason="no C kernels here")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 64), (6, 1, 80), (3, 3, 16)])
@LOOKS
def test_decodes_are_softmax_over_their_blocks(
    heads: int, kv_heads: int, dim: int, look: dict, dtype: torch.dtype
) -> None:
    check([1, 1, 1, 1], [1, 16, 33, 70], (heads, kv_heads, dim), look, dtype)


@needs_products
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 64), (6, 1, 96), (2, 2, 32)])
@LOOKS
def test_prompts_and_chunks_are_softmax_over_their_blocks(
    heads: int, kv_heads: int, dim: int, look: dict
) -> None:
    check([2, 16, 30, 13], [2, 16, 33, 90], (heads, kv_heads, dim), look, torch.bfloat16)


def check(counts: list[int], lengths: list[int], shape, look: dict, dtype: torch.dtype) -> None:
    """Sequences whose blocks lie anywhere, in rows that leave some between them to others."""
    heads, kv_heads, dim = shape
    torch.manual_seed(heads)
    blocks_NB = torch.randperm(12, dtype=torch.int32).view(4, 3)
    cache = torch.randn(2, kv_heads, 12 * BLOCK, dim).to(dtype)
    cache[:, :, blocks_NB[3, 2] * BLOCK + BLOCK - 1] = float("nan")  # a place never written
    rows = [sum(counts[:i]) + i for i in range(4)]
    qkv_THD = torch.randn(sum(counts) + 4, heads + 2 * kv_heads, dim).to(dtype)
    out_THD = torch.zeros(len(qkv_THD), heads, dim, dtype=dtype)
    if "sinks_H" in look:
        look = {"sinks_H": torch.randn(heads)}
    numbers = (torch.tensor(each, dtype=torch.int32) for each in (rows, counts, lengths))
    where = paged.Paged(*numbers, blocks_NB, BLOCK)
    q_THD, prompts = qkv_THD[:, :heads], max(counts) > 1
    paged.attend(q_THD, *cache, out_THD, where, prompts=prompts, scale=dim**-0.5, **look)
    for row, count, length, blocks in zip(rows, counts, lengths, blocks_NB, strict=True):
        places = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
        for i in range(count):
            seen = cache[:, :, places[: length - count + 1 + i]].double()
            right = _attention(q_THD[row + i].double(), seen, **look)
            torch.testing.assert_close(out_THD[row + i].double(), right, **TOLERANCE[dtype])
        assert not out_THD[row + count].any()


# A million positions in one block: to pack all of them takes 256 MB of the 64 that there are.
SHORT_OF_MEMORY = """
import resource, sys, torch
from wirecut.errors import RankFailed
from wirecut.machine import paged
torch.set_num_threads(1)
length, window = 1 << 20, int(sys.argv[1])
where = paged.Paged(
    *(torch.tensor([n], dtype=torch.int32) for n in (0, 2, length)),
    torch.zeros(1, length // 32, dtype=torch.int32),
    32,
)
q_THD, cache = torch.randn(2, 1, 64).bfloat16(), torch.randn(2, 1, 32, 64).bfloat16()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    paged.attend(q_THD, *cache, torch.empty_like(q_THD), where, prompts=True, scale=1.0,
                 window=window or None)
except RankFailed as error:
    print(error)
"""


@needs_products
@pytest.mark.parametrize(("window", "said"), [(0, "no memory left to pack"), (100, "")])
def test_memory_that_is_missing_is_told_and_a_window_needs_little(window: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(window)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert bool(said) == bool(done.stdout)


def _heads_of(width: int) -> NativeHalf:
    return NativeHalf(keys=1, head_dim=width, into_outs=64, back_ins=64)


@needs_products
@pytest.mark.parametrize(("widths", "taken"), [((64, 32), True), ((64, 48), False)])
def test_halves_take_prompts_only_where_each_of_them_does(widths: tuple, taken: bool) -> None:
    halves = NativeHalves([_heads_of(width) for width in widths], hidden=64, kept=None)
    turn, number = torch.zeros(2, 32).bfloat16(), torch.zeros(1, dtype=torch.int32)
    prompts = paged.Paged(number, number, number, number.view(1, 1), BLOCK)
    rows = Rows((turn, turn), torch.zeros(2, dtype=torch.int64), None, prompts)
    assert halves.take(torch.zeros(2, 64).bfloat16(), rows) is taken


def _attention(q_HD, cache_2KLD, window=None, cap=None, sinks_H=None) -> torch.Tensor:
    """By its definition, in double precision."""
    keys_HLD, values_HLD = cache_2KLD.repeat_interleave(len(q_HD) // cache_2KLD.shape[1], dim=1)
    scores_HL = torch.einsum("hd,hld->hl", q_HD, keys_HLD) * q_HD.shape[1] ** -0.5
    if cap is not None:
        scores_HL = cap * torch.tanh(scores_HL / cap)
    if window is not None:
        scores_HL[:, : max(0, scores_HL.shape[1] - window)] = float("-inf")
    if sinks_H is not None:
        scores_HL = torch.cat([scores_HL, sinks_H[:, None].double()], 1)
    weights_HL = scores_HL.softmax(1)[:, : values_HLD.shape[1]]
    return torch.einsum("hl,hld->hd", weights_HL, values_HLD)


@pytest.mark.skipif(native.load() is None, reason="no C kernels here")
def test_nothing_known_stays_nothing_known() -> None:
    """NaN goes through every kernel: what is wrong is to be seen at the end."""
    x = torch.full((1, 32), float("nan"))
    assert kernels.rms_norm(x, torch.ones(32), 1e-5).isnan().all()
    assert kernels.swiglu(x).isnan().all()
    assert kernels.swiglu(x.bfloat16()).isnan().all()
