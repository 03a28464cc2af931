# Every target sets up what it needs. Needs: python3 (>= 3.10, with venv and pip) and make.

PYTHON ?= python3
# Pinned, and installed before anything else: left to the resolver, some indexes serve gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
WORKERS ?= 2
PYTEST_ARGS ?=
MINUTES ?= 9
GPU_ARGS ?=

VENV := .venv
ADAPTERS_VENV := .venv-adapters
LOWEST_VENV := .venv-lowest
NEWEST_VENV := .venv-newest
NEWEST_ADAPTERS_VENV := .venv-newest-adapters
# What every target but test-lowest and test-newest installs: exactly the releases that were tested (`make lock`).
LOCKED := --constraint tests/locked.txt
LOCKED_ADAPTERS := --constraint tests/locked-adapters.txt
SECOND_LANE := 'transformers==4.57.6' 'adapters==1.3.0'
BIN := $(VENV)/bin
# --no-compile: what is imported gets compiled then, and nothing else; it halves the time.
# --use-pep517: an old pip builds seqeval, which has no wheel, with whatever setuptools it finds, and fails.
PIP_INSTALL := -m pip install --quiet --no-compile --use-pep517 --disable-pip-version-check
PYTEST := -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart gpu install test test-adapters test-lowest test-newest test-newest-adapters lock lint types layers unit \
	docs build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.has-recipes ## Train on the bundled verses; write a report and pictures to outputs/quickstart
	$(BIN)/python recipes/quickstart.py

gpu: $(VENV)/.has-dev ## Check and measure on a GPU, within MINUTES; GPU_ARGS='--dry_run true' prints the plan
	$(BIN)/python recipes/gpu.py --minutes $(MINUTES) $(GPU_ARGS)

install: $(VENV)/.has-dev ## Make .venv with everything that development needs

test: lint types layers unit ## Check style, types and layers, and run the tests

lint: $(VENV)/.has-dev ## Check style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.has-dev ## Check types (mypy)
	$(BIN)/mypy

layers: $(VENV)/.has-dev ## Check that imports point down only (import-linter)
	$(BIN)/lint-imports --config .importlinter

# One thread a worker: tiny models lose more to threads than they win.
unit test-adapters test-lowest test-newest test-newest-adapters: export OMP_NUM_THREADS = 1
unit: $(VENV)/.has-dev ## Run the tests
	$(BIN)/python $(PYTEST)

test-adapters: $(ADAPTERS_VENV)/.has-dev ## Run the tests with `adapters` and the transformers that it pins
	$(ADAPTERS_VENV)/bin/python $(PYTEST)

test-lowest: $(LOWEST_VENV)/.has-dev ## Run the tests with the oldest libraries that pyproject.toml allows
	$(LOWEST_VENV)/bin/python $(PYTEST)

test-newest: ## Run the tests with the newest libraries that pyproject.toml allows
	rm -rf $(NEWEST_VENV)
	$(MAKE) $(NEWEST_VENV)/.has-dev
	$(NEWEST_VENV)/bin/python $(PYTEST)

test-newest-adapters: ## The same with `adapters`
	rm -rf $(NEWEST_ADAPTERS_VENV)
	$(MAKE) $(NEWEST_ADAPTERS_VENV)/.has-dev
	$(NEWEST_ADAPTERS_VENV)/bin/python $(PYTEST)

lock: test-newest test-newest-adapters ## Run the tests with the newest libraries, then pin these in tests/locked*.txt
	$(NEWEST_VENV)/bin/python tests/lock.py 'make test' > tests/locked.txt
	$(NEWEST_ADAPTERS_VENV)/bin/python tests/lock.py 'make test-adapters' > tests/locked-adapters.txt

docs: $(VENV)/.has-docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file .mkdocs.yml

build: $(VENV)/.has-dev ## Build wheel and sdist into dist/ and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean: ## Remove the environments and everything that was built
	rm -rf $(VENV) $(ADAPTERS_VENV) $(LOWEST_VENV) $(NEWEST_VENV) $(NEWEST_ADAPTERS_VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.has-recipes $(VENV)/.has-dev $(VENV)/.has-docs: $(VENV)/.has-%: pyproject.toml tests/locked.txt $(VENV)/.has-torch
	$(BIN)/python $(PIP_INSTALL) --editable '.[$*]' $(LOCKED)
	@touch $@

$(ADAPTERS_VENV)/.has-dev: pyproject.toml tests/locked-adapters.txt $(ADAPTERS_VENV)/.has-torch
	$(ADAPTERS_VENV)/bin/python $(PIP_INSTALL) --editable '.[dev,adapters]' $(LOCKED_ADAPTERS)
	@touch $@

$(LOWEST_VENV)/.has-dev: pyproject.toml tests/lowest.txt $(LOWEST_VENV)/.has-torch
	$(LOWEST_VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]' --constraint tests/lowest.txt
	@touch $@

$(NEWEST_VENV)/.has-dev: $(NEWEST_VENV)/.has-torch
	$(NEWEST_VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(NEWEST_ADAPTERS_VENV)/.has-dev: $(NEWEST_ADAPTERS_VENV)/.has-torch
	$(NEWEST_ADAPTERS_VENV)/bin/python $(PIP_INSTALL) --editable '.[dev,adapters]' $(SECOND_LANE)
	@touch $@

%/.has-torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python must be 3.10 or newer. Found " \
		+ sys.version.split()[0] + ". Write for example: make PYTHON=python3.12 quickstart")'
	$(PYTHON) -m venv $*
	$*/bin/python $(PIP_INSTALL) '$(TORCH)'
	@touch $@
