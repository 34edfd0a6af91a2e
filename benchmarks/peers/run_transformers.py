#!/usr/bin/env python3
"""transformers `generate` on some CPU threads.   python run_transformers.py MODEL [THREADS]"""

import sys
import time

import torch
import transformers
from protocol import measure
from transformers import AutoModelForCausalLM


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    begin = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
    load_s = time.perf_counter() - begin

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=2,
            )
        return out[:, ids.shape[1] :].tolist()

    versions = [f"transformers {transformers.__version__}", f"torch {torch.__version__}"]
    measure(run, load_s=load_s, versions=versions)


if __name__ == "__main__":
    main()
