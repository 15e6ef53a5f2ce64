# Two commands: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PROFILE ?= laptop
FRESH ?=
CH ?=
P ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
READY := $(if $(filter paper,$(PROFILE)),inputs,suite)  # the paper's chapters read its own models
NEEDS := 2.3 GB of disk and about 0.5 GB of packages (Linux without a CPU wheel of torch: several GB more)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help book pdf test suite inputs chapter try-run report picture notebooks lab serve bench lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  PROFILE=smoke (minutes) | laptop (default, half an hour) | paper (hub and GPUs); FRESH=1 executes everything"

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"error: Python 3.11 or later is needed, this is {sys.version.split()[0]}; set PYTHON=/path/to/python")'
	@echo "Environment: $(VENV) takes $(NEEDS)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

inputs: $(VENV)/.ready  ## fetch and verify the models and texts that the profile reads
	@echo "Inputs"
	@$(RUN) lib.data.sources fetch default

suite: inputs  ## train the nano suite (cached)
	@echo "Suite ($(PROFILE))"
	@$(RUN) lib.train.suite --profile $(PROFILE)

book: inputs  ## environment, inputs, suite, every chapter, the site
	@$(RUN) lib.run.book --profile $(PROFILE) $(if $(FRESH),--fresh)

pdf: book  ## the whole book as one file for paper, _build/book.pdf; needs a Chromium
	@$(RUN) lib.show.pdf $(if $(filter laptop,$(PROFILE)),_build,_build/$(PROFILE))

chapter: $(READY)  ## one chapter: make chapter CH=04b_spectra P="-p seed 3"
	@$(RUN) lib.run.chapter $(CH) --profile $(PROFILE) $(if $(FRESH),--fresh) $(P)

try-run: inputs  ## train models of the suite's kind with anything changed: make try-run P="-p width 16 -p kappa 2^-12"
	@$(RUN) lib.run.chapter lab_training --profile $(PROFILE) $(if $(FRESH),--fresh) $(P)
	@$(RUN) lib.show.page _build/$(if $(P),tries,notebooks)

report: $(VENV)/.ready  ## one page on any model, MODEL="ADDRESS ..." [CORPUS=...] [OUT=...], or on loss curves, LOSS="FILE ..."
	@$(RUN) lib.run.report $(MODEL) $(if $(CORPUS),--corpus $(CORPUS)) $(if $(LOSS),--loss $(LOSS)) $(if $(OUT),--out $(OUT)) $(P)

picture: suite  ## the picture of the README and of the first page, from chapter 8
	@$(RUN) lib.run.chapter 08_causes --profile $(PROFILE)
	@$(RUN) lib.show.picture _build/notebooks/08_causes.ipynb fig-causes-pair book/pair.svg

notebooks: $(VENV)/.ready  ## unexecuted notebooks for any papermill or Jupyter, in _build/plain
	@mkdir -p _build/plain
	@$(BIN)/jupytext --quiet --to ipynb --output-dir _build/plain $$(grep -l 'format_name: myst' book/*.md)
	@ls _build/plain/*.ipynb

lab: $(VENV)/.ready  ## JupyterLab, where a chapter opens as a notebook
	@JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/book \
		$(if $(filter 0,$(shell id -u)),--allow-root)

serve:  ## the built site on http://localhost:8000
	@$(if $(wildcard _build/html),$(PYTHON) -m http.server 8000 --bind 127.0.0.1 --directory _build/html,echo "error: no site yet; run make book"; exit 1)

test: $(VENV)/.ready  ## identities, behaviour, every chapter at toy size, the site in a browser
	@$(RUN) pytest -q -n 2 --dist worksteal tests

bench: inputs  ## the figures that the book promises, measured on a quiet machine: book/bench.json
	@$(RUN) tests.bench $(TOPIC)

lint: $(VENV)/.ready  ## ruff and the import contract
	@$(RUN) ruff check lib tests && $(RUN) ruff format --check lib tests && $(BIN)/lint-imports

clean:  ## remove _build; .cache and .venv stay
	rm -rf _build
