# Needs git, make and Python 3.11 or later; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin

# Each level installs its own list and those of the levels before it.
RUN_LISTS := requirements.txt requirements-idempotency.txt requirements-run.txt
TEST_LISTS := $(RUN_LISTS) requirements-traces.txt requirements-test.txt
CHECK_LISTS := $(TEST_LISTS) requirements-check.txt requirements-clients.txt
INSTALLED := .venv/installed

.PHONY: run speedups test check check-speedups soak bench screenshots agents lock lock-node clean

# Runs the gateway on http://localhost:8000 with its own PostgreSQL, in the foreground until Ctrl-C.
run: $(INSTALLED)-run
	@exec $(BIN)/python -m app.dev --die-with-parent

# Compiles the path for streamed events, which the next start uses. This needs a C compiler and Python's headers.
speedups: $(INSTALLED)-run
	@$(BIN)/python speedups/build.py

# Six processes for two cores, because the tests wait as long as they compute; the longest tests start first
# (tests/support/distribution.py). ARGS are passed to pytest: make test ARGS="-n 0 -k stream -x" uses one process.
# Byte code is kept even if the environment forbids it, or each of hundreds of processes would compile its modules.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder
test: $(INSTALLED)-test
	$(PYTEST) $(ARGS)

# Everything that CI runs, except the long tests.
check: $(INSTALLED)-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(ARGS)

# The tests of streams once more, on the compiled path. The debug allocator detects writes out of bounds.
check-speedups: $(INSTALLED)-test speedups
	COMPILED_EVENTS=true PYTHONMALLOC=debug $(PYTEST) tests/test_speedups.py tests/soak/test_speedups.py \
		tests/services/streaming tests/upstream/test_ready_sockets.py tests/faults \
		tests/routes/test_chat_streaming.py tests/routes/test_chat_stream_faults.py tests/routes/test_chat_tls.py \
		$(ARGS)

# First, several at a time, the tests that need many processes or the browser, of which `make test` has a short form
# (soak_only in tests/support/soak.py), and all properties at full counts. Then the long tests at full counts, one after
# the other, because some measure. `make test` runs properties at a fifth, and most long tests at a tenth.
MEASURED := soak
soak: $(INSTALLED)-test
	SOAK=1 $(PYTEST) -n 3 -m "(soak_only or long_form or hypothesis) and not $(MEASURED)" $(ARGS)
	SOAK=1 $(BIN)/python -m pytest -m "$(MEASURED)" $(ARGS)

bench: $(INSTALLED)-run
	$(BIN)/python -m benchmarks $(ARGS)

# Takes screenshots of all pages for review, into var/screenshots, and those of the documents, into docs/img. This needs
# Chromium; ARGS can name some of the pages.
screenshots: $(INSTALLED)-check
	$(BIN)/python -m tests.dashboard.screenshots $(ARGS)

# Installs the command-line agents that tests/clients runs. They take 800 MB, so the tests do not fetch them themselves.
agents:
	mkdir -p var/cli
	cp tests/clients/cli/package.json tests/clients/cli/package-lock.json var/cli
	npm ci --prefix var/cli --ignore-scripts --no-audit --no-fund

# Pins the newest versions that pyproject.toml allows, without the address of an index. pip-compile resolves a level
# together with those before it and keeps their pins (--constraint); awk removes the packages that they already list.
lock: $(INSTALLED)-run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	rm -f requirements*.txt
	$(LOCK) --output-file requirements.txt pyproject.toml
	$(call LOCK_LEVEL,idempotency,requirements.txt)
	$(call LOCK_LEVEL,run,requirements.txt requirements-idempotency.txt)
	$(call LOCK_LEVEL,traces,$(RUN_LISTS))
	$(call LOCK_LEVEL,test,$(RUN_LISTS) requirements-traces.txt)
	$(call LOCK_LEVEL,check,$(TEST_LISTS))
	$(call LOCK_LEVEL,clients,$(TEST_LISTS) requirements-check.txt)

LOCK = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options
LOCK_LEVEL = $(LOCK) --extra $(1) $(addprefix --constraint ,$(2)) --output-file .venv/lock.txt pyproject.toml && \
	awk 'FILENAME != ".venv/lock.txt" { pinned[$$1]; next } /^[a-z0-9]/ { known = $$1 in pinned } !known' \
	$(2) .venv/lock.txt > requirements-$(1).txt && rm .venv/lock.txt

# Pins the dependencies in each package.json of the clients for Node, without the address of a registry.
lock-node:
	for place in tests/clients tests/clients/cli; do \
		npm install --prefix $$place --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts || exit 1; \
	done

# Keeps the database of `make run` and the keys in .env.local.
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED)-run: $(RUN_LISTS)
$(INSTALLED)-test: $(TEST_LISTS)
$(INSTALLED)-check: $(CHECK_LISTS)
$(INSTALLED)-%:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing what \`make $*\` needs into .venv; this happens once and takes up to a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$^)
	@touch $@
