"""What a runtime adds to the arithmetic: its own work, its batching, its memory, its limits.

    profile = engine_profile("vllm")
    profile.steps.host_s, profile.batching.mixes

Wirecut's own work is counted in launches of small operations, so that it moves between machines;
other runtimes' in seconds of their host, fitted on published runs (benchmarks/serving.md).
"""

from collections.abc import Mapping
from dataclasses import field, replace

from wirecut.errors import UsageError
from wirecut.facts import fact
from wirecut.layout.plan import Limits
from wirecut.layout.rules import ANY_ENGINE, OWN_ENGINE, EngineRules
from wirecut.units import GIB


@fact
class Steps:
    """What a step costs beside its products, attention and wires.

    In launches of one small operation, which take the device's `launch_s`: `ops_per_layer` (norms,
    projections, rotary, cache write, activation, additions), `step_ops` once per step before the
    first stage, `stage_ops` on each later stage, `ops_per_sequence` (sampling and commit) on the
    last stage, `request_ops` once per request.

    `native_halves`: on cores that can, halves of layers in bf16 that native code runs take their
    `half_s` instead (`cost.halves`).

    In seconds of the host that the device waits for: `host_s` per step, `sequence_s` per sequence
    in it, `request_s` once per request before its first token. `graphs`: decode steps run as one
    CUDA graph; other steps launch kernel by kernel, each `kernel_s` of the host. `starts` is the
    share of the kernels' own starts that shows: the rest hides while the kernel before drains.
    `ahead`: a later stage's host prepares a step while stages before it compute, so that a token's
    way through them meets `host_s` once; else each begins when the hidden states are there.
    """

    ops_per_layer: int = 0
    native_halves: bool = False
    step_ops: int = 0
    stage_ops: int = 0
    ops_per_sequence: int = 0
    request_ops: int = 0
    host_s: float = 0.0
    sequence_s: float = 0.0
    request_s: float = 0.0
    graphs: bool = False
    kernel_s: float = 5e-6
    starts: float = 1.0
    ahead: bool = False


@fact
class Batching:
    """Who goes into a step. `mixes`: prompts ride with decodes; else they go alone and decodes
    wait. `one_prompt`: prompts that wait go one to a step, though more would fit (as benchmarks set
    TensorRT-LLM up, whose `max_num_tokens` is then about one prompt).

    `chunk_by_chunk`: a chunk of prompts enters a pipeline when the one before is back from its last
    stage (bursts over two stages take as long as over one, benchmarks/serving.md).

    `in_flight`: batches a pipeline keeps in flight, as a share of its stages beyond the first; 1 is
    dealt evenly. `handoffs`: hidden states a boundary sends per token (2: the residual apart).
    `reserves`: a request starts only where room for its whole answer is left. A pipeline's stages
    share prompts out, `chunks_per_stage` chunks each of at least `min_chunk_tokens`; 0: they are
    not shared out. `gpu_block_tokens`: of KV room on GPUs, where blocks are others there.
    """

    mixes: bool = True
    one_prompt: bool = False
    chunk_by_chunk: bool = False
    in_flight: float = 1.0
    handoffs: int = 1
    reserves: bool = True
    min_chunk_tokens: int = 0
    chunks_per_stage: int = 1
    block_tokens: int = 16
    gpu_block_tokens: int = 0


@fact
class Room:
    """How a runtime accounts for a device's memory: it takes `share` of it; CUDA context, libraries
    and graphs take `runtime_bytes`, more `group_bytes` of buffers with TP; `of_rest`: the share is
    of what weights and the rest leave free, not of the device.
    """

    share: float = 0.9
    runtime_bytes: int = 0
    group_bytes: int = 0
    of_rest: bool = False


