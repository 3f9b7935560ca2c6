# The day's commands. `make` alone lists them.
#
# Needs Python 3.11 or newer, make, and a C compiler for the odd package without a wheel.
# PYTHON=...   the interpreter that builds the environment (default: the first that is new enough)
# VENV=...     where the environment lies (default .venv; one that exists is used, not rebuilt)
# PEERS=...    where the environment of the peers lies, for `make bench` (default .peers)
# BROWSER=no   do not install Chromium for the browser tests, even as root
# ARGS=...     passed on: `make run ARGS=--json`, `make test ARGS=tests/cli`

SHELL := /bin/sh
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell \
	$(name) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(name))))
VENV ?= .venv
PEERS ?= .peers
BIN := $(VENV)/bin
JOBS ?= 2
ARGS ?=

# Stamps say for which pyproject.toml and constraints.txt the environment was filled.
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run setup test test-all check docs bars bench stories audit sbom browser clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(RUN_READY) ## play the quickstart: embedded model, embedded data, offline
	$(BIN)/tunewright quickstart $(ARGS)

setup: $(DEV_READY) ## build the environment with everything that developers need

test: check browser ## formatting, lint, types, then every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not gpu" $(ARGS)

test-all: check browser ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not gpu" $(ARGS)

check: $(DEV_READY) ## formatting, lint and types
	$(BIN)/ruff format --check src tests bench .ci
	$(BIN)/ruff check src tests bench .ci
	$(BIN)/mypy

docs: $(DEV_READY) ## build the documentation as a site in build/site
	$(BIN)/python -m mkdocs build --quiet --strict
	@echo "build/site/index.html"

bars: $(RUN_READY) ## every bar in bench/results: figure, goal, pass or short
	@$(BIN)/python bench/bars.py $(ARGS)

bench: $(DEV_READY) $(PEERS)/.ready ## run the benchmarks anew (hours); see bench/README.md
	@for script in bench/*.py; do \
		case "$$script" in bench/bars.py|bench/record.py|bench/shapes.py|bench/story_rows.py) continue;; esac; \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; \
	done
	@$(BIN)/python bench/bars.py

stories: $(DEV_READY) ## the three tutorials, played in full with their rows (an hour); ARGS=fraud for one
	$(BIN)/python bench/stories.py $(ARGS)

audit: $(DEV_READY) ## known vulnerabilities of what constraints.txt pins; says so where nobody could be asked
	@$(BIN)/python .ci/audit.py

sbom: $(RUN_READY) ## the software bill of materials, CycloneDX, to build/sbom.json
	@$(BIN)/python .ci/sbom.py build/sbom.json

# The tools that we are measured against, pinned, in an environment of their own.
$(PEERS)/.ready: bench/peers.txt | $(BIN)/python
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Browser tests draw the report in a real Chromium. Without one they skip and say so.
browser:
	@for name in chromium chromium-browser google-chrome chrome; do \
		command -v $$name >/dev/null 2>&1 && exit 0; \
	done; \
	if [ "$(BROWSER)" != no ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing Chromium for the browser tests (BROWSER=no prevents it)"; \
		export DEBIAN_FRONTEND=noninteractive; \
		timeout 180 apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 \
		|| { timeout 60 apt-get update -qq >/dev/null 2>&1 \
			&& timeout 180 apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } \
		|| echo "Chromium could not be installed; the browser tests will skip"; \
	else echo "no Chromium on this machine; the browser tests will skip"; fi

clean: ## remove what was built (never runs/)
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one or say" \
		"make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "error: $(PYTHON) is older than 3.11; say" \
		"make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The order-only prerequisite builds an environment that is missing and leaves one that is there.
$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "filling $(VENV) from constraints.txt; the first time takes some minutes"
	$(PIP_INSTALL) -e .
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "filling $(VENV) from constraints.txt; the first time takes some minutes"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(RUN_READY)
