# Everything runs in a virtual environment that make builds itself: all it needs is Python, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

# Thousands of processes are started: what they import is compiled once, even where Python is told not to keep it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test torture bench bench-quick lint types format clean chaos mutate coverage

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.run ## measure the standard library's code on all cores (ARGS=--hostile adds steps that hang and crash)
	@$(BIN)/fuseline demo $(ARGS)

test: $(VENV)/.dev ## run the tests (ARGS="-k retry" picks some, "-p randomly" shuffles; PYTHON=python3.13 VENV=.venv-3.13: another Python)
	$(BIN)/python -m pytest -n auto --dist worksteal -p no:randomly $(ARGS)

torture: $(VENV)/.peers ## compare how process pools bear hostile steps (ARGS="--only fuseline,loky --markdown")
	$(BIN)/python -m benchmarks.torture $(ARGS)

bench: $(VENV)/.bench ## compare what a step costs in each library, and write docs/performance.md (ARGS="--only fuseline,pebble --works flat": only print some)
	$(BIN)/python -m benchmarks.speed --json bench.json --page $(ARGS)

bench-quick: $(VENV)/.bench ## two minutes of it: is something slower than accepted? (ARGS=--accept to accept it)
	$(BIN)/python -m benchmarks.speed --quick --only fuseline,fuseline_durable,pebble --repeat 5 --guard $(ARGS)

chaos: $(VENV)/.dev ## hit random processes for a minute, and check that nothing is lost (ARGS="--minutes 5 --seed 7")
	$(BIN)/python -m tests.chaos $(ARGS)

mutate: $(VENV)/.dev ## change the scheduler in a thousand ways and list what no test notices (ARGS="--sample 10 core")
	$(BIN)/python -m tests.mutation $(ARGS)

# What these leave out is about none of the groups. Tests of interruption could not run, either: Python 3.11 may go round
# for ever inside of its interpreter, when an exception is planted in a thread that is traced. The net against deadlock
# is wider than usual, where all takes several times as long. A process that gets SIGKILL, as many here do, writes down
# nothing; what it runs is run by others, too.
COVERED_TESTS ?= tests --ignore=tests/core/test_interruption.py \
	$(addprefix --ignore=tests/,benchmarks cli docs examples)
COVERED_POOL = loky.py slot.py listener.py pump.py pace.py verdict.py pickling.py
COVERED_GROUPS = 'fuseline/scheduler/*' 'fuseline/broker/*' fuseline/engines.py \
	"$$(printf 'fuseline/executors/%s,' $(COVERED_POOL))fuseline/worker/*,fuseline/processes/*"

coverage: $(VENV)/.dev ## measure how much of the core, brokers, engine and pool is tested, children included; 95 % is the least
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist worksteal -p no:randomly -o timeout=600 $(COVERED_TESTS) $(ARGS)
	$(BIN)/coverage combine --quiet
	@rm -f .coverage.*  # what is left was half written when its process was killed
	@status=0; for group in $(COVERED_GROUPS); do \
		$(BIN)/coverage report --include="$$group" --fail-under=95 || status=1; \
	done; exit $$status

lint: $(VENV)/.dev ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## put every file into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## check types strictly
	$(BIN)/mypy

clean: ## remove what make built
	rm -rf .venv .venv-* .coverage .coverage.* build dist .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.run

# Some of the others may not be had for this Python or machine: what is not there is left out of the comparison.
$(VENV)/.peers: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[peers]' || $(BIN)/python -m pip install --quiet --editable .
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]' || $(BIN)/python -m pip install --quiet --editable . numpy pebble
	@touch $@ $(VENV)/.run
