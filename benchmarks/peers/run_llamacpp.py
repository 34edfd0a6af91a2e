#!/usr/bin/env python3
"""llama.cpp on some CPU threads, one sequence.   python run_llamacpp.py MODEL.gguf [THREADS]"""

import sys
import time

import llama_cpp
import numpy as np
from protocol import measure


def main() -> None:
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    begin = time.perf_counter()
    model = llama_cpp.Llama(
        sys.argv[1],
        n_ctx=4096,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=512,
        verbose=False,
    )
    load_s = time.perf_counter() - begin

    def likeliest() -> int:
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        (prompt,) = prompts
        model.reset()
        model.eval(prompt)
        out = [likeliest()]
        while len(out) < tokens:
            model.eval(out[-1:])
            out.append(likeliest())
        return [out]

    versions = [f"llama-cpp-python {llama_cpp.__version__}"]
    measure(run, load_s=load_s, versions=versions, batches=(1,))


if __name__ == "__main__":
    main()
