"""What a runtime adds to the arithmetic, counted in launches of small operations so that it moves
between machines.

    profile = engine_profile("wirecut")
"""

from dataclasses import dataclass

from wirecut.errors import UsageError


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Launches per forward, on every rank; a launch takes the device's `launch_s`."""

    name: str
    ops_per_layer: int  # norms, projections, rotary, cache write, activation, additions
    ops_per_sequence_layer: int  # attention on CPU cores is one call per sequence, and its slicing
    step_ops: int  # schedule, step message, batch tensors: once per step, before the first stage
    stage_ops: int  # the same on each later stage: decode the step, batch tensors, tokens back
    ops_per_sequence: int  # sampling and commit of one sequence: once per step, on the last stage
    request_ops: int  # a request's way to the engine, its first token's way back: once
    min_chunk_tokens: int  # a pipeline's stages share prompts out in chunks of at least so many
    block_tokens: int  # KV cache is given out in blocks of so many tokens
    message_bytes: int  # a step or its tokens on the way between ranks
    library: str | None = None  # its collectives' (`libraries.LIBRARIES`); None: by the wire

    def in_blocks(self, tokens: int) -> int:
        """KV room for `tokens`, which is given out in whole blocks."""
        return -(-tokens // self.block_tokens) * self.block_tokens


# Layers: counted (tests/test_operations.py), views by their share. Steps and requests: what was
# left of measured runs of the demo checkpoint on one rank, with 1 and 8 sequences.
WIRECUT = EngineProfile(
    name="wirecut",
    ops_per_layer=18,
    ops_per_sequence_layer=4,
    step_ops=40,
    stage_ops=40,
    ops_per_sequence=2,
    request_ops=60,
    min_chunk_tokens=64,
    block_tokens=32,
    message_bytes=1024,
)
ENGINES = {"wirecut": WIRECUT}
LATER = ("vllm", "sglang", "trtllm")


def engine_profile(name: str) -> EngineProfile:
    """The profile of a runtime by name. Raises UsageError that lists the names."""
    if name in ENGINES:
        return ENGINES[name]
    known = ", ".join(ENGINES)
    if name in LATER:
        raise UsageError(f"engine {name!s} is not supported yet; this version predicts: {known}")
    raise UsageError(f"no engine {name!r}; this version predicts: {known}")
