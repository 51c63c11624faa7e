# Each target first installs the packages and tools that it needs (tools/bootstrap.py), which takes well under a second
# if they are installed. Packages that other targets installed stay.

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
DATASET ?= movielens
DATA ?=
ENGINE ?= native
CONTAINER ?=
STATE ?= .local
STACK ?=
FORCE ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help bootstrap bootstrap-local bootstrap-preview local local-down test test-fast test-container test-browser test-azure-cli preflight preview up down lock clean

# Recipes read these values from the environment, because a value may contain any character, and neither make nor the
# shell must expand it.
override DATASET := $(value DATASET)
override DATA := $(value DATA)
override ENGINE := $(value ENGINE)
override STATE := $(value STATE)
local local-down: export DATASET := $(DATASET)
local local-down: export DATA := $(DATA)
local local-down: export ENGINE := $(ENGINE)
local local-down: export STATE := $(STATE)

ready = . .venv/personalization.sh &&
# With CONTAINER=1 the scoring image is built and run in the container engine of this machine, or, if none answers, in
# one that is started for this run.
container_engine = CONTAINER_ENGINE=$$(python -m tools.container_engine start "$$STATE/engine") && export CONTAINER_ENGINE
stack = $(or $(STACK),$(error Name the stack: make $@ STACK=dev))

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

bootstrap: ## install everything: all Python packages, Pulumi CLI, Java; other targets install what they need themselves
	@$(PYTHON) tools/bootstrap.py

bootstrap-local: ## install what `make local` needs
	@$(PYTHON) tools/bootstrap.py --for local

bootstrap-preview: ## install what a stack on Azure needs (preflight, preview, up, down); no Spark, no Java
	@$(PYTHON) tools/bootstrap.py --for preview

local: bootstrap-local ## deploy, train and serve here: DATASET=movielens|criteo DATA=path ENGINE=native|spark CONTAINER=1
	@$(ready) $(if $(CONTAINER),$(container_engine) &&) personalization local --dataset "$$DATASET" $${DATA:+--data "$$DATA"} --engine "$$ENGINE" --state "$$STATE"

local-down: bootstrap-local ## remove the run of `make local`; FORCE=1 removes it without Pulumi
	@$(ready) personalization local-down --state "$$STATE" $(if $(FORCE),--force) && if [ -d "$$STATE/engine" ]; then \
		python -m tools.container_engine stop "$$STATE/engine"; fi

# Three workers on two cores, because tests spend much time waiting for processes. tests/conftest.py decides which tests
# share a worker, because they share fixtures, and which start first.
test: bootstrap ## check style and types, and run every test that needs no container engine
	@$(ready) ruff check . && ruff format --check . && mypy && pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-fast: bootstrap ## run the tests that start neither Spark nor a stack
	@$(ready) pytest -m 'not stack and not spark'

test-container: bootstrap ## build and test the scoring image; starts a container engine if none answers: ARGS='-k native'
	@$(ready) python -m tools.container_engine run pytest -m container $(ARGS)

test-browser: bootstrap ## test the dashboard in an installed Chromium; `make test` does too, if there is one
	@$(ready) pytest tests/cli/dashboard/test_browser.py

test-azure-cli: bootstrap ## test Azure CLI against the sandbox; the first run installs it into the user's cache
	@$(ready) python -m tools.azure_cli && pytest tests/conformance/test_azure_cli.py

preflight: bootstrap-preview ## check region, quota, permissions and names before `make up`: STACK=dev
	@$(ready) personalization preflight --stack '$(stack)'

preview: bootstrap-preview ## show what `make up` would change: STACK=dev
	@$(ready) pulumi preview --stack '$(stack)' --policy-pack policy $(ARGS)

up: bootstrap-preview ## create or update a stack on Azure: STACK=dev
	@$(ready) pulumi up --stack '$(stack)' --policy-pack policy $(ARGS)

down: bootstrap-preview ## delete a stack from Azure and check that nothing is left: STACK=dev
	@$(ready) personalization teardown '$(stack)' $(ARGS)

lock: bootstrap-preview ## write requirements.lock from pyproject.toml
	@$(ready) UV_SYSTEM_CERTS=true uv pip compile --python-version 3.11 --no-emit-index-url --generate-hashes \
		--prerelease if-necessary-or-explicit --all-extras pyproject.toml -o requirements.lock

clean: ## delete build files and tool caches, but not .venv or the run of `make local`
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
