# Two commands on a fresh machine with Python 3.11 and git: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATASET ?= breast-cancer
MODEL ?= linearized-mlp
SETTING ?= small

.PHONY: demo test test-slow bench bench-paper lint format clean setup lock-hashes audit sbom
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

# What a release is made of; in an environment of its own, since these tools need other versions than Expunge.
RELEASE := $(VENV)-release
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
$(RELEASE)/.installed: requirements-release.txt
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-release.txt
	touch $@

lock-hashes: $(RELEASE)/.installed
	{ printf '%s\n' '# Written by `make lock-hashes`: the versions of requirements.lock, with the digest of every file that PyPI has of them,' \
	  '# and of PyTorch'"'"'s own CPU build for Linux (torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl).'; \
	  $(RELEASE)/bin/uv pip compile requirements.lock --quiet --no-config --native-tls --no-deps --generate-hashes \
	    --python-version 3.11 --no-header --no-annotate \
	    | sed 's/^torch==2.13.0 \\$$/&\n    --hash=sha256:$(TORCH_CPU) \\/'; } > requirements-hashed.lock

audit: $(RELEASE)/.installed
	$(RELEASE)/bin/pip-audit -r requirements-hashed.lock --require-hashes --disable-pip

sbom: $(RELEASE)/.installed
	mkdir -p build
	$(RELEASE)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
	  -o build/expunge.cdx.json requirements-hashed.lock

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-release build *.egg-info
