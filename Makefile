# One command sets up and runs the main job (`make study`), one sets up and passes the tests (`make test`).
PYTHON ?= python3
VENV ?= .venv
MODEL ?= qwen2.5-coder-0.5b
RUN ?= runs/study
WORKERS ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# One thread per worker: two processes with two threads each, on two cores, take many times as long as either alone. Compiled
# tests are kept, whatever the environment says: each worker would take six seconds to compile them, at each run.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest

.PHONY: setup study check style test test-faults test-browser bench docs picture clean

setup: $(VENV)/.ready
	$(VENV)/bin/cotscope models --install $(MODEL)

# torch comes first: where the index has a build for CPUs, the pin in constraints.txt takes it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[test]'
	touch $@

study: setup
	$(VENV)/bin/cotscope study --model $(MODEL) --limit 16 --discover-limit 20 --discover-prompts 2 --given 8 --battery 4 --unmatched 1 --out $(RUN)

# Style, types, and the tests that need no model and no patience: two minutes on two cores.
check: style
	$(PYTEST) --numprocesses $(WORKERS) --dist loadgroup -m "not model and not slow and not faults"

style: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Everything but the faults. Tests of one `xdist_group` share a worker, so that a model is loaded once.
test: setup style
	$(VENV)/bin/cotscope models --install smollm2-135m
	$(PYTEST) --numprocesses $(WORKERS) --dist loadgroup

# Killed processes, full disks, servers that misbehave: one after another, since they watch the clock.
test-faults: setup
	$(PYTEST) -m faults

# Pages in a real browser: a headless Chromium has to be there (docs/picture.py says how), which no package index has.
test-browser: setup
	$(PIP) --editable '.[browser]'
	PYTHONPATH=docs $(VENV)/bin/python -c "import picture, sys; picture.CHROMIUM or sys.exit('there is no Chromium')"
	$(PYTEST) --numprocesses $(WORKERS) --dist loadgroup tests/view

bench: setup
	$(PIP) --editable '.[bench]'
	$(VENV)/bin/python benchmarks/bench.py peers
	$(VENV)/bin/python benchmarks/bench.py own
	$(VENV)/bin/python benchmarks/own_kernels.py

# Commands, options, stages and tables, as the parser and their records have them; a test holds the page to them.
docs: $(VENV)/.ready
	$(VENV)/bin/python -m cotscope.cli.reference > docs/.cli.md && mv docs/.cli.md docs/cli.md

# The README's picture, from the report of RUN; needs playwright and its headless Chromium (docs/picture.py says how).
picture: $(VENV)/.ready
	$(VENV)/bin/python docs/picture.py $(RUN)/report.html docs/report.png

clean:
	rm -rf $(VENV) build src/*.egg-info
