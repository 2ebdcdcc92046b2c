# `make` alone says what there is. Everything runs in .venv, which is made when it is missing or
# older than pyproject.toml or constraints.txt.

SHELL := bash
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c pass 2> /dev/null && echo $$p && break; done)
# More arguments for the pip that installs torch, for instance an index of CPU builds.
TORCH_ARGS ?=
# Processes that `make test` uses, and more arguments for pytest: make test ARGS="tests/spaces -x".
JOBS ?= 2
ARGS ?=
# What `make results` repeats: text (with the file TEXT; by default the prefix of text8 that
# $STRUCTDIFF_DATA has), manifolds (with the folder DATA that has earth/ and torus_rna/; by default
# $STRUCTDIFF_DATA), latent (images and audio, with the folder DATA that has mnist/ and fsdd/, and
# PEERS, a Python that has diffusers, to compare with it) or molecules (with the folder DATA that
# has qm9/, else it is fetched, and EDM, a checkout of the EDM molecules code, to compare with it).
DOMAIN ?= text
TEXT ?=
DATA ?=
PEERS ?=
EDM ?=

TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev

# A copy laid out as a user has it, with domains/ inside structdiff/.
INSTALLED := build/installed
SOURCES := $(shell find structdiff domains -not -name __pycache__ -not -name '*.pyc' 2> /dev/null)

.PHONY: help venv demo results results-text results-manifolds results-latent results-molecules test lint format types doctest tutorials package clean

help:  ## say what there is
	@echo "structdiff: make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

venv: $(DEV_READY)  ## make .venv with all that developing needs
	@echo "$(VENV) is ready: source $(BIN)/activate"

demo: $(DEMO_READY)  ## train on 2,000 molecules and draw, then draw from the weights that come along
	@echo "demo: structdiff demo molecules"
	@$(BIN)/structdiff demo molecules

results: results-$(DOMAIN)  ## repeat the long runs of the README of DOMAIN: text (the default), manifolds, latent or molecules

results-text: $(DEMO_READY)
	@echo "results: text8's prefix and Markov letters, under an hour on two cores; stop it at any time," \
		"the same command goes on"
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/text8.py --out runs/text8 $(if $(TEXT),--text $(TEXT))

results-manifolds: $(DEMO_READY)
	@echo "results: earthquakes, floods, fires, volcanoes and RNA, under an hour on two cores; stop it" \
		"at any time, the same command goes on"
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/manifolds.py --out runs/manifolds-results $(if $(DATA),--data $(DATA))

results-latent: $(DEMO_READY)
	@echo "results: digits and spoken digits, about an hour on two cores; stop it at any time, the" \
		"same command goes on"
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/latent_results.py --out runs/latent-results \
		$(if $(DATA),--data $(DATA)) $(if $(PEERS),--peers $(PEERS))

results-molecules: $(DEMO_READY)
	@echo "results: molecules of QM9, about an hour on two cores; stop it at any time, the same" \
		"command goes on"
	@$(if $(DATA),STRUCTDIFF_DATA=$(DATA) )OMP_NUM_THREADS=1 $(BIN)/python \
		tests/benchmarks/molecules_results.py --out runs/molecules-results $(if $(EDM),--edm $(EDM))

test: $(DEV_READY)  ## run the tests
	@echo "test: the laws and the unit tests, in $(JOBS) processes"
	@OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(DEV_READY)  ## look for faults of style (changes nothing)
	@echo "lint: ruff check, then ruff format --check"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(DEV_READY)  ## mend the style where ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(INSTALLED)/.ready  ## check the types, strictly
	@echo "types: mypy on the installed copy in $(INSTALLED)"
	@set -o pipefail; cd $(INSTALLED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p structdiff | sed 's#^structdiff/domains/#domains/#'

doctest: $(INSTALLED)/.ready  ## run the examples in the docstrings
	@echo "doctest: the examples of structdiff and structdiff.domains, in $(INSTALLED)"
	@cd $(INSTALLED) && MPLBACKEND=agg $(CURDIR)/$(BIN)/python -m pytest -q \
		-c $(CURDIR)/pyproject.toml --rootdir . -p no:cacheprovider --doctest-modules structdiff

tutorials: $(DEV_READY)  ## run every tutorial from first to last cell
	@mkdir -p build/tutorials
	@set -e; shopt -s nullglob; cd build/tutorials; for page in $(CURDIR)/tutorials/*.py; do \
		echo "tutorials: $$(basename $$page)"; \
		MPLBACKEND=agg $(CURDIR)/$(BIN)/python -W "ignore:FigureCanvasAgg" "$$page"; \
	done

package: $(DEV_READY)  ## install in three ways, in venvs of their own, and import
	@echo "package: an editable install, pip install . used inside the clone, a wheel used outside"
	@$(BIN)/python -m pytest -q -m package tests/packaging

clean:  ## remove .venv, builds and caches (not runs/)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find structdiff domains tests tutorials -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO_READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No python3 was found. Install Python 3.11 or newer, or name it:" \
		"make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "structdiff needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name a newer one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "$(VENV): a virtual environment with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "$(VENV): installing $(TORCH) (a minute or more)"
	@$(PIP) -c constraints.txt $(TORCH_ARGS) $(TORCH)
	@echo "$(VENV): installing structdiff from this folder, with what the domains need"
	@$(PIP) -c constraints.txt -e ".[audio,images,manifolds,molecules,text]"
	@touch $@

$(DEV_READY): $(DEMO_READY)
	@echo "$(VENV): installing what tests and checks need"
	@$(PIP) -c constraints.txt -e ".[audio,e3,images,manifolds,molecules,text,dev,oracles]"
	@touch $@

$(INSTALLED)/.ready: $(DEV_READY) $(SOURCES)
	@rm -rf build/lib $(INSTALLED)
	@$(PIP) --no-deps --no-build-isolation --target $(INSTALLED) .
	@touch $@
