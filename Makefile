# Everything needs only make and a Python of at least 3.11; the rest is installed into .venv.
#
#   make help     print this
#   make serve    start the server     make serve SERVE_ARGS="--port 8021"
#   make test     run the tests        make test PYTEST_ARGS="tests/config -x"
#   make lint     what must be clean before a change is merged
#   make bench    run the benchmarks   make bench BENCH_ARGS="acquire --quick"
#   make soak     break a database at random for a while     make soak SEED=1 MINUTES=15
#   make soak-operations          the same for two workers and their operations
#   make clean    remove .venv and caches

PYTHON ?= python3
# most tests wait more than they compute: three at a time keep two cores busy
PYTEST_ARGS ?= -n 3
SERVE_ARGS ?=
BENCH_ARGS ?=
SEED ?=
MINUTES ?= 10

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE := src tests $(wildcard benchmarks examples scripts)

.PHONY: serve help test lint format bench soak soak-operations clean outdated
.DELETE_ON_ERROR:

serve: .venv/.installed-server
	@exec $(BIN)/poolkeeper serve $(SERVE_ARGS)

help:
	@sed -n -e '/^#/!q' -e 's/^# \{0,1\}//p' Makefile

test: .venv/.installed-dev
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: .venv/.installed-dev
	@exec $(BIN)/python -m benchmarks $(BENCH_ARGS)

soak: .venv/.installed-dev
	@exec $(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

soak-operations: .venv/.installed-dev
	@exec $(BIN)/python -m tests.operations.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment knows its own path: one that was copied or moved along with its checkout would run
# the code of the old place. One whose Python was uninstalled runs nothing.
ifneq ($(shell test -x $(BIN)/python && cat .venv/.home),$(CURDIR))
.venv/.home: outdated
endif

.venv/.home:
	@rm -rf .venv; \
	for python in '$(PYTHON)' python3.14 python3.13 python3.12 python3.11; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    found=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "Creating .venv with $$("$$python" --version)"; \
	    "$$python" -m venv .venv >&2 && printf '%s\n' '$(CURDIR)' > $@ && exit 0; \
	    rm -rf .venv; exit 1; \
	done; \
	if [ -n "$${found:-}" ]; then \
	    echo "$$found has no venv module. Suggestion: on Debian or Ubuntu run: apt-get install python3-venv" >&2; \
	else \
	    echo "No Python of at least 3.11 found ($$('$(PYTHON)' --version 2>&1 | head -n 1))." \
	        "Suggestion: install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	fi; \
	exit 1

.venv/.installed-server: .venv/.home pyproject.toml
	@echo 'Installing poolkeeper and its server into .venv (once)'
	@$(PIP) --editable '.[server]'
	@touch $@

.venv/.installed-dev: .venv/.home pyproject.toml
	@echo 'Installing poolkeeper and its development tools into .venv (once)'
	@$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed-server
