# Everything one does with a checkout. `make` alone lists it. Each target sets up .venv first, which costs nothing when
# the lock file and pyproject.toml have not changed. PYTHON=… chooses the interpreter of a new .venv (`make clean` removes one),
# else the fastest that is found is taken; ARGS=… is handed on.

.DEFAULT_GOAL := help
.PHONY: help setup run check format test bench bench-peers soak docs prices image-check lock clean

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv with everything in requirements-dev.lock; afterwards .venv/bin/penstock is the command
	@:

run: setup  ## serve on :4000 with config.yaml
	@exec $(BIN)/penstock --config config.yaml $(ARGS)

check: setup  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## put the code into its shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup  ## all tests, with a real Redis and a real Postgres that they start themselves
	$(BIN)/python -m pytest -q --numprocesses 4 --dist worksteal $(ARGS)

bench: setup  ## what the gateway costs beside nginx and plain aiohttp, in five minutes (bench/README.md)
	$(BIN)/python -m bench.run $(ARGS)

bench-peers: setup  ## every case, and LiteLLM and Portkey too, which it installs into .peers/ (45 minutes)
	$(BIN)/python -m bench.run --whole $(ARGS)

soak: setup  ## an hour of requests and streams, with memory and lag over time
	$(BIN)/python -m bench.soak $(ARGS)

docs: setup  ## write the pages that are made from the code
	$(BIN)/python -m docs.build

prices: setup  ## build the price table again from its sources
	$(BIN)/python -m gateway.data.build $(ARGS)

image-check: setup  ## carry out the Dockerfile without a container engine and look at what it makes
	$(BIN)/python -m deploy.check_image $(ARGS)

lock: setup  ## resolve pyproject.toml into the lock files (ARGS=--upgrade for newer versions; asks the package index)
	$(COMPILE) pyproject.toml --all-extras --output-file requirements.lock $(ARGS)
	$(COMPILE) --group build --constraint requirements.lock --output-file requirements-build.lock $(ARGS)
	$(COMPILE) pyproject.toml --group dev --constraint requirements.lock --constraint requirements-build.lock \
		--output-file requirements-dev.lock $(ARGS)

clean:  ## remove what the other targets made; the next one sets up from nothing
	rm -rf .venv .peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find bench/results -name '*.json' ! -name 'reference.json' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An interrupted set-up leaves no .ready, and a .venv without pip is made again.
$(READY): requirements-dev.lock pyproject.toml gateway/__init__.py
	@set -e; \
	for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Penstock needs Python 3.11 or newer$(if $(PYTHON), ($(PYTHON) is none)): install python3.11, or say where it is: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		if [ -z "$(PYTHON)" ] && faster=$$("$$found" bench/interpreter.py); then found=$$faster; fi; \
		echo "Making .venv with $$("$$found" --version)"; \
		"$$found" -m venv --clear .venv; \
	fi
	@echo "Installing requirements-dev.lock"
	@$(PIP) install -qq --require-hashes -r requirements-dev.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
