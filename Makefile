# make demo: see it run.  make test: every test.  make coverage: what they run.  make lint: style and types.
# make docs: the manual as web pages.  make docs-check: the documents.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

COVERAGE := $(BIN)/coverage

.PHONY: demo test coverage docs docs-check lint clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[test]' --config-settings editable_mode=compat
	touch $@

$(VENV)/.linters: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]' --config-settings editable_mode=compat
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]' --config-settings editable_mode=compat
	touch $@

$(VENV)/.coverage: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,coverage]' --config-settings editable_mode=compat
	touch $@

# TypeScript and axe-core check the pages; without npm their tests are skipped.
PAGE := tests/page/node_modules/.package-lock.json

$(PAGE): tests/page/package.json tests/page/package-lock.json
	@if command -v npm >/dev/null; then npm ci --silent --no-audit --no-fund --prefix tests/page; \
	else echo "npm is not installed: the scripts of the pages are not checked"; fi

demo: $(VENV)/.installed
	$(BIN)/twistd --nodaemon --pidfile= ocpproxy

test: $(VENV)/.installed $(PAGE)
	$(BIN)/python tests/run.py

# Every process writes a file of its own. The report is printed even if a test failed.
coverage: $(VENV)/.coverage $(PAGE)
	$(COVERAGE) erase
	$(COVERAGE) run tests/run.py; code=$$?; $(COVERAGE) combine --quiet && $(COVERAGE) report && exit $$code

# A warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

docs-check: $(VENV)/.installed
	$(BIN)/python tests/run.py tests.test_docs tests.test_manual

lint: $(VENV)/.linters $(PAGE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v npm >/dev/null; then npm run --silent --prefix tests/page types; fi

clean:
	rm -rf $(VENV) build dist docs/_build tests/page/node_modules *.egg-info _trial_temp* .coverage .coverage.*
