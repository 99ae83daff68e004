# `make demo`, `make train-demo` (the four stages of training on mini) and `make test` set up what they need.
#
# Torch comes first and by itself, so that you choose its build; one that is there is never replaced.
#   CPU or macOS:  make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
#   CUDA:          make demo TORCH="torch"
TORCH ?= torch==2.13.0
PYTHON ?= python3
DATA ?= m2kr-data

# The active virtual environment, else .venv here.
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
STAMPS := $(VENV)/.m2kr

# Tests beside each other: a thread each for torch, or they wait for one another. Bytecode comes first: where
# the environment has Python write none, each of their hundreds of processes would compile m2kr anew.
BESIDE := $(BIN)/python -m compileall -q m2kr builders leaderboard && \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Slow tests that want the whole machine: timings, and Ray's nodes.
ALONE := tests/benchmarks tests/distributed

.PHONY: demo train-demo test slow check wheel clean

demo: $(STAMPS)/demo
	@start=$$(date +%s); \
	$(BIN)/m2kr demo --data "$(DATA)" && \
	echo "build and evaluation: $$(($$(date +%s) - start)) s; install: $$(cat $(STAMPS)/seconds) s (when it last ran)"

train-demo: $(STAMPS)/demo
	$(BIN)/python -m pip install --quiet --editable ".[demo,report]"
	$(BIN)/m2kr build mini --data "$(DATA)"
	$(BIN)/m2kr study train-demo --data "$(DATA)"

test: $(STAMPS)/dev
	$(BESIDE)

slow: $(STAMPS)/interop
	$(BESIDE) -m slow $(ALONE:%=--ignore %)
	$(BIN)/python -m pytest -m slow -rP $(ALONE)

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(STAMPS)/dev
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/demo: pyproject.toml | $(BIN)/python
	@mkdir -p $(STAMPS)
	@start=$$(date +%s); set -e; \
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"; \
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH); \
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[demo]"; \
	echo $$(($$(date +%s) - start)) > $(STAMPS)/seconds
	@touch $@

$(STAMPS)/interop: $(STAMPS)/dev
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[report]" --group interop
	@touch $@

$(STAMPS)/dev: $(STAMPS)/demo
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[demo]" --group dev
	@touch $@
