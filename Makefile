# Two commands do everything on a fresh machine: `make demo` and `make test`. Both create .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/demo.toml
OUT ?= runs/demo
SET ?=

.PHONY: demo test lint format bench clean help

help:
	@echo "make demo    from raw text to a model that answers, then runs/demo/report.html (about 12 minutes, 2 cores)"
	@echo "make test    lint, types and all tests"
	@echo "make bench   the benchmarks, as ratios against their peers"
	@echo "make clean   remove the environment; runs/ stays"

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[corpus,dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/kaiyuan run $(RECIPE) --out $(OUT) $(foreach change,$(SET),--set '$(change)')
	@echo "Now talk to it:  $(BIN)/kaiyuan chat $(OUT)"

test: $(VENV)/ready lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/ready
	$(BIN)/python benchmarks/train_step.py

clean:
	rm -rf $(VENV)
