# Tacit: `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo/federation

.PHONY: help setup demo test test-all check lint types imports dashboard benchmarks clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv and install everything from the lock

# torch comes first and alone: from TORCH_INDEX where that is set, else from wherever pip looks.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Tacit needs CPython 3.11; PYTHON=/path/to/python3.11 make ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): PyTorch first, then the rest. Once, a few minutes."
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch==2.13.0'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# $(call show,WHAT,COMMAND): say what comes, show the command, run it.
show = @printf '\n== %s\n$$ %s\n\n' "$(1)" "$(2)"; $(2)

demo: $(READY) ## four silos train one model under differential privacy
	@rm -rf demo
	$(call show,Four silos: each its own rows and key and ledger,$(BIN)/tacit init $(DEMO) --example breast-cancer --silos 4)
	$(call show,The price of a job: no row is read and nothing is charged,$(BIN)/tacit quote examples/breast-cancer.yaml --home $(DEMO))
	$(call show,The job: every ledger admits it before a row is read,$(BIN)/tacit run examples/breast-cancer.yaml --home $(DEMO))
	$(call show,What each silo allows and what is left,$(BIN)/tacit budget show --home $(DEMO))
	$(call show,Whether the books are whole,$(BIN)/tacit ledger verify --home $(DEMO))
	@printf '\n== To look around\n$$ %s\n' "$(BIN)/tacit dashboard --home $(DEMO)"

check: lint types imports ## ruff, mypy --strict, import-linter

lint: $(READY) ## ruff: style and format
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .

types: $(READY) ## mypy --strict
	$(BIN)/mypy

imports: $(READY) ## import-linter: imports go down only
	$(BIN)/lint-imports

# Three workers on two cores: the tests with real servers wait as often as they compute.
test: $(READY) check ## lint, types, imports and tests; eleven to fourteen minutes on two cores
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not large'

test-all: $(READY) check ## everything, large gates included; writes docs/verification.md
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile explore --verification docs/verification.md

dashboard: $(READY) ## the demo's dashboard
	$(BIN)/tacit dashboard --home $(DEMO)

benchmarks: $(READY) ## every benchmark that needs no environment of its own, quickly
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script --quick || exit 1; done

clean: ## remove what make made
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
