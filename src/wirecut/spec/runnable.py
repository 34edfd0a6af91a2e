"""Which models wirecut's own engine runs; the others it plans only.

    why_not_run(spec)       # None, or "glm-4-9b is of architecture glm: wirecut plans it, but ..."

Knows no engine: planning asks here too, without torch.
"""

from wirecut.spec.dtypes import FLOATS
from wirecut.spec.formats import kind_of
from wirecut.spec.model import ModelSpec
from wirecut.spec.packing import packings

ARCHITECTURES = (
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "qwen2_moe"),
    *("gemma2", "gemma3", "gemma3_text", "phi3", "gpt_oss", "deepseek_v2", "deepseek_v3"),
)
ROPES = ("default", "linear", "llama3", "dynamic", "yarn", "longrope")


def why_not_run(spec: ModelSpec) -> str | None:
    """Why wirecut's own engine of this version does not run a model; None when it does."""
    if spec.architecture not in ARCHITECTURES:
        return (
            f"{spec.name} is of architecture {spec.architecture}: wirecut plans it, but runs "
            f"{', '.join(ARCHITECTURES)} only"
        )
    if unread := _unread(spec):
        if spec.weights.method == kind_of(unread):  # asked for by name
            return (
                f"{spec.name} is stored in {spec.dtype}: wirecut runs {unread} where a checkpoint "
                "holds it, and quantises none"
            )
        return (
            f"{spec.name} has weights in {unread} ({spec.weights.method}): wirecut plans it, but "
            "reads int4 and int8 of AWQ (gemm), GPTQ and compressed-tensors, int8 of bitsandbytes, "
            "fp8, and mxfp4 of gpt-oss only"
        )
    if spec.rope_kind not in ROPES:
        return (
            f"{spec.name} scales its rotary embedding by {spec.rope_kind}: wirecut plans it, but "
            f"runs {', '.join(ROPES)} only"
        )
    return None


def _unread(spec: ModelSpec) -> str | None:
    """A format that the engine does not read as this checkpoint packs it."""
    stored = {format for layer in spec.kinds for _, format in layer.formats} | {spec.head_format}
    for format in sorted(stored - {"", *FLOATS}):
        if not packings(spec.weights.method, format):
            return format
    return None
