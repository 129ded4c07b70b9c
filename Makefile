PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check mutants clean

demo: .venv/installed
	$(BIN)/python experiments/instructgpt.py configs/tiny.toml

test: .venv/installed
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

test-all: .venv/installed
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

mutants: .venv/installed
	$(BIN)/python -m tests.mutants

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlhf_jax needs Python 3.11 or later; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
