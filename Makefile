# One command each; set-up happens when it is needed and starts again where it was interrupted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
FRESH := out/fresh
# Glibc gives memory back to the system too eagerly for tensors; keeping it saves about a fifth of the time.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184

# Tests fork: a heap that keeps all it ever had grows too large to be copied.
# Without bytecode on disk each worker and each command that a test starts would compile all of it anew.
LEAN := env -u MALLOC_MMAP_THRESHOLD_ -u MALLOC_TRIM_THRESHOLD_ -u PYTHONDONTWRITEBYTECODE
PYTEST := $(LEAN) $(BIN)/python -m pytest -n 2 --dist loadscope

.PHONY: setup demo test test-all slow check format lint types wheel docs docs-pictures
.PHONY: mutants golden results attacks evaluations protection crowd debias continual classifiers bench accelerator clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

demo: $(READY)
	$(BIN)/python -m benchmarks.demo --out out/demo

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) -m 'not gpu'

slow: $(READY)
	$(PYTEST) -m 'slow and not gpu' --durations=15

check: format lint types
	$(PYTEST) --durations=15
	$(MAKE) wheel

format: $(READY)
	$(BIN)/ruff format --check src tests world benchmarks docs examples

lint: $(READY)
	$(BIN)/ruff check src tests world benchmarks docs examples

types: $(READY)
	$(BIN)/mypy

# Builds source and wheel, installs the wheel into an environment that has never seen this folder, and runs it there.
wheel: $(READY)
	rm -rf dist $(FRESH)
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m venv $(FRESH)/env
	$(FRESH)/env/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(FRESH) && UNCONCEPT_STORE=store env/bin/unconcept erase "dog face" --limit 2 --out dog

docs: $(DOCS_READY)
	$(BIN)/mkdocs build --strict

docs-pictures: $(READY)
	$(BIN)/python docs/pictures.py

golden: $(READY)
	$(BIN)/python -m benchmarks.golden

# Plants faults in the trained methods and lists those that no test sees; goes on where it was interrupted.
mutants: $(READY)
	$(BIN)/python -m benchmarks.mutants

results: $(READY)
	$(BIN)/python -m benchmarks.results

attacks: $(READY)
	$(BIN)/python -m benchmarks.attacks

protection: $(READY)
	$(BIN)/python -m benchmarks.protection

evaluations: $(READY)
	$(BIN)/python -m benchmarks.evaluations

crowd: $(READY)
	$(BIN)/python -m benchmarks.crowd

debias: $(READY)
	$(BIN)/python -m benchmarks.debias

continual: $(READY)
	$(BIN)/python -m benchmarks.continual

classifiers: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,classifiers]'
	$(BIN)/python -m benchmarks.classifiers
	$(BIN)/python -m benchmarks.self_conditioning

accelerator: $(READY)
	$(BIN)/python -m benchmarks.accelerator

bench: $(READY)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.throughput

clean:
	rm -rf out dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
