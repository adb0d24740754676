# make install | demo | test | conformance | lint | clean

PYTHON ?= python3
BIN := .venv/bin
# Wheels only: building a dependency from source would fetch and run code that nobody pinned.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --only-binary :all: -c constraints.txt

.PHONY: install demo test conformance lint clean

install: .venv/installed

# torch comes first and alone: a version of pip's own choosing may bring gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0 setuptools
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python tools/demo.py

# A process for each core, each with one thread: most tests are too small for two.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist worksteal

conformance: install
	$(BIN)/python tools/conformance.py

lint: install
	$(BIN)/ruff check
	$(BIN)/mypy onnxdfq passes

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
