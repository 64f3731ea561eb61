# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= headword-demo

.PHONY: demo test lint docs wheel clean
.NOTPARALLEL:

demo: $(VENV)/.embedded
	$(BIN)/headword demo --overwrite --out $(DEMO_OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python docs/check.py

# Built, checked, installed into an environment that holds nothing else, and used from there.
WHEEL_ENV ?= build/wheel-env
wheel:
	rm -rf dist build/tools
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet build twine check-wheel-contents
	build/tools/bin/python -m build --outdir dist .
	build/tools/bin/twine check --strict dist/*
	build/tools/bin/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv --clear $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[embedded]"
	cd build && "$(abspath $(WHEEL_ENV))/bin/headword" demo --overwrite --out wheel-demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "headword needs Python 3.10 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp file an extra: the install is repeated when the dependencies change, and only then.
$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "Installing headword[$*] into $(VENV): torch and its like, some gigabytes, a few minutes …"
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_OUT) build dist
