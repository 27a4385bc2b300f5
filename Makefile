# Every target does its own set-up in .venv. On a fresh Debian or Mac: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SHELL  := /bin/bash

.PHONY: demo test test-slow lint bench clean

demo: $(READY)
	$(BIN)/featherweight demo -o demo

# Two workers of one thread each, which run neighbours: what a file makes for all its tests is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: lint
	$(PYTEST) -m "not slow"

# The largest networks of the zoo, which take minutes each.
test-slow: $(READY)
	$(PYTEST) -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# All on one thread, minutes to hours; `make bench QUICK=1` runs them on tiny networks.
bench: $(READY)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

# The virtual environment, made again when what it is made from changes.
$(READY): pyproject.toml constraints.txt setup.sh
	PYTHON=$(PYTHON) bash setup.sh $(VENV)
	touch $(READY)

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
