# Everything runs in .venv, with the versions that constraints.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
SANITIZE := .venv-sanitize
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quickstart test sanitize lint docs bench-quantize bench-quality bench-calibration \
  bench-engine bench-assisted bench-tuning bench-plan bench-ranker bench-slic \
  bench-mixing bench-evaluation bench-rating bench-selection bench-how-many clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

quickstart: $(VENV)/.installed  ## a real model through pack, check, generate and report
	$(BIN)/strop run examples/quickstart.yaml

# One thread each: two tests at a time keep two cores busy, and torch on small models is faster so.
test: $(VENV)/.installed-dev  ## unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

# The sanitizers' run-time libraries have to come first. Python's own leaks are not looked for, and
# the tests that limit or count the address space cannot have them in it.
sanitize: $(SANITIZE)/.installed  ## tests of the C++ parts, stopped at any access out of bounds
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 $(SANITIZE)/bin/python -m pytest \
	  --capture sys -p no:cacheprovider -k "not beyond_any_memory and not given_back and not cannot_be_started" \
	  tests/blockfp tests/models/test_matrix.py tests/models/test_native_backend.py \
	  tests/models/test_native_engine.py tests/models/test_draft_head.py \
	  tests/decoding/test_lookup.py tests/decoding/test_sampling.py

lint: $(VENV)/.installed-dev  ## style, types and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

bench-quantize: $(VENV)/.installed  ## speed of quantizing, a minute
	$(BIN)/python benchmarks/quantize.py
	$(BIN)/python benchmarks/tables.py

bench-quality: $(VENV)/.installed  ## quality of every format, half an hour; needs STROP_DATA
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/tables.py

bench-calibration: $(VENV)/.installed  ## what calibrating gives, half an hour; needs STROP_DATA
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/tables.py

bench-engine: $(VENV)/.installed $(PEERS)/.installed  ## the engine beside llama.cpp, an hour; needs STROP_DATA
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/tables.py

bench-assisted: $(VENV)/.installed $(PEERS)/.installed  ## drafts beside none, two hours, of which one makes a head; needs STROP_DATA
	$(BIN)/python benchmarks/assisted.py
	$(BIN)/python benchmarks/tables.py

bench-tuning: $(VENV)/.installed $(PEERS)/.trl  ## tuning beside TRL, two hours; needs STROP_DATA
	$(BIN)/python benchmarks/tuning.py
	$(BIN)/python benchmarks/tables.py

bench-plan: $(VENV)/.installed-dev  ## predicted and measured memory, half an hour
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/tables.py

bench-ranker: $(VENV)/.installed  ## a ranker on human preferences, half an hour; needs STROP_DATA
	$(BIN)/python benchmarks/ranker.py
	$(BIN)/python benchmarks/tables.py

bench-slic: $(VENV)/.installed  ## does SLiC-HF help, an hour and a half; needs STROP_DATA
	$(BIN)/python benchmarks/slic.py
	$(BIN)/python benchmarks/slic.py --rate 3e-4 --seeds 0
	$(BIN)/python benchmarks/tables.py

bench-evaluation: $(VENV)/.installed-mix $(PEERS)/.lm-eval  ## evaluation beside lm-evaluation-harness, half an hour
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/tables.py

bench-rating: $(VENV)/.installed  ## rating beside reading, ten minutes (an hour with AVX2 only); needs STROP_DATA
	$(BIN)/python benchmarks/rating.py
	$(BIN)/python benchmarks/tables.py

bench-selection: $(VENV)/.installed  ## which examples to train on, 1.5 hours (7 with AVX2 only); needs STROP_DATA
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/tables.py

bench-how-many: $(VENV)/.installed  ## what an answer of how-many is worth, 20 minutes
	$(BIN)/python benchmarks/how_many.py
	$(BIN)/python benchmarks/tables.py

bench-mixing: $(VENV)/.installed-mix  ## mixtures of domains, an hour and a half; needs STROP_DATA
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/tables.py

clean:  ## remove what was built and run, not the models in the cache
	rm -rf $(VENV) $(SANITIZE) build site runs

SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: an open range in another package would fetch a build with CUDA.
$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) torch
	$(PIP) --editable '.[torch,report,tune,select]'
	touch $@

$(VENV)/.installed-mix: $(VENV)/.installed
	$(PIP) --editable '.[mix]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

$(SANITIZE)/.installed: $(SOURCES)
	@echo "building the C++ parts with sanitizers into $(SANITIZE) (some ten minutes)"
	$(PYTHON) -m venv $(SANITIZE)
	$(SANITIZE)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(SANITIZE)/bin/python -m pip install --quiet --constraint constraints.txt \
	  --config-settings cmake.define.STROP_SANITIZE=ON '.[dev]'
	touch $@

# What the engine is compared with lives apart, built from source for this processor.
$(PEERS)/.installed:
	@echo "building llama.cpp into $(PEERS) (some ten minutes)"
	$(PYTHON) -m venv $(PEERS)
	CMAKE_ARGS=-DGGML_NATIVE=ON $(PEERS)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-binary llama-cpp-python llama-cpp-python==0.3.36
	touch $@

$(PEERS)/.lm-eval: $(SOURCES) $(wildcard src/strop/*/*.py)
	test -d $(PEERS) || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt 'lm-eval[hf]==0.4.13'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt .
	touch $@

$(PEERS)/.trl:
	test -d $(PEERS) || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt trl==1.16.0 peft datasets
	touch $@
