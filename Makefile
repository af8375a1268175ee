# Targets for people; `make` alone lists them. Everything runs from $(VENV), which `setup` makes once.
#   make tutorial PARAMS=notebooks/params/oct.yaml OUT=runs/oct
#   make test ARGS="-k splits"     TLUTILS_SLOW=1 make test

PYTHON ?= python3
VENV   ?= .venv
PARAMS ?= notebooks/params/demo.yaml
OUT    ?= runs/demo
ARGS   ?=

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.tlutils-installed
# A worker for each core, about 1 GB of memory each; one whose tests are done takes over some of another's.
PYTEST := -m pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help setup tutorial test test-oldest lint lab bench clean

help:      ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv and install what is missing (the first time: minutes and several GB)

# Touched last, so that an install that failed or was stopped is done again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@$(PY) -m ipykernel install --sys-prefix --name python3 >/dev/null
	@touch $@

tutorial: $(STAMP) ## run the notebooks on the embedded phantoms -> runs/demo/index.html
	$(PY) notebooks/run_all.py --params $(PARAMS) --out $(OUT) $(ARGS)

test: $(STAMP) ## run the tests on all cores; what was skipped is listed with its reason
	$(PY) $(PYTEST) $(ARGS)

test-oldest: $(STAMP) ## run the tests with the oldest packages that pyproject.toml allows, in .venv-oldest
	$(PY) -m pip install --quiet --disable-pip-version-check 'uv>=0.4'
	$(PY) -m uv venv --quiet --seed --allow-existing --python 3.11 $(VENV)-oldest
	$(PY) -m uv pip install --quiet --python $(VENV)-oldest --resolution lowest-direct --editable '.[test]'
	$(VENV)-oldest/bin/python $(PYTEST) $(ARGS)

lint: $(STAMP) ## check style and formatting with ruff, and who imports whom with import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYTHONPATH=. $(VENV)/bin/lint-imports

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(PY) -m jupyterlab --ServerApp.preferred_dir=notebooks $(ARGS)

bench: $(STAMP) ## run the benchmarks -> tests/benchmarks/results.json and a table
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	$(PY) tests/benchmarks/run.py $(ARGS)

clean:     ## remove the demo run and caches (never your data, other runs or .venv)
	rm -rf runs/demo build dist .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
