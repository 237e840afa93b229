# The one door to everything that is done here: people, pre-commit and CI call the same targets.

PYTHON ?= python3
VENV := .venv
PKILINT := .venv-pkilint
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# make onebox: another folder of certificates that its three processes share, or other ports.
CUSTOM_CERTIFICATES ?=
HTTPS_PORT ?= 8083
WEBSOCKET_PORT ?= 8084
DEFENDERS ?= 2

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: onebox
onebox: $(VENV)/.run ## Run a Console and two Defenders on this machine until Ctrl-C
	@exec $(BIN)/garrison onebox --https-port $(HTTPS_PORT) --websocket-port $(WEBSOCKET_PORT) \
		--defenders $(DEFENDERS) $(if $(CUSTOM_CERTIFICATES),--custom-certificates $(CUSTOM_CERTIFICATES))

.PHONY: check
check: $(VENV)/.dev ## Format and lint, types, imports between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(VENV)/.dev ## Let ruff put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: $(VENV)/.dev $(PKILINT)/.done packages ## The suite, in under ten minutes
	PKILINT_BIN=$(CURDIR)/$(PKILINT)/bin $(BIN)/pytest -q

.PHONY: test-all
test-all: test ## The suite, then the proofs that take longer
	PKILINT_BIN=$(CURDIR)/$(PKILINT)/bin $(BIN)/pytest -q -m slow

.PHONY: bench
bench: $(VENV)/.dev ## Measure against nginx and Go gorilla/websocket on this machine
	@.ci/apt nginx-light golang-go golang-github-gorilla-websocket-dev
	$(BIN)/python -m tests.bench

# A browser for the pages, and a file system without events for the watcher.
.PHONY: packages
packages:
	@.ci/apt chromium bindfs

.PHONY: lock
lock: $(VENV)/.dev ## Resolve the dependencies anew, with hashes
	$(PIP) install pip-tools
	$(COMPILE) --upgrade --extra console --extra dev --extra uvloop -o requirements/dev.txt pyproject.toml
	$(COMPILE) --extra console --extra uvloop -c requirements/dev.txt -o requirements/console.txt pyproject.toml
	$(COMPILE) --extra defender -c requirements/dev.txt -o requirements/defender.txt pyproject.toml
	$(COMPILE) -c requirements/dev.txt -o requirements/build.txt requirements/build.in
	$(COMPILE) --upgrade -o requirements/pkilint.txt requirements/pkilint.in

.PHONY: clean
clean: ## Remove what was made here: environments, caches, the onebox and its state
	rm -rf $(VENV) $(PKILINT) .onebox .bench build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 has no ensurepip until python3-venv is there.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/apt python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/console.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements/console.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# The certificate linter pins its own cryptography.
$(PKILINT)/.done: requirements/pkilint.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(PKILINT)
	$(PKILINT)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@
