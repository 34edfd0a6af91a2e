"""A model in the dtype that a person asks for: what its weights are stored in, and what it computes
in.

    spec, activations = in_dtype(spec, "fp8")      # linears in fp8, activations in the model's own

A checkpoint that is stored so already keeps its own layout of scales.
"""

from wirecut.errors import UsageError
from wirecut.spec.formats import KINDS, element_bits, kind_of
from wirecut.spec.model import ModelSpec

FLOATS = ("fp32", "bf16", "fp16")  # what activations are computed in
FOUR_BITS = ("nvfp4", "mxfp4")  # what "fp4" may mean


def in_dtype(spec: ModelSpec, dtype: str | None) -> tuple[ModelSpec, str]:
    """The model as stored for `dtype` (None: as its checkpoint is), and the dtype of activations.

    A float dtype holds all weights in it; any other quantises the linears of the layers: fp8, int8,
    int4, fp4 (nvfp4, unless the checkpoint has mxfp4) or a format with its groups, as int4-g128.
    Raises UsageError for an unknown name.
    """
    own = kind_of(spec.weights.linear)
    if dtype is None:
        return spec, spec.dtype
    if dtype in FLOATS:
        stored = spec.quantized(dtype) if own and own != dtype else spec
        return stored, dtype
    activations = "bf16" if spec.dtype == "fp32" else spec.dtype
    if dtype == "fp4":
        return (spec if own in FOUR_BITS else spec.quantized("nvfp4")), activations
    try:
        element_bits(dtype)
    except UsageError as error:
        raise UsageError(
            f"dtype is {dtype!r}, expected one of {', '.join((*KINDS, 'fp4'))}, or a format with "
            "its groups, as int4-g128"
        ) from error
    return (spec if own == kind_of(dtype) else spec.quantized(dtype)), activations
