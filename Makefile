# make demo: see it run.  make test: every test.  make lint: style and types.  make docs-check: the documents.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs-check lint clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[test]' --config-settings editable_mode=compat
	touch $@

$(VENV)/.linters: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]' --config-settings editable_mode=compat
	touch $@

demo: $(VENV)/.installed
	$(BIN)/twistd --nodaemon --pidfile= ocpproxy

test: $(VENV)/.installed
	$(BIN)/python tests/run.py

docs-check: $(VENV)/.installed
	$(BIN)/python tests/run.py tests.test_docs

lint: $(VENV)/.linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info _trial_temp*
