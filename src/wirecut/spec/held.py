"""A quantised model as wirecut's own engine holds it: on CPUs, what no kernel multiplies as it is
stored is unpacked when it is loaded; on GPUs, whose memory is dear, for each product.

    held = as_held(spec, dtype="bf16", on_cpus=True)
    held.weights.linear                    # "int4-g128" as stored; of fp8, "bf16"

The cost model and the loader ask the same. Of 4 bits in groups torch's kernel keeps each zero point
in 16 bits, which is not counted: 2 per cent more in groups of 128. Knows no torch.
"""

from dataclasses import replace

from wirecut.errors import ModelError
from wirecut.spec.dtypes import FLOATS, in_dtype
from wirecut.spec.formats import group_size, kind_of
from wirecut.spec.model import ModelSpec

HALVES = ("bf16", "fp16")  # what `machine.quantized` has kernels for, on CPUs


def as_held(spec: ModelSpec, *, dtype: str, on_cpus: bool, weights: str = "") -> ModelSpec:
    """The model that is computed in `dtype`; `weights` is what was asked for, "" as stored. Raises
    ModelError for weights that the checkpoint does not have.
    """
    asked = in_dtype(spec, weights)[0] if weights else spec
    wanted = kind_of(asked.weights.linear)
    if wanted and wanted not in FLOATS and wanted != kind_of(spec.weights.linear):
        stored = spec.weights.linear or spec.dtype
        raise ModelError(
            f"{spec.name} is stored in {stored}: wirecut runs {wanted} where a checkpoint holds it"
        )

    def held(format: str) -> str:
        kind = kind_of(format)
        has_kernel = kind == "int4" or (kind == "int8" and not group_size(format))
        return format if not on_cpus or (has_kernel and dtype in HALVES) else dtype

    # The head's rows are padded when it is loaded: it is always unpacked.
    return replace(asked.reformatted(held), head_format=asked.head_format and dtype)
