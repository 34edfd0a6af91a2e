#!/usr/bin/env python3
"""vLLM on CPU, offline, under one split.   python run_vllm.py MODEL TP PP

Give each rank a core, and KV room in GiB, by environment variables:
VLLM_CPU_OMP_THREADS_BIND="0|1" VLLM_CPU_KVCACHE_SPACE=2
"""

import sys
import time

import torch
import vllm
from protocol import measure
from vllm import LLM, SamplingParams

BEGUN = 8  # tokens that a writer has when others come


def main() -> None:
    model, tp, pp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    begin = time.perf_counter()
    llm = LLM(
        model,
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=64,
        enable_prefix_caching=False,
    )
    load_s = time.perf_counter() - begin

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = llm.generate(asked, params, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    def crowd(prompt: list[int], tokens: int, behind: list[list[int]]) -> list[float]:
        """The others come when the writer has begun: together with it, one step would read all."""
        engine, at_s = llm.llm_engine, []

        def add(name: str, prompt: list[int], tokens: int) -> None:
            params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            engine.add_request(name, {"prompt_token_ids": prompt}, params)

        add("writer", prompt, tokens)
        while engine.has_unfinished_requests():
            for answer in engine.step():
                is_writer = answer.request_id.startswith("writer")
                if is_writer and len(answer.outputs[0].token_ids) > len(at_s):
                    at_s.append(time.perf_counter())
            if behind and len(at_s) == BEGUN:
                for number, each in enumerate(behind):
                    add(f"other {number}", each, 2)
                behind = []
        return at_s

    versions = [f"vLLM {vllm.__version__}", f"torch {torch.__version__}"]
    measure(run, load_s=load_s, versions=versions, crowd=crowd)


if __name__ == "__main__":  # vLLM's workers import this file again
    main()
