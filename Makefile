# Everything runs in a virtual environment of its own, which is made on first use.
PYTHON ?= python3
VENV ?= .venv
EXPLORER ?= .venv-model-explorer
BIN := $(VENV)/bin

.PHONY: demo test lint fast clean

demo: $(VENV)/installed
	$(BIN)/python -m tests.support.demo

test: lint $(EXPLORER)/installed
	$(BIN)/python -m pytest

fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/installed: pyproject.toml constraints.txt $(wildcard optimum_htp/_site/*.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Model Explorer needs other versions than we do.
$(EXPLORER)/installed:
	$(PYTHON) -m venv $(EXPLORER)
	$(EXPLORER)/bin/pip install --quiet "model-explorer-onnx==0.4.2"
	touch $@

clean:
	rm -rf $(VENV) $(EXPLORER) .mypy_cache .ruff_cache .pytest_cache dist out
