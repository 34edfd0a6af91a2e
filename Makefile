# `make demo` and `make test` set up what they need in .venv, with the versions of constraints.txt,
# and start at once when that is done. PYTHON chooses the interpreter: 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
NEEDS := pyproject.toml constraints.txt

# PyPI's torch for Linux carries gigabytes for NVIDIA GPUs; without one, pip may choose a CPU build.
CPU_TORCH := https://download.pytorch.org/whl/cpu
REACHABLE := import urllib.request as u; u.urlopen("$(CPU_TORCH)/torch/", timeout=5)
INDEX = $(shell command -v nvidia-smi >/dev/null || ! $(PYTHON) -c '$(REACHABLE)' 2>/dev/null || echo --extra-index-url $(CPU_TORCH))
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
# pip compiles what it copies, not what it links to, and where bytecode may not be written every start would compile again; the C kernels are compiled here too.
COMPILE = $(BIN)/python -m compileall -q src && $(BIN)/python -c 'import torch; from wirecut.machine import native; native.load()'

.PHONY: demo test check format matrix bench-peers bench-wires bench-pipeline clean

demo: .venv/engine.stamp  ## probe, plan, generate, and predicted beside measured
	$(BIN)/python examples/demo.py

test: check  ## everything that CI runs
	$(BIN)/python -m pytest

check: .venv/dev.stamp  ## style, import order and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

format: .venv/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

matrix: .venv/dev.stamp  ## every architecture and cut against transformers: docs/matrix.md
	@mkdir -p build
	$(BIN)/python tests/matrix.py $(ARGS) > build/matrix.md && mv build/matrix.md docs/matrix.md

# wirecut beside its peers on one model. benchmarks/peers/README.md says how their environments are made.
PEERS ?= build/peers
VLLM_PYTHON ?=
LLAMACPP_PYTHON ?=
ROUNDS ?= 5
GGUF = $(if $(LLAMACPP_PYTHON),$(PEERS)/model.gguf)

bench-peers: .venv/dev.stamp $(PEERS)/model/config.json $(GGUF)  ## a table of tokens/s, and its README.md
	$(BIN)/python benchmarks/peers/compare.py --rounds $(ROUNDS) --model $(PEERS)/model \
		--vllm-python "$(VLLM_PYTHON)" --llamacpp-python "$(LLAMACPP_PYTHON)" $(if $(GGUF),--gguf $(GGUF)) $(ARGS)

bench-wires: .venv/dev.stamp $(PEERS)/model/config.json  ## the same over shaped wires, beside vLLM; root
	$(BIN)/python benchmarks/peers/wires.py --model $(PEERS)/model --vllm-python "$(VLLM_PYTHON)" $(ARGS)

bench-pipeline: .venv/dev.stamp $(PEERS)/model/config.json  ## bubbles, measured and by arithmetic
	@mkdir -p build
	$(BIN)/python benchmarks/pipeline.py $(PEERS)/model > build/pipeline.md && mv build/pipeline.md benchmarks/pipeline.md

$(PEERS)/model/config.json: | .venv/dev.stamp
	$(BIN)/python benchmarks/peers/make_model.py $(PEERS)/model

$(PEERS)/model.gguf: $(PEERS)/model/config.json
	$(LLAMACPP_PYTHON) benchmarks/peers/to_gguf.py $(PEERS)/model $@

clean:
	rm -rf .venv build src/*.egg-info

$(BIN)/pip:
	$(PYTHON) -m venv .venv

.venv/engine.stamp: $(NEEDS) | $(BIN)/pip
	@echo "Installing wirecut with its engine into .venv ..."
	$(INSTALL) $(INDEX) --editable '.[engine]'
	$(COMPILE)
	@touch $@

.venv/dev.stamp: $(NEEDS) | $(BIN)/pip
	@echo "Installing wirecut with its tools for development into .venv ..."
	$(INSTALL) $(INDEX) --editable '.[dev]'
	$(COMPILE)
	@touch .venv/engine.stamp $@
