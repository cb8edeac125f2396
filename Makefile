# Everything a clean machine needs is installed here, into .venv; nothing by hand. `make help` lists the targets.
# A stamp per step lies in .venv/stamps, so a second call only redoes what its inputs changed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PORT ?= 8000
MODEL ?= smollm2-135m
# The oracle of the tests. On a machine without a GPU the small build does:
# make test TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=
# A process per core; a file's tests stay together, for they share what they load. In their order: files of few tests that
# take long are not left for the end.
PYTEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder
# What `make audit` shall not fail for, by ID, each with its reason here.
AUDIT_ACCEPTED :=
AUDIT_FLAGS ?=
LOWEST := .venv-lowest
LOWEST_TESTS ?= tests/server tests/cli tests/observe tests/grammar tests/bench tests/model
BENCH_FLAGS ?= --workload mixed -n 64 -c 16

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# The first of these that is Python 3.11 or newer; `make PYTHON=/path/to/python` names another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
COMPILER := $(shell for c in "$${CXX:-}" c++ g++ clang++; do \
  command -v "$$c" >/dev/null 2>&1 && { echo "$$c"; break; }; done)
NATIVE := $(shell find native -type f 2>/dev/null) CMakeLists.txt pyproject.toml

.PHONY: help install serve test lint types bench audit lowest clean

help:
	@echo "make serve     install what is missing, fetch the default model, serve it on port $(PORT) (MODEL=, PORT=)"
	@echo "make test      install what is missing, then lint, types, import layers and all tests (PYTEST_FLAGS=)"
	@echo "make install   everything into $(VENV), the default model included"
	@echo "make lint      ruff, mypy --strict, import layers"
	@echo "make bench     throughput and latencies of the engine in process (MODEL=, BENCH_FLAGS=)"
	@echo "make audit     known vulnerabilities of what is installed (asks PyPI's or OSV's advisories)"
	@echo "make lowest    tests with the lowest versions of dependencies that pyproject.toml admits (LOWEST_TESTS=)"
	@echo "make clean     remove $(VENV), builds and caches (models stay in the user's cache folder)"

READY := $(STAMPS)/package $(STAMPS)/pulled-smollm2-135m

install: $(READY)
	@echo "Installed. Next: make serve, or $(BIN)/tenfold --help"

serve: $(READY)
	@exec $(BIN)/tenfold serve $(MODEL) --port $(PORT)

test: $(READY) $(STAMPS)/dev $(STAMPS)/oracle $(STAMPS)/pulled-gemma3-270m lint
	@echo "==> tests"
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

# Types are checked against torch's own.
lint: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/oracle
	@echo "==> lint, types, import layers"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(STAMPS)/layers.log || { cat $(STAMPS)/layers.log; exit 1; }

bench: $(READY)
	@$(BIN)/tenfold bench --model $(MODEL) $(BENCH_FLAGS)

# Not part of `make test`: it needs the network, and what it finds changes without a commit. .ci/run does both.
audit: $(STAMPS)/package $(STAMPS)/dev
	@echo "==> known vulnerabilities"
	@$(BIN)/python scripts/audit.py $(AUDIT_FLAGS) $(AUDIT_ACCEPTED)

# Everything pyproject.toml asks for, but for the oracle and CUDA, in the lowest version it admits; in an environment of its
# own. LOWEST_TESTS: those that touch dependencies.
lowest: $(READY)
	@echo "==> lowest versions, in $(LOWEST)"
	@test -x $(LOWEST)/bin/uv || { $(PYTHON) -m venv $(LOWEST); $(LOWEST)/bin/python -m pip --disable-pip-version-check -qq install uv; }
	@$(BIN)/python scripts/requirements.py run build dev >$(LOWEST)/requirements.txt
	@$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --reinstall \
	  -r $(LOWEST)/requirements.txt "cmake>=3.18" "ninja>=1.10"
	@PATH="$(CURDIR)/$(LOWEST)/bin:$$PATH" CXX="$(COMPILER)" $(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) \
	  --no-deps --no-build-isolation --config-settings build-dir=build/lowest --editable .
	@$(LOWEST)/bin/python -m pytest -m "not oracle" $(LOWEST_TESTS)

clean:
	rm -rf $(VENV) $(LOWEST) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "Tenfold needs Python 3.11 or newer (on Debian or Ubuntu: apt install python3.11 python3.11-venv;" \
	  "another one: make PYTHON=/path/to/python3.11)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the venv module" \
	  "(on Debian or Ubuntu: apt install python3-venv)"; exit 1; }
	@test -n "$(COMPILER)" || { echo "Tenfold builds its kernels and needs a C++20 compiler (on Debian or Ubuntu: apt install g++)"; exit 1; }
	@echo "==> virtual environment in $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

# CMake and ninja come as wheels, so that no system package is needed. Without build isolation the build folder
# is reused and a change of one kernel compiles one file.
$(STAMPS)/build-tools: $(STAMPS)/venv scripts/requirements.py
	@echo "==> build tools"
	@$(PIP) install cmake ninja $$($(BIN)/python scripts/requirements.py build)
	@touch $@

$(STAMPS)/package: $(STAMPS)/build-tools $(NATIVE)
	@echo "==> Tenfold and its dependencies, kernels built with $(COMPILER) (some minutes the first time)"
	@CXX="$(COMPILER)" $(PIP) install --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml scripts/requirements.py
	@echo "==> tools for tests and lint"
	@$(PIP) install $$($(BIN)/python scripts/requirements.py dev)
	@touch $@

# torch first and by itself, so that nothing else chooses another one. Triton is in "oracle": torch's small build
# does not bring it, and its interpreter tests the GPU's kernels.
$(STAMPS)/oracle: $(STAMPS)/dev
	@echo "==> $(TORCH), triton and transformers, the oracle of the tests (a few minutes)"
	@$(PIP) install $(TORCH_FLAGS) $(TORCH)
	@$(PIP) install $(TORCH) $$($(BIN)/python scripts/requirements.py oracle)
	@touch $@

$(STAMPS)/pulled-%: | $(STAMPS)/package
	@echo "==> model $*"
	@$(BIN)/tenfold pull $*
	@touch $@
