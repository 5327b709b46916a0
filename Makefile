# Every target makes or refreshes the environment it needs by itself. `make help` lists them.
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
ARGS ?=

.PHONY: help demo serve test programs e2e cluster-up cluster-down lint format generate bench bench-quick figures lock test-pythons clean-room clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(READY): requirements.lock pyproject.toml tools/bootstrap
	@sh tools/bootstrap $(PYTHON) $(VENV)

demo: $(READY) ## real texts from concurrent clients, unbatched and batched, every answer checked (about a minute)
	@$(BIN)/python -m bench.demo $(ARGS)

serve: $(READY) ## leave a server running on http://127.0.0.1:8080 (ARGS="--port 9000 --config FILE")
	@$(BIN)/dtesn-sidecar serve --host 127.0.0.1 $(ARGS)

test: lint programs ## everything that must hold before a change lands: lint, types, layers, generated files, all tests
	@$(BIN)/python -m pytest --numprocesses=auto $(ARGS)

programs: $(READY) # what the tests run beside Python: Debian packages, and a Kubernetes that is built once
	@sh tools/debian-packages prometheus:prometheus promtool:prometheus chromium:chromium libatomic.so.1:libatomic1 curl:curl
	@$(BIN)/python -m tests.cluster build

e2e: $(READY) ## the whole system on a real node: containerd, kubelet, pods of the real image (root and Linux; ARGS="-k WORDS")
	@$(BIN)/python -m tests.node $(ARGS)

cluster-up: $(READY) ## leave a Kubernetes control plane with fake nodes running on loopback (its first build takes about 8 minutes)
	@$(BIN)/python -m tests.cluster up

cluster-down: $(READY) ## end it
	@$(BIN)/python -m tests.cluster down

lint: $(READY) ## Ruff, strict mypy, import layers, generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/generate.py --check
	@$(BIN)/python -m bench.report --check

format: $(READY) ## let Ruff fix and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: $(READY) ## write every generated file again
	@$(BIN)/python tools/generate.py
	@$(BIN)/python -m tests.cluster.chart_readme

bench: $(READY) ## the whole benchmark with its target table (about 40 minutes; ARGS=--save keeps figures and curves)
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(READY) ## a short pass over every section, for a smoke test and not for figures (about 4 minutes)
	@$(BIN)/python -m bench --quick $(ARGS)

figures: $(READY) ## write README's table of figures from docs/bench/*.json
	@$(BIN)/python -m bench.report

lock: $(READY) ## resolve requirements.lock again from pyproject.toml, with hashes and for every supported Python
	@$(BIN)/python tools/lock.py $(ARGS)

test-pythons: programs ## lint and tests in Python 3.11, 3.12 and 3.13; a missing interpreter is a failure
	@sh tools/test-pythons $(ARGS)

clean-room: ## prove `make demo` and `make test` on a bare Debian 12 (root, debootstrap)
	@sh tools/clean-room $(ARGS)

clean: ## remove environments, caches and benchmark output
	@rm -rf .venv .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/out build dist
