# The only two commands a newcomer needs are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= $(or $(PERTBOUND_DATA),../shared/data)
OUT ?= runs

.PHONY: demo test test-slow check bench paper docs clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.ready  ## train a small network, bracket every test image, write a report
	$(BIN)/pertbound demo --out $(OUT)/demo --overwrite

test: $(VENV)/.ready  ## the test suite, under five minutes on two cores
	$(BIN)/python -m pytest -n auto -m 'not slow'

test-slow: $(VENV)/.ready  ## the whole data sets and the trainings
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.ready  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.ready  ## ratios against a plain forward pass; operator norms; cost against parameters
	$(BIN)/python benchmarks/run.py --data-dir $(DATA)

paper: $(VENV)/.ready  ## the paper's experiment on both data sets, from the checkpoints here
	$(BIN)/pertbound reproduce peck2017 --dataset mnist --data-dir $(DATA) --checkpoint checkpoints/lenet_mnist.safetensors --out $(OUT)/peck2017-mnist
	$(BIN)/pertbound reproduce peck2017 --dataset cifar10 --data-dir $(DATA) --checkpoint checkpoints/lenet_cifar10.safetensors --out $(OUT)/peck2017-cifar10

docs: $(VENV)/.ready  ## docs/layers.md from the layers' docstrings
	$(BIN)/python -c "from pathlib import Path; from pertbound.layers.table import write; write(Path('docs/layers.md'))"

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
