# Two commands on a fresh machine with Python 3.11 and git: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATASET ?= breast-cancer
MODEL ?= linearized-mlp
SETTING ?= small

.PHONY: demo test test-slow bench bench-paper lint format clean setup
.DEFAULT_GOAL := test

# The environment is made again only when the lock or the package changes.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on PATH; install Python 3.11 or pass PYTHON="; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/expunge demo --dataset $(DATASET) --model $(MODEL) $(if $(SOURCE),--source $(SOURCE)) $(if $(DEMO_WORKSPACE),--workspace $(DEMO_WORKSPACE))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes with one thread each: much of the time is spent waiting for servers and git.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

# Experiments continue where they stopped; public datasets from $EXPUNGE_DATA, else downloaded. See docs/results.md.
bench: $(STAMP)
	$(BIN)/python -m benchmarks run $(or $(SETTINGS),$(basename $(notdir $(wildcard benchmarks/settings/*.yaml))))
	$(BIN)/python -m benchmarks report

bench-paper: $(STAMP)
	$(BIN)/python -m benchmarks run $(if $(filter small,$(SETTING)),small-paper,paper-$(SETTING))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
