"""Which models wirecut's own engine runs; the others it plans only.

    why_not_run(spec)       # None, or "Qwen3-8B is a qwen3 model: wirecut plans it, but runs ..."

Knows no engine: planning asks here too, without torch.
"""

from wirecut.spec.model import ModelSpec


def why_not_run(spec: ModelSpec) -> str | None:
    """Why wirecut's own engine of this version does not run a model; None when it does."""
    if spec.architecture != "llama":
        return (
            f"{spec.name} is a {spec.architecture} model: wirecut plans it, but runs llama models "
            "only yet"
        )
    if any(tensor.part == "bias" for tensor in spec.layer_tensors(spec.layers[0])):
        return f"{spec.name} has biases: wirecut plans it, but does not run it yet"
    if spec.weights.linear:
        return (
            f"{spec.name} has weights in {spec.weights.linear}: wirecut plans it, but does not run "
            "quantised models yet"
        )
    if spec.rope_kind != "default":
        return (
            f"{spec.name} scales its rotary embedding ({spec.rope_kind}): wirecut plans it, but "
            "does not run it yet"
        )
    return None
