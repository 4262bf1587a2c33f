# `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread a process: two processes with two threads each on a two-core machine can be ten times slower than one.
export OMP_NUM_THREADS ?= 1
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-isa test-cluster test-browser torture fuzz bench gpu bench-gpu docs lint check-leaderboard clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

install: $(VENV)/.installed  ## make a virtual environment in .venv and install benchbd into it

quickstart: install  ## train a small leaderboard in front of you, in about five minutes
	$(BIN)/benchbd run quickstart

test: install  ## all tests (those on CIFAR-10 and GTSRB need BENCHBD_DATA)
	$(BIN)/python -m pytest tests benchmarks -n $(JOBS) --benchmark-disable

LEARNING = $(BIN)/python -m pytest -m learning -n $(JOBS) --benchmark-disable
test-isa: install  ## the tests of what a training learns, in the arithmetic of other CPUs (slow where bf16 is emulated)
	BENCHBD_TEST_BF16=0 ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(LEARNING)
	BENCHBD_TEST_BF16=0 ONEDNN_MAX_CPU_ISA=AVX ATEN_CPU_CAPABILITY=avx2 $(LEARNING)
	BENCHBD_TEST_BF16=0 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(LEARNING)
	BENCHBD_TEST_BF16=1 $(LEARNING)

test-cluster: install  ## the executors on a real one-node Slurm and a local Ray (Debian, as root: installs both)
	PATH="$(abspath $(BIN)):$$PATH" bash tests/cluster/run.sh

test-browser: install  ## the HTML page in a headless Chromium (Debian, as root: installs it)
	PATH="$(abspath $(BIN)):$$PATH" bash tests/report/browser.sh

torture: install  ## kill, fill and damage a run a hundred times, beside cells that break their process; nothing may be lost
	$(BIN)/python tools/torture.py --faults 100

fuzz: install  ## ten thousand mutated matrices, ten thousand mutated records; none may end in a traceback or hang
	BENCHBD_FUZZ=10000 $(BIN)/python -m pytest --timeout 3600 tests/bad_input/test_fuzz.py tests/bad_input/test_damaged_folder.py \
		tests/storage/test_records.py -k 'mutated or odd_record'

bench: install  ## benchmarks of the engine and the harness, ratios printed last
	env $$($(BIN)/python -c "from benchbd.core.allocator import KEEP_MEMORY as k; print(*(f'{n}={v}' for n, v in k.items()))") \
		$(BIN)/python -m pytest benchmarks --benchmark-only -s  # with the memory settings of a run's workers

# The virtual environment if there is one; else any Python that has torch.
ANY_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_FLAGS = $(if $(DATA),--data $(DATA)) $(if $(SHEETS),--sheets $(SHEETS)) $(if $(OUT),--out $(OUT))
gpu:  ## prove, measure and use a GPU in under ten minutes (DATA=DIR or SHEETS="DIR DIR", OUT=DIR); needs no installation
	$(ANY_PYTHON) benchmarks/gpu $(GPU_FLAGS)

bench-gpu:  ## only the engine's rates on a GPU, more of them; needs no installation
	$(ANY_PYTHON) benchmarks/gpu $(GPU_FLAGS) --parts rates,more

docs: install  ## the documentation as a site in build/site/site, links checked
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python tools/build_site.py

check-leaderboard: install  ## check that leaderboard/README.md agrees with its records
	$(BIN)/benchbd leaderboard --check

lint: install  ## ruff, mypy and a search for duplicated code
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy benchbd
	$(BIN)/jscpd --min-tokens 100 --exit-code 1 --format python --reporters silent benchbd attacks datasets defenses models

clean:  ## remove the virtual environment and caches (never results)
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
