# One place for every command; `make help` lists them. Everything lands in $(VENV), .devstack/ and build/.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
RUN := $(VENV)/bin/
PYTEST_ARGS ?=
WORKERS ?= 2
SEEDS ?= 1
MINUTES ?= 30
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python3" >&2; exit 3; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN)python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(RUN)python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/installed  ## Make the virtual environment with everything pinned by hash

java:
	@command -v java >/dev/null || { echo "error: Java 17 or newer is needed for Kafka and Connect: install a JRE (Debian: openjdk-17-jre-headless)" >&2; exit 3; }
	@command -v mvn >/dev/null || { echo "error: Maven is needed to fetch Kafka, Connect, Debezium and the registry: install it (Debian: maven)" >&2; exit 3; }

demo: java install  ## Run the main job end to end on the real chain, and prove it
	$(RUN)python -m devstack.demo

up: java install  ## Start PostgreSQL, Kafka, Connect and the registry on this machine
	$(RUN)python -m devstack up

down: install  ## Stop them and remove their data
	$(RUN)python -m devstack down

test: java install lint  ## Run lint and all tests on the real chain, with coverage
	$(RUN)coverage erase
	$(RUN)coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	$(RUN)coverage combine --quiet
	$(RUN)coverage report --fail-under=90

faults: java install  ## Run the fault matrix on the real chain (SEEDS="1 2 3" for more; full disks need root)
	FAULT_SEEDS="$(SEEDS)" $(RUN)pytest -m "(fault or faults) and not soak" tests/faults tests/e2e

soak: java install  ## Run a random mix of all faults under load for MINUTES
	SOAK_MINUTES="$(MINUTES)" FAULT_SEEDS="$(SEEDS)" $(RUN)pytest -m soak tests/faults

bench: java install  ## Measure against the peers (QUICK=1: 3 minutes; CURVES=1: cost curves, too)
	$(RUN)python -m benchmarks run --scale $(if $(QUICK),quick,full) $(if $(CURVES),--curves)

lint: install  ## Check style, types and package boundaries
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

requirements: install  ## Pin the dependencies again (writes the requirements files)
	$(RUN)python -m pip install --quiet pip-tools
	$(RUN)pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.txt pyproject.toml
	$(RUN)pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra dev --output-file requirements-dev.txt pyproject.toml
	$(RUN)pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --all-build-deps --only-build-deps --output-file requirements-build.txt pyproject.toml

clean: down  ## Remove everything that was made here
	rm -rf $(VENV) build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help install java demo up down test faults soak bench lint requirements clean
