# `make` lists the targets. Everything runs in .venv, which `make setup` makes and keeps up to date.

PYTHON ?= python3
BIN := .venv/bin
ROLLCALL := $(BIN)/rollcall
UV_VERSION := 0.13.9

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup run replay-demo test test-slow test-kafka lint format bench chaos docs lock upgrade clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make or update .venv, with the tools that test and check
	@$(PYTHON) deploy/setup.py --dev

run: ## set up and run everything on this machine, the broker included
	@$(PYTHON) deploy/setup.py run

replay-demo: setup ## replay 18 months of real purchases; the changes go to standard output, a closing table after them
	@$(ROLLCALL) convert deploy/demo/purchases.txt --customer customer_id --date date --total dollar_value \
		| $(ROLLCALL) replay --segments deploy/demo/segments.yaml --events - --until 1998-07-01T00:00:00Z --members

test: setup ## run the tests that need no broker
	$(BIN)/pytest -q -m "not kafka and not slow"

test-slow: setup ## run the tests that take longer
	$(BIN)/pytest -q -m "slow and not kafka"

test-kafka: setup ## run the tests on a real broker (needs Java and Maven)
	$(BIN)/pytest -q -m "kafka and not slow"

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure everything, in half an hour; `make bench PART=worker` one part (most need Java and Maven)
	$(BIN)/python -m tests.bench $(PART)

chaos: setup ## kill, freeze and restart workers on a real broker, and check every change (needs Java and Maven)
	$(BIN)/pytest -q -m "kafka and slow"

docs: setup ## write the reference pages from the code
	$(ROLLCALL) docs --write

lock: setup ## resolve the locked versions again, keeping those that still fit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(LOCK) $(LOCK_FLAGS) pyproject.toml --group build --output-file requirements.lock
	$(LOCK) $(LOCK_FLAGS) pyproject.toml --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock

upgrade: ## resolve the newest versions that fit
	@$(MAKE) lock LOCK_FLAGS=--upgrade

clean: ## remove caches and builds; .venv and data stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
