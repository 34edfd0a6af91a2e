"""Which models wirecut's own engine runs; the others it plans only.

    why_not_run(spec)       # None, or "glm-4-9b is a glm model: wirecut plans it, but runs ..."

Knows no engine: planning asks here too, without torch.
"""

from wirecut.spec.model import ModelSpec

ARCHITECTURES = (
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "qwen2_moe"),
    *("gemma2", "gemma3", "gemma3_text", "phi3", "gpt_oss", "deepseek_v2", "deepseek_v3"),
)
ROPES = ("default", "linear", "llama3", "dynamic", "yarn")


def why_not_run(spec: ModelSpec) -> str | None:
    """Why wirecut's own engine of this version does not run a model; None when it does."""
    if spec.architecture not in ARCHITECTURES:
        return (
            f"{spec.name} is a {spec.architecture} model: wirecut plans it, but runs "
            f"{', '.join(ARCHITECTURES)} only"
        )
    if spec.weights.linear:
        return (
            f"{spec.name} has weights in {spec.weights.linear}: wirecut plans it, but does not run "
            "quantised models yet"
        )
    if spec.rope_kind not in ROPES:
        return (
            f"{spec.name} scales its rotary embedding by {spec.rope_kind}: wirecut plans it, but "
            f"runs {', '.join(ROPES)} only"
        )
    return None
