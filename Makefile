# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= headword-demo

.PHONY: demo test lint clean
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
