# `make run` and `make test` need nothing but python3 >= 3.11: each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TESTS_AT_ONCE ?= 3
COVERAGE := .cache/coverage
# Per cent of lines and branches; the goal is 98 for both. What `make test` reports may be written here.
STORAGE_COVERED := 98
SERVER_COVERED := 96
PIP := -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test check format wheel fuzz faults soak bench lock audit

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the packages that requirements.lock pins, and this project, into .venv

run: setup ## Serve http://127.0.0.1:8000 with the embedded store in data/
	@$(BIN)/playhead serve --data-dir data

test: setup ## Run the tests, TESTS_AT_ONCE files at a time (3), and require the branches that they must cover
	@rm -rf $(COVERAGE) && mkdir -p $(COVERAGE)
	@$(BIN)/coverage run -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include 'protocol/*' --fail-under 100
	@$(BIN)/coverage report --include 'storage/*' --fail-under $(STORAGE_COVERED)
	@$(BIN)/coverage report --include 'server/*' --fail-under $(SERVER_COVERED)

check: setup ## Lint, and check format, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.browser.check_types

format: setup ## Format the code, and apply ruff's fixes
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# setuptools leaves build/ behind, and would put modules that have since been renamed into the next wheel.
wheel: setup ## Build the wheel into dist/
	@rm -rf build dist
	@$(BIN)/python $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build

fuzz: setup ## Search for inputs that break a promise, for FUZZ_SECONDS (600)
	@$(BIN)/python -m tests.fuzz

soak: setup ## Connect and disconnect clients for SOAK_SECONDS (1800), and check that nothing is left behind
	@$(BIN)/python -m tests.soak

faults: setup ## Inject faults into real processes, half an hour or more; FAULTS="--short", "--only <case>", "--out <file>"
	@$(BIN)/python -m tests.faults $(FAULTS)

bench: setup ## Measure for about twelve minutes, and write bench/RESULTS.md; BENCH="--quick" or "--only <case>"
	@$(BIN)/python $(PIP) install --require-hashes -r bench/requirements.lock
	@$(BIN)/python -m bench $(BENCH)

# Without an index address or a path in it, the lock serves any mirror and any machine.
lock: ## Update requirements.lock and bench/requirements.lock, with hashes, for each platform and python >= 3.11
	@$(PYTHON) -m venv .cache/lock
	@.cache/lock/bin/python $(PIP) install uv
	@.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra dev \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements.lock pyproject.toml
	@.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra bench \
		--constraints requirements.lock \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file bench/requirements.lock pyproject.toml

# --strict: a package that the database does not know is a failure; a mirror of the index may have no database.
audit: ## Look up known vulnerabilities of the packages that requirements.lock pins
	@$(PYTHON) -m venv .cache/audit
	@.cache/audit/bin/python $(PIP) install pip-audit
	@.cache/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock \
		|| { echo 'make audit: a package is vulnerable or could not be looked up; see above' >&2; exit 1; }

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo 'Playhead needs python3 3.11 or newer; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo 'Setting up .venv (once, about a minute)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) install --require-hashes -r requirements.lock
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
