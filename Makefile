# Every target sets up what it needs: a virtual environment in .venv with the pinned packages and seekr itself.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

.PHONY: demo demo-small test test-all test-slow tests check coverage lint bench site clean

demo: $(READY)
	$(BIN)/seekr demo --output-dir demo-run

demo-small: $(READY)
	$(BIN)/seekr demo --small --output-dir demo-run

# What a change is checked by before it is shown to anyone.
test: check
	$(PYTEST) -m "not slow and not thorough"

# What continuous integration runs.
test-all: check tests

test-slow: $(READY)
	$(PYTEST) -m slow

tests: $(READY)
	$(PYTEST) -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(READY)
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/seekr bench

# The documentation as pages, in site/; any warning is an error. It needs nothing of the package's own libraries.
site: .venv-site/.ready
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict

.venv-site/.ready: docs/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install -q -r docs/requirements.txt
	touch $@

# torch goes first and by its pin alone: a looser request may resolve to another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install -qq -e '.[dev]' -c constraints.txt
	touch $(READY)

clean:
	rm -rf .venv .venv-site site demo-run .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
