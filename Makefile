# Needs Python 3.11 to 3.13 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# a test has one thread, so two run at a time; those that start Ray follow one another (tests/conftest.py)
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
# Python keeps what it compiles: where it may not, each process that the tests start compiles torch, MONAI and MLflow anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format docs settings wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is older than its causes only after a change of what is to be installed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f"mttu needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Say which to use: make PYTHON=python3.11 ...")'
	@echo "Installing into .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## Run the whole job on a phantom cohort in demo/
	$(BIN)/mttu demo demo

test: lint ## Lint, types, import contracts, tests
	$(PYTEST)

test-all: lint ## The same with coverage and the slow tests: real kills, 128^3, the wheel
	$(PYTEST) -m "not gpu" --cov --cov-report=term:skip-covered

lint: $(READY) ## Style, types and direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

settings: $(READY) ## Write docs/settings.md from the docstrings of the settings
	$(BIN)/python docs/site/settings.py

# what builds the site is installed beside the rest when it is first asked for
docs: settings ## Build the site of docs/ into site/, strictly
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY) ## Build dist/mttu-VERSION-py3-none-any.whl
	$(BIN)/python -m build --wheel --no-isolation

clean: ## Remove what the other targets made, but not .venv and runs/
	rm -rf build dist demo site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find benchmarks jobs mttu tests -name __pycache__ -prune -exec rm -rf {} +
