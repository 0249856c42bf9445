# make run | test | bench | check | venv
PYTHON ?= python3.11
PORT ?= 8888
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export PYTHONDONTWRITEBYTECODE :=
export NUMBA_CACHE_DIR ?= $(CURDIR)/.workbench/numba

# File by file, in the order of their names, which ends with short ones. Plugins that only notebooks and one test use
# cost every process two seconds.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder -p no:nbval -p no:schemathesis

.PHONY: run test bench check venv lock clean

run: $(READY)
	$(BIN)/workbench serve --demo --port $(PORT) --data-dir .workbench --log-level warning

test: $(READY)
	$(BIN)/python -m tests.requirements
	$(BIN)/python -m pytest $(PARALLEL) --ignore=tests/browser tests
	$(BIN)/python -m pytest $(PARALLEL) tests/browser
	$(BIN)/python -m pytest -q --nbval-lax --nbval-current-env notebooks

bench: $(READY)
	$(BIN)/python -m benchmarks

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

venv: $(READY)

# The lock holds every package with its hashes, so the resolver has nothing to decide.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is missing; install it (Debian: apt-get install python3) or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Installing Debian's python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv; } || { echo "Python's venv module is missing; install it: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

# For maintainers: resolve again and write the lock (needs uv).
lock:
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade -p 3.11 -q -o requirements.lock

clean:
	rm -rf $(VENV) .workbench build dist
