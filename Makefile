# One command each; set-up happens when it is needed and starts again where it was interrupted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Glibc gives memory back to the system too eagerly for tensors; keeping it saves about a fifth of the time.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184

.PHONY: setup demo test test-all check golden results attacks crowd debias continual bench clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m benchmarks.demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

test-all: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'not gpu'

check: $(READY)
	$(BIN)/ruff format --check src tests world benchmarks
	$(BIN)/ruff check src tests world benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

golden: $(READY)
	$(BIN)/python -m benchmarks.golden

results: $(READY)
	$(BIN)/python -m benchmarks.results

attacks: $(READY)
	$(BIN)/python -m benchmarks.attacks

crowd: $(READY)
	$(BIN)/python -m benchmarks.crowd

debias: $(READY)
	$(BIN)/python -m benchmarks.debias

continual: $(READY)
	$(BIN)/python -m benchmarks.continual

bench: $(READY)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.throughput

clean:
	rm -rf out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