@fact
class EngineProfile:
    """One runtime. `library` is its collectives' (`libraries.LIBRARIES`); None: by the wire.
    `exchange` is how tokens go to experts that replicas share (`exchange.EXCHANGES`). `kv_formats`:
    what the cache is stored in, by the kind that linears are stored in, where that is not the
    activations'. `step_tokens` and `sequences` are its default limits by device memory, as (at
    least so many GiB, value), largest first.
    """

    name: str
    rules: EngineRules = ANY_ENGINE
    steps: Steps = Steps()
    batching: Batching = Batching()
    room: Room = Room()
    library: str | None = None
    exchange: str = "all-gather"
    message_bytes: int = 1024
    kv_formats: Mapping[str, str] = field(default_factory=dict[str, str])
    step_tokens: tuple[tuple[int, int], ...] = ((0, 2048),)
    sequences: tuple[tuple[int, int], ...] = ((0, 64),)

    def in_blocks(self, tokens: int, *, on_gpus: bool = False) -> int:
        """KV room for `tokens`, which is given out in whole blocks."""
        block = (on_gpus and self.batching.gpu_block_tokens) or self.batching.block_tokens
        return -(-tokens // block) * block

    def limits(self, memory_bytes: int) -> Limits:
        """Its default limits on devices of this memory."""

        def by_memory(table: tuple[tuple[int, int], ...]) -> int:
            return next(value for gib, value in table if memory_bytes >= gib * GIB)

        return Limits(by_memory(self.step_tokens), by_memory(self.sequences))


LEAST_SHARE = 0.01  # of a device's memory

# Layers: counted (tests/test_operations.py), views by their share. Steps and requests: what was
# left of measured runs of the demo checkpoint on one rank, with 1 and 8 sequences.
WIRECUT = EngineProfile(
    name="wirecut",
    rules=OWN_ENGINE,
    steps=Steps(
        ops_per_layer=22,
        native_halves=True,
        step_ops=40,
        stage_ops=40,
        ops_per_sequence=2,
        request_ops=60,
    ),
    batching=Batching(
        block_tokens=32, gpu_block_tokens=256, min_chunk_tokens=64, chunks_per_stage=2
    ),
    exchange="all-to-all",
)
# Defaults as its documentation gives them: a budget of 2,048 tokens below 70 GB, 8,192 from there,
# 16,384 from 160 GB; 0.9 of the memory; CUDA graphs; the residual sent apart; EP over all ranks.
VLLM = EngineProfile(
    name="vllm",
    rules=EngineRules("vLLM", experts="all"),
    steps=Steps(
        host_s=1.4e-3, sequence_s=20e-6, request_s=20e-3, graphs=True, kernel_s=3e-6, starts=0.85
    ),
    batching=Batching(chunk_by_chunk=True, in_flight=0.7, handoffs=2, reserves=False),
    room=Room(share=0.9, runtime_bytes=GIB, group_bytes=GIB // 2),
    library="custom_graph",
    step_tokens=((150, 16384), (66, 8192), (0, 2048)),
    sequences=((66, 1024), (0, 256)),
)
SGLANG = EngineProfile(
    name="sglang",
    rules=EngineRules("SGLang", experts="any"),
    steps=Steps(
        host_s=0.8e-3, sequence_s=10e-6, request_s=40e-3, graphs=True, kernel_s=8e-6, starts=0.85
    ),
    batching=Batching(mixes=False, handoffs=2, reserves=False),
    room=Room(share=0.88, runtime_bytes=2 * GIB, group_bytes=GIB // 2),
    library="custom_graph",
    exchange="deepep",
    step_tokens=((66, 8192), (20, 4096), (0, 2048)),
    sequences=((66, 1024), (0, 256)),
)
TRTLLM = EngineProfile(
    name="trtllm",
    rules=EngineRules("TensorRT-LLM", experts="any"),
    steps=Steps(
        host_s=1e-3,
        sequence_s=3e-6,
        request_s=18e-3,
        graphs=True,
        kernel_s=1e-6,
        starts=0.85,
        ahead=True,
    ),
    batching=Batching(one_prompt=True, handoffs=2),
    room=Room(share=0.95, runtime_bytes=2 * GIB, group_bytes=GIB // 2, of_rest=True),
    library="trtllm",
    exchange="one-sided",
    kv_formats={"fp8": "fp8", "nvfp4": "fp8"},
    step_tokens=((0, 8192),),
    sequences=((0, 2048),),
)
LMDEPLOY = EngineProfile(
    name="lmdeploy",
    rules=EngineRules("LMDeploy's TurboMind", experts="any", has_pp=False),
    steps=Steps(host_s=0.5e-3, sequence_s=5e-6, request_s=10e-3, kernel_s=3e-6),
    batching=Batching(mixes=False),
    room=Room(share=0.8, runtime_bytes=GIB, of_rest=True),
    library="custom_eager",
    exchange="deepep",
    step_tokens=((0, 8192),),
    sequences=((0, 256),),
)
# One sequence after another through the layers' devices: it does not overlap its stages.
LLAMA_CPP = EngineProfile(
    name="llama.cpp",
    rules=EngineRules("llama.cpp", experts="none", has_tp=False),
    steps=Steps(host_s=0.3e-3, request_s=1e-3, graphs=True, kernel_s=3e-6),
    batching=Batching(mixes=True, in_flight=0.0),
    room=Room(share=0.97, runtime_bytes=GIB // 2),
    library="nccl",
    step_tokens=((0, 512),),
    sequences=((0, 64),),
)
ENGINES = {one.name: one for one in (WIRECUT, VLLM, SGLANG, TRTLLM, LMDEPLOY, LLAMA_CPP)}


def engine_profile(name: str, memory_share: float | None = None) -> EngineProfile:
    """The profile of a runtime by name, told to take `memory_share` of a device's memory as it
    takes its own (None: its default). Raises UsageError that lists the names, or the range.
    """
    try:
        profile = ENGINES[name]
    except KeyError:
        raise UsageError(f"no engine {name!r}; wirecut predicts {', '.join(ENGINES)}") from None
    if memory_share is None:
        return profile
    if not LEAST_SHARE <= memory_share <= 1:
        raise UsageError(
            f"memory_share is {memory_share!r}, expected a number from {LEAST_SHARE} to 1: the "
            f"part of a device's memory that {name} takes ({profile.room.share} by default)"
        )
    return replace(profile, room=replace(profile.room, share=memory_share))
