# Every target sets up what it needs in .venv from pyproject.toml, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Rivals that list torchvision, which has no build for this torch on a CPU; they import fine without it.
RIVALS := curvlinops-for-pytorch backpack-for-pytorch

.PHONY: demo test test-slow lint bench clean

demo: .venv/.package
	$(BIN)/eigenstep demo --out results/demo

test: .venv/.dev
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: .venv/.dev
	$(BIN)/pytest -n 2 -m slow

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

bench: .venv/.bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv results

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.package: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) --editable .
	touch $@

.venv/.dev: pyproject.toml constraints.txt Makefile | .venv/bin/pip
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps $(RIVALS)
	touch $@ .venv/.package

.venv/.bench: .venv/.dev
	$(INSTALL) --editable '.[dev,bench]'
	$(INSTALL) --no-deps pyhessian
	touch $@
