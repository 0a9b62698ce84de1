# make demo is the one command for newcomers; make test is what .ci/run calls.
PYTHON ?= python3
VENV ?= .venv

# Plain pip decides which PyTorch build comes: on Linux that is the CUDA build, by far the larger download.
# For the CPU build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
READY_FOR_TESTS := $(VENV)/.ready-for-tests

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo    install into $(VENV), adapt the tiny model to two kinds of pictures, write reports to runs/"
	@echo "make test    install the test tools, then ruff, mypy, import rules and pytest on all cores"
	@echo "make lint    the same without pytest"
	@echo "make clean   remove $(VENV), caches and build output; runs/ stays"
	@echo "options: PYTHON=python3.12  VENV=.venv  TORCH_INDEX=https://download.pytorch.org/whl/cpu"

demo: $(READY)
	@echo "[1/2] coins: adapting"
	@$(BIN)/workbench adapt recipes/coins.yaml --out runs/coins
	@echo "[2/2] nuclei: adapting"
	@$(BIN)/workbench adapt recipes/nuclei.yaml --out runs/nuclei
	@echo "Done. The results lie in runs/coins and runs/nuclei:"
	@ls runs/coins runs/nuclei

test: lint
	@$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(READY_FOR_TESTS)
	@$(BIN)/ruff check .
	@rm -f apps/*.pyi # Gradio writes them as it runs, two tests at once a broken one
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# PyTorch goes first, alone: the package then finds it in place and no later step can choose another build.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing PyTorch (the largest download)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "installing sam3-workbench"
	@$(PIP) -e .
	@touch $@

$(READY_FOR_TESTS): $(READY)
	@echo "installing the test tools"
	@$(PIP) -e '.[test]'
	@touch $@

# The tokenizer's wheels end at Python 3.12, which sets the upper bound here.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
	  echo "Python 3.11 or 3.12 is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "Install one of them and name it, for example: make demo PYTHON=python3.12"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
