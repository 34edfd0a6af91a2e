"""The C kernels against torch, and that everything works without them."""

import os
import subprocess
import sys

import pytest
import torch

from wirecut.machine import kernels, native

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
