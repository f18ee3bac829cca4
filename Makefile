# Two commands matter to a newcomer: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# uv does not read pip's configuration, so hand on where pip looks for wheels (empty elsewhere, and then harmless).
export UV_FIND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
# Trust what the system trusts, as pip does; a proxy's certificate is there.
export UV_SYSTEM_CERTS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
INSTALL := $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --override overrides.txt

.PHONY: setup demo test test-real check bench docs clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.cpu    ## install rematch with a CPU torch into .venv

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.cpu: pyproject.toml constraints.txt overrides.txt $(VENV)/bin/uv
	$(INSTALL) --editable '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu
	$(INSTALL) --editable '.[cpu,dev]'
	@touch $@

$(VENV)/.real: $(VENV)/.dev
	$(INSTALL) --editable '.[cpu,dev,real]'
	@touch $@

demo: setup      ## a small model plays itself for three rounds, offline, in about two minutes
	$(BIN)/rematch run demo

test: $(VENV)/.dev    ## the tests that need neither vLLM nor Ray nor DeepSpeed
	$(BIN)/python -m pytest

test-real: $(VENV)/.real    ## the slower tests, on real vLLM, Ray, DeepSpeed and TRL
	$(BIN)/python -m pytest -m real

check: $(VENV)/.dev    ## lint, types, and generated docs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python --project pyright-strict.json

bench: $(VENV)/.real   ## every figure that the docs quote (GSM8K=path/to/train.jsonl adds that one)
	for name in scale pairrm training kill games temporal; do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(if $(GSM8K),$(BIN)/python -m benchmarks.gsm8k $(GSM8K))

docs: setup      ## regenerate docs/recipe-reference.md and the table in docs/objectives.md
	$(BIN)/rematch schema --markdown > docs/recipe-reference.md
	$(BIN)/python -m benchmarks.catalogue

clean:           ## remove .venv (never runs/)
	rm -rf $(VENV)
