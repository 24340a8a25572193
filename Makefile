# Needs git, make and Python 3.11 or later; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: run test check soak bench lock clean

# The gateway on http://localhost:8000 with its own PostgreSQL, in the foreground until Ctrl-C.
run: $(INSTALLED)
	@exec $(BIN)/python -m app.dev --die-with-parent

# Three processes side by side, because the tests wait more than they compute; the files with the longest ones come
# first (tests/conftest.py). ARGS go to pytest: make test ARGS="-n 0 -k stream -x" for one process.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: $(INSTALLED)
	$(PYTEST) $(ARGS)

# What CI runs besides the long proofs.
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(ARGS)

# The long proofs at full counts; `make test` runs the same ones at about a tenth.
soak: $(INSTALLED)
	SOAK=1 $(BIN)/python -m pytest -m soak $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(ARGS)

# Pins the newest versions that pyproject.toml allows; where they are fetched from is not written down.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	rm -f requirements.txt requirements-dev.txt
	$(LOCK) --output-file requirements.txt pyproject.toml
	$(LOCK) --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml

LOCK = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

# The database of `make run` and the keys in .env.local stay.
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# requirements-dev.txt holds what requirements.txt does, at the same versions.
$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned requirements into .venv; this happens once and takes about a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
