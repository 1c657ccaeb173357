# One command sets up and runs the main job (`make study`), one sets up and passes the tests (`make test`).
PYTHON ?= python3
VENV ?= .venv
MODEL ?= qwen2.5-coder-0.5b
RUN ?= runs/study
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup study test bench clean

setup: $(VENV)/.ready
	$(VENV)/bin/cotscope models --install $(MODEL)

# torch comes first and pinned: an unpinned one brings gigabytes of CUDA to machines without a GPU.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[test]'
	touch $@

study: setup
	$(VENV)/bin/cotscope study --model $(MODEL) --limit 16 --discover-limit 20 --discover-prompts 2 --given 8 --battery 4 --unmatched 1 --out $(RUN)

test: setup
	$(VENV)/bin/cotscope models --install smollm2-135m
	$(VENV)/bin/ruff check src tests
	$(VENV)/bin/python -m pytest

bench: setup
	$(PIP) --editable '.[bench]'
	$(VENV)/bin/python benchmarks/bench.py peers
	$(VENV)/bin/python benchmarks/bench.py own
	$(VENV)/bin/python benchmarks/own_kernels.py

clean:
	rm -rf $(VENV) runs build src/*.egg-info
