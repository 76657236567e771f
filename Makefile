# Everything runs in .venv, with the versions that constraints.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-all lint docs bench clean

quickstart: $(VENV)/.installed  ## a real model through pack, check, generate and report
	$(BIN)/strop run examples/quickstart.yaml

test: $(VENV)/.installed-dev  ## unit tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev  ## style, types and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site runs

SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: an open range in another package would fetch a build with CUDA.
$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) --editable '.[torch,report]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@
