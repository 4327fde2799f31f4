# make demo   compress the shipped example and show the result
# make test   style, types, import floors, and all tests
# make nightly   hours of drawing, damaging, killing and mutating (docs/reliability.md)
# All set up their own environment in .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= 2

.PHONY: demo test check format clean nightly
.DEFAULT_GOAL := demo

demo: $(VENV)/.runtime
	$(BIN)/amctc demo

test: $(VENV)/.test check
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python tools/check_floors.py

# Hours. What each line tries, and what it found last, is in docs/reliability.md.
nightly: $(VENV)/.nightly
	AMCTC_PROFILE=nightly $(BIN)/python -m pytest -n $(WORKERS) tests/derived tests/unit
	$(BIN)/python -m tools.random_graphs --count 40000 --jobs $(WORKERS)
	$(BIN)/python -m tools.conformance
	$(BIN)/python -m tools.integer_truth --cases 1500
	$(BIN)/python -m tools.integer_truth --cases 250 --executor reference
	$(BIN)/python -m tools.integer_truth --cases 250 --executor onnxruntime
	$(BIN)/python -m tools.mutation.guards
	$(BIN)/python -m tools.mutation
	$(BIN)/python -m tools.bad_inputs
	$(BIN)/python -m tools.kills
	$(BIN)/python -m tools.kills.resume --count 200
	$(BIN)/python -m tools.fuzz --seconds 60

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist amctc-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "amctc needs Python 3.11 or newer; call make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable ".[test]"
	touch $@ $(VENV)/.runtime

$(VENV)/.nightly: $(VENV)/.test
	$(PIP) install --editable ".[test,nightly]"
	touch $@
