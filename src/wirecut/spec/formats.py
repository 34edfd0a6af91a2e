"""How a number is stored: bits per element of a weight, its scales counted with it.

    element_bits("nvfp4")            # 4.5
    element_bits("int4-g128")        # 4.15625: 16 bits of scale and 4 of zero point per 128

A name is a kind, then for block-quantised kinds the group: `-gN` is a scale (and zero point) per N
elements of a row, `-sN` the same without zero point, `-bN` a scale per block of N x N.
"""

import re
from functools import cache

from wirecut.errors import UsageError

# Bits of one element, without scales.
KINDS = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "mxfp8": 8,
    "mxfp4": 4,
    "nvfp4": 4,
    "int4": 4,
    "nf4": 4,
}
# Bits of scale (and zero point) per group, and its size where the name gives none. Sources: OCP
# Microscaling Formats 1.0 (E8M0 per 32); NVIDIA's NVFP4 (E4M3 per 16); AWQ and GPTQ checkpoints
# (fp16 scale and 4-bit zero per group); bitsandbytes (fp32 per 64); DeepSeek-V3's config.json
# (fp32 per 128 x 128).
GROUP_BITS = {"mxfp8": 8, "mxfp4": 8, "nvfp4": 8, "int4": 20, "int8": 24, "fp8": 32, "nf4": 32}
SCALE_BITS = 16  # of integers without a zero point
GROUP_SIZE = {"mxfp8": 32, "mxfp4": 32, "nvfp4": 16, "int4": 128, "nf4": 64}


@cache
def element_bits(name: str) -> float:
    """Bits per element of a format, scales included. Raises UsageError for an unknown name.

    With `-row`, and for fp8 and int8 without a group, there is a scale per row or tensor, which is
    not counted.
    """
    found = re.fullmatch(r"([a-z]+[0-9]+)(?:-(?:(row)|([gbs])([1-9][0-9]{0,5})))?", name)
    kind, per_row, shape, size = found.groups() if found else ("", None, None, None)
    if kind not in KINDS or (shape and kind not in GROUP_BITS):
        raise UsageError(
            f"format {name!r} is not known; wirecut knows {', '.join(KINDS)}, "
            "and groups as in int4-g128 or fp8-b128"
        )
    group = int(size) if size else GROUP_SIZE.get(kind)
    if group is None or per_row:
        return KINDS[kind]
    bits = SCALE_BITS if shape == "s" else GROUP_BITS[kind]
    return KINDS[kind] + bits / (group * group if shape == "b" else group)


@cache
def group_size(name: str) -> int:
    """'int4-g128' -> 128: how many inputs of a row share a scale; 0: all, or those of a block."""
    found = re.search(r"-[gs]([0-9]+)$", name)
    return int(found[1]) if found else 0


def kind_of(name: str) -> str:
    """'int4-g128' -> 'int4'."""
    return name.partition("-")[0]
