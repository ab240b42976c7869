# Everything a newcomer needs is `make demo` and `make test`; both make the environment first if it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports when it first does, a fraction of all that is installed.
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check --constraint constraints.txt
# And keeps it: in many containers it may not, and each of the suite's hundreds of processes would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
# A second pytest collects those files alone; the marker's name is written out wherever it is used.
ALONE = $(shell grep -l 'mark\.alone' -r tests --include='test_*.py')

.PHONY: demo compose-demo test search breaks lint docs bench protos sample clean help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.runtime ## Edge, cloud and links as processes, 1,000 real images, one table
	@$(BIN)/branchynet demo

compose-demo: ## The same in containers, while an edge and the cloud stop and start; needs Docker and no environment
	@$(PYTHON) -m orchestrator.nodes.compose

test: $(VENV)/.dev ## The whole test suite
	@$(BIN)/python -m pytest --numprocesses auto --no-loadscope-reorder -m "not alone"
	@$(BIN)/python -m pytest -m alone $(ALONE)

search: $(VENV)/.dev ## The tests of properties with random cases, others each time; the suite takes the same ones always
	@$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile search $(shell grep -l hypothesis -r tests --include='test_*.py')

breaks: $(VENV)/.dev ## Break the code in known ways, each in a throw-away copy, and see that the tests notice
	@$(BIN)/python scripts/deliberate_breaks.py

lint: $(VENV)/.dev ## Formatting, lint, types, import contracts, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

docs: $(VENV)/.docs ## The documentation as a site in out/site; broken links and names are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo out/site/index.html

bench: $(VENV)/.dev ## The quick benchmark: early exit against the plain trunk, on both engines
	@$(BIN)/python benchmarks/engines.py lenet-fashion

protos: $(VENV)/.dev ## Regenerate the stubs from protos/*.proto
	$(BIN)/python -m protos.generate

sample: $(VENV)/.runtime ## Regenerate the shipped sample; DATA=folder with Fashion-MNIST
	$(BIN)/python scripts/make_sample.py --data $(DATA) --out branchynet/sample

clean: ## Remove the environment and everything made
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[plots]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) --editable '.[docs]'
	@touch $@
