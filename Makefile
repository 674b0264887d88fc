# What a person types. Needs make, git, Python 3.11 or newer and a network that reaches PyPI; no GPU.
#
#   make demo      adapt the embedded base to Malay with the shipped data (minutes on two CPU cores)
#   make test      everything that must hold before a change is merged
#   make quick     the tests that take seconds
#
# Variables: PYTHON (which interpreter makes .venv), RUNS and BUNDLES (where the demo writes), JOBS (processes of `make test`).

VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
BUNDLES ?= bundles
JOBS ?= 2
TEXT := Selamat pagi, apa khabar?
VOICE := recipes/data/malay/ref.ogg

# The first interpreter that is new enough and can make a virtual environment. Only looked for where one is needed.
CAN := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c '$(CAN)' 2>/dev/null && { echo "$$p"; break; }; done)

# What Python has compiled is kept wherever it is allowed to write: tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test quick lint crash fuzz schemas docs clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))
	@echo "make lint      ruff, mypy and the import contracts"
	@echo "make crash     500 killed runs, each of which must end in the same bundle (half an hour)"
	@echo "make fuzz      17,500 mutated files and requests, none of which may end in anything but a code"
	@echo "make schemas   write schemas/ again from the models"
	@echo "make docs      write docs/recipe.md again from the models"
	@echo "make clean     remove .venv and caches; runs/ and bundles/ stay"

# Standard output of `run` is one line of JSON; it is kept beside the run, and its exit code is the demo's.
demo: $(VENV)/.installed
	@mkdir -p $(RUNS)
	$(BIN)/qrecipe run recipes/malay.yaml --runs $(RUNS) --bundles $(BUNDLES) > $(RUNS)/demo.json
	@bundle=$$($(BIN)/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["bundle"])' $(RUNS)/demo.json) && \
	$(BIN)/qrecipe bundle verify "$$bundle" && \
	echo && \
	echo "hear the base:    $(BIN)/qrecipe say builtin:mini \"$(TEXT)\" --reference $(VOICE) --out base.wav" && \
	echo "hear the bundle:  $(BIN)/qrecipe say $$bundle \"$(TEXT)\" --language malay --reference $(VOICE) --out malay.wav" && \
	echo "say a sentence of your own: $(BIN)/qrecipe try builtin:mini $$bundle --recipe recipes/malay.yaml" && \
	echo "see how it went:  $(RUNS)/malay/report.html"

# Whole files, each in one of JOBS processes of one thread; JOBS=0 is one after the other.
test: lint
	$(BIN)/pytest -m "not gpu" -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

quick: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow and not gpu"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

crash: $(VENV)/.installed-dev
	$(BIN)/python -m tests.crash --kills 500

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz

schemas: $(VENV)/.installed
	$(BIN)/qrecipe schema --write schemas

docs: $(VENV)/.installed
	$(BIN)/python docs/recipe.py

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer that can make a virtual environment was found;" \
	"install one (on Debian also python3-venv), or give it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV); the first time this takes minutes, because torch is large"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) with the tools for development; the first time this takes minutes, because torch is large"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find qrecipe tests benchmarks research -name __pycache__ -type d -prune -exec rm -rf {} +
