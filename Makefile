# Each target first installs its own packages and tools, no others (tools/bootstrap.py). If they are installed already,
# that takes well under a second. An environment that has more packages is not changed.

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

# Recipes read what a person writes from the environment: it may hold any character, and neither make nor the shell
# must read it as their own.
override DATASET := $(value DATASET)
override DATA := $(value DATA)
override ENGINE := $(value ENGINE)
override STATE := $(value STATE)
local local-down: export DATASET := $(DATASET)
local local-down: export DATA := $(DATA)
local local-down: export ENGINE := $(ENGINE)
local local-down: export STATE := $(STATE)

ready = . .venv/personalization.sh &&
# The engine that is there, or one of the run's own: the scoring image is then built and run as a container.
container_engine = CONTAINER_ENGINE=$$(python -m tools.container_engine start "$$STATE/engine") && export CONTAINER_ENGINE
stack = $(or $(STACK),$(error Name the stack: make $@ STACK=dev))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

bootstrap: ## Python environment with all packages, Pulumi CLI and Java; the other targets install their part themselves
	@$(PYTHON) tools/bootstrap.py

bootstrap-local: ## the same without what only the tests need
	@$(PYTHON) tools/bootstrap.py --for local

bootstrap-preview: ## the smallest environment: preview, up and the commands for a stack on Azure, without Spark and Java
	@$(PYTHON) tools/bootstrap.py --for preview

local: bootstrap-local ## the whole chain on this machine: DATASET=movielens|criteo DATA=path ENGINE=native|spark CONTAINER=1
	@$(ready) $(if $(CONTAINER),$(container_engine) &&) personalization local --dataset "$$DATASET" $${DATA:+--data "$$DATA"} --engine "$$ENGINE" --state "$$STATE"

local-down: bootstrap-local ## removes the run of `make local`; FORCE=1 without Pulumi
	@$(ready) personalization local-down --state "$$STATE" $(if $(FORCE),--force) && if [ -d "$$STATE/engine" ]; then \
		python -m tools.container_engine stop "$$STATE/engine"; fi

# Three workers on two cores, because much of a test is waiting for processes; tests/conftest.py says which tests stay
# together, for the sake of what they set up, and which are begun first.
test: bootstrap ## style, types and every test that needs no container engine
	@$(ready) ruff check . && ruff format --check . && mypy && pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-fast: bootstrap ## the tests that start neither Spark nor a stack
	@$(ready) pytest -m 'not stack and not spark'

test-container: bootstrap ## the scoring image, built and run for real, with a container engine of its own if none answers: ARGS='-k native'
	@$(ready) python -m tools.container_engine run pytest -m container $(ARGS)

test-browser: bootstrap ## the dashboard in an installed Chromium, which `make test` tries too where there is one
	@$(ready) pytest tests/cli/dashboard/test_browser.py

test-azure-cli: bootstrap ## Azure CLI against the sandbox, installed into the user's cache the first time
	@$(ready) python -m tools.azure_cli && pytest tests/conformance/test_azure_cli.py

preflight: bootstrap-preview ## checks region, quota, permissions and names before `make up`: STACK=dev
	@$(ready) personalization preflight --stack '$(stack)'

preview: bootstrap-preview ## what `make up` would change: STACK=dev
	@$(ready) pulumi preview --stack '$(stack)' --policy-pack policy $(ARGS)

up: bootstrap-preview ## brings a stack on Azure to what the code says: STACK=dev
	@$(ready) pulumi up --stack '$(stack)' --policy-pack policy $(ARGS)

down: bootstrap-preview ## destroys a stack on Azure and sees that nothing is left: STACK=dev
	@$(ready) personalization teardown '$(stack)' $(ARGS)

lock: bootstrap-preview ## requirements.lock again, from pyproject.toml
	@$(ready) UV_SYSTEM_CERTS=true uv pip compile --python-version 3.11 --no-emit-index-url --generate-hashes \
		--prerelease if-necessary-or-explicit --all-extras pyproject.toml -o requirements.lock

clean: ## build leftovers and tool caches; not .venv, not the state of `make local`
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
