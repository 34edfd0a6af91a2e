"""Words of `serving.md`: what no table says."""

HEAD = """# Serving, predicted and measured

{date}, wirecut {version}, commit {commit},
`python benchmarks/serving.py GROUND_TRUTH_DIR{more} > benchmarks/serving.md`. Rows are published
runs of vLLM, SGLang, TensorRT-LLM, LMDeploy and llama.cpp, predicted by `wirecut.estimate` from the
model, the typed fabric, the layout and the load alone. Errors are of rows of quality A and B,
relative to what was measured: the median of their size, and the median with its sign (bias).
Repeats of one run differ by 2 % in TPOT and by 11 % in the TTFT of a burst.

**No hold-out**: constants of runtimes were chosen while looking at all of these rows. "A source
left out" and "Two halves" stand in for one; kernels and collectives were fitted on other
measurements (operators.md, collectives.md).
"""

# AIConfigurator 0.12 on the same rows, its own mapping at its best: on its own NVSwitch rows, and
# on every other source.
ANCHOR = {
    "TPOT": ("11 to 15%", "28%"),
    "TTFT": ("32 to 41%", "43%"),
    "throughput": ("", "30%; one GPU 15%, L40S over PCIe 72%, between nodes 180%"),
    "order": ("", "132 of 180"),
    "regret": ("", "14%"),
}

FITTED = (  # constants, where they are, what they were fitted on
    (
        "kernels: efficiencies, floors, starts",
        "cost/kernels_fitted.py",
        "NVIDIA's operator tables, other data than these rows (operators.md)",
    ),
    (
        "collectives: latencies, rates, algorithms",
        "cost/libraries.py",
        "measured collectives, other data than these rows (collectives.md)",
    ),
    (
        "vLLM: host_s, sequence_s, request_s, starts, in_flight",
        "cost/engines.py",
        "its rows here: aic_silicon_sample, argonne_all, rhizonymph, surajssd, dstack",
    ),
    (
        "SGLang: host_s, sequence_s, request_s, starts",
        "cost/engines.py",
        "its rows here: aic_silicon_sample alone",
    ),
    (
        "TensorRT-LLM: host_s, sequence_s, request_s, starts, one_prompt",
        "cost/engines.py",
        "its rows here: aic_silicon_sample, argonne, trtllm_v0.17 to v1.1, trtllm_online",
    ),
    (
        "LMDeploy, llama.cpp: host_s, request_s",
        "cost/engines.py",
        "their rows here, one source each",
    ),
    (
        "wirecut: operations per layer, step and request",
        "cost/engines.py",
        "counted, and the built-in engine's own runs: no row here",
    ),
    (
        "budgets, limits, shares of memory",
        "cost/engines.py",
        "the runtimes' documentation; runtime_bytes by hand",
    ),
    (
        "LENGTH_SPREAD, TURNAROUND_S",
        "cost/load.py",
        "TTFT of closed loops here: aic_silicon_sample",
    ),
    ("ROUNDS", "cost/load.py", "what serving benchmarks send, as they publish it"),
    ("LONGEST_ANSWER", "cost/load.py", "ShareGPT runs of 200 requests here: surajssd"),
    ("SKEW", "cost/kernels_experts.py", "TPOT of mixtures of experts here: aic_silicon_sample"),
    ("MOST_LOAD, SATURATED_REQUESTS", "cost/load.py", "assumed"),
    ("KIND_WIDTH", "cost/terms.py", "all rows here (Intervals)"),
    ("ASSUMED_WIDER", "cost/terms.py", "assumed; MI300X is off by more than it allows"),
)

NOTES = """
## What the worst rows teach

- **A queue is a matter of room.** Most of the worst are TTFT of loads just beyond, or just within,
  what the cache holds: gpt-oss-120b with 64 users on one H200, Qwen3-32B with 16 users on one H100
  under SGLang, Qwen3-32B on GB200. A tenth more or less room turns 0.3 s into 26 s. vLLM 0.6 had
  room for about 80,000 tokens of a 405B in FP8 on 8 x H100 (its times double with the batch from
  64 users on); it is given twice that, and these latencies are 40 to 70 % too short. The interval
  of a TTFT with a queue says so: a factor of 2.
- **Short runs end late.** Throughput of a run of ShareGPT is what its longest answer leaves of it;
  runs with answers of one length have no such end. A load does not say which of the two it is.
- **Open loops beyond what can be read** (1,000 requests/s of a 405B, 10 of 862 tokens on one RTX
  PRO 6000) are a burst; what waits there is half of all prompts.
- **A checkpoint's format is not its bytes**: the 405B as Meta stores its FP8 runs four times slower
  on MI300X than as AMD does, on the same machine. One of the two is wrong by 70 % whatever is
  fitted; both have one name in the question.
- **DeepSeek-V2.5 on A100 under vLLM of 2024** runs neither latent attention nor fused experts: 138
  ms a token, predicted 18. Versions of a runtime are not told apart; it is predicted as it is now.
- **10 GbE is not one wire**: the pair of RTX 3090 sums 57 KiB in 0.37 ms over a bonded link. Typed,
  it takes about 0.5; with its measured curves the step comes out right (tests/test_data_say.py).
  Probe wires rather than typing them.
"""
