# The one entry to this repository: `make help` lists what there is.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON  ?=#        the interpreter for the environment; empty: python3.11, else python3
ARGS    ?=#        passed on to pytest, to the demo or to the benchmark
ONLY    ?=#        name of one benchmark
WORKERS ?= 2#      test processes; 0 runs the tests in one

UV_VERSION := 0.13.8
ENGINES    := $(CURDIR)/node_modules/.bin
VENV   := .venv
BIN    := $(VENV)/bin
OFFLINE    := $(BIN)/python tools/offline.py
CLAUDE := node_modules/@anthropic-ai/claude-code

.PHONY: help setup system demo test check format bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .cache/package .cache/engines ## install everything into this folder (a second run does nothing)

system: ## install the shells whose completion is tested, or say how (nothing else needs them)
	@missing=$$(for shell in zsh fish; do command -v $$shell >/dev/null || echo $$shell; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else echo "install them yourself: apt-get install" $$missing; fi

demo: setup ## watch Quarterdeck drive the real engine against the scripted model (ARGS=...)
	@PATH="$(ENGINES):$$PATH" $(OFFLINE) $(BIN)/quarterdeck demo $(ARGS)

test: setup ## run the tests (ARGS="-k name tests/engine", WORKERS=0 for one process)
	@PATH="$(ENGINES):$$PATH" $(OFFLINE) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: setup ## lint, formatting, types, layering and the rules of the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py tests/test_repository.py

format: setup ## put all Python into the one format, and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## measure (ONLY=name for one benchmark, ARGS=...)
	@PATH="$(ENGINES):$$PATH" $(BIN)/python bench/run.py $(if $(ONLY),--only $(ONLY)) $(ARGS)

docs: setup ## build the documentation into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean: ## remove everything that setup, the tools and the tests made
	rm -rf $(VENV) node_modules .cache site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment: each step is redone only when what it was made from has changed ---------------

$(VENV)/pyvenv.cfg:
	@set -e; python=''; \
	for candidate in $(or $(PYTHON),python3.11 python3); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'setup: no Python 3.11 or newer was found; install it, or name it: make setup PYTHON=/path/to/python' >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "setup: $$python has no venv or pip; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; \
	fi; \
	echo "setup: $(VENV) from $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)

$(BIN)/uv: $(VENV)/pyvenv.cfg
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.cache/requirements: requirements/dev.txt $(BIN)/uv
	@echo "setup: Python packages of requirements/dev.txt"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@mkdir -p .cache && touch $@

.cache/package: pyproject.toml .cache/requirements
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@mkdir -p .cache && touch $@

# Not `npm ci`: it refuses a lock file that lacks OpenCode's packages for machines other than ours.
node_modules/.package-lock.json: package.json package-lock.json
	@if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then \
	  echo 'setup: the engines need Node 20 or newer, with npm' >&2; \
	  exit 1; \
	fi
	@echo "setup: the engines of package-lock.json"
	@mkdir -p .cache
	@rm -rf node_modules
	@npm install --no-save --ignore-scripts --no-progress --loglevel=error >.cache/npm.log 2>&1 \
	  || { cat .cache/npm.log >&2; exit 1; }
	@touch $@

# npm no longer runs install scripts unasked. These two put the program for this machine in place, from
# the packages that are there: offline, so that neither fetches one that the lock file does not know.
.cache/engines: node_modules/.package-lock.json
	@mkdir -p .cache/home
	@HOME="$(CURDIR)/.cache/home" npm_config_offline=true node $(CLAUDE)/install.cjs
	@cd node_modules/opencode-ai && HOME="$(CURDIR)/.cache/home" npm_config_offline=true node postinstall.mjs
	@set -e; \
	for engine in claude:@anthropic-ai/claude-code opencode:opencode-ai; do \
	  name=$${engine%%:*}; \
	  want=$$(node -p "require('./package.json').dependencies['$${engine#*:}']"); \
	  got=$$(env -i PATH="$$PATH" HOME="$(CURDIR)/.cache/home" DISABLE_AUTOUPDATER=1 \
	    node_modules/.bin/$$name --version); \
	  if [ "$${got%% *}" != "$$want" ]; then \
	    echo "setup: $$name must be $$want, but it says '$$got'; run: make clean setup" >&2; exit 1; \
	  fi; \
	  echo "setup: $$name $$want"; \
	done
	@touch $@
