# The interpreter that makes `.venv`; afterwards only `.venv` is used.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

export MPLBACKEND := Agg

.PHONY: demo test lint docs bench clean

demo: export HF_HUB_OFFLINE := 1
demo: .venv/installed
	$(BIN)/python scripts/demo.py

# One thread per process, because two processes share the cores. Slow files are first (tests/conftest.py), and stay so.
# Without the plug-ins of other packages, whose modules pytest would rewrite in each process.
test: export OMP_NUM_THREADS := 1
test: export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1
test: .venv/installed
	$(BIN)/python -m pytest -p xdist -p hypothesispytest -n 2 --dist loadscope --no-loadscope-reorder \
		--durations=60 --durations-min=5

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-doc
	$(BIN)/python -m sphinx -j 2 -W --keep-going -q -b html docs docs/_build/html

bench: .venv/installed
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:
	rm -rf demo dist docs/_build docs/api/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Stamp files: a second call installs nothing unless the requirements have changed.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e ".[test]"
	touch $@

.venv/installed-doc: .venv/installed
	$(PIP) -e ".[doc]"
	touch $@
