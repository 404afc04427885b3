# `make demo` and `make test` need nothing but Python 3.11 and pip; the rest needs nothing more but npx for buf.
PYTHON ?= python3.11
BIN := .venv/bin
PROTOS := $(wildcard protos/outrider/v1/*.proto)
INSTALL := pip install --quiet --disable-pip-version-check
BUILD_TOOLS := hatchling editables
RESOLVE := --quiet --no-header --no-annotate --python-version 3.11 --extra dev pyproject.toml
# In the order of tests/conftest.py, which puts the longest files first.
PYTEST := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The torch of the lock: the newest that the whole suite passed with.
LOCKED_TORCH := torch==2.13.0

.PHONY: demo test check proto lock test-newest test-oldest clean

demo: .venv/chat-model
	$(BIN)/outrider-server demo

test: .venv/dev
	$(BIN)/python $(PYTEST)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	@if command -v npx >/dev/null; then $(BIN)/python protos/generate.py --image .venv/protos.binpb \
	&& npx --yes @bufbuild/buf@1.75.0 lint .venv/protos.binpb --config protos/buf.yaml; \
	else echo "skipped: buf lint (npx is not installed)"; fi

proto: .venv/dev
	$(BIN)/python protos/generate.py

# What is installed is what was last tested: the versions in constraints.txt.
.venv/engine: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) --constraint constraints.txt $(BUILD_TOOLS)
	$(BIN)/$(INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[engine]'
	$(BIN)/outrider-server kernels || true
	@touch $@

# Without it the bundled pair is served. What could not be installed is tried again by the next `make demo`.
.venv/chat-model: .venv/engine services/outrider_server/models/chat_model.txt
	$(BIN)/outrider-server chat-model && touch $@ || true

.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) --constraint constraints.txt $(BUILD_TOOLS)
	$(BIN)/$(INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@ .venv/engine

# Renews the lock: the newest of everything that pyproject.toml admits, but for torch. Then `make test`.
lock: .venv/dev
	echo '$(LOCKED_TORCH)' | $(BIN)/uv pip compile $(RESOLVE) --universal --upgrade --constraint - > constraints.new
	mv constraints.new constraints.txt

# The suite with the newest, and with the oldest, of everything that pyproject.toml admits.
test-newest:
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/$(INSTALL) --editable '.[dev]'
	.venv-newest/bin/python $(PYTEST)

test-oldest: .venv/dev
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(BIN)/uv pip compile $(RESOLVE) --resolution lowest-direct > .venv-oldest/constraints.txt
	.venv-oldest/bin/$(INSTALL) --constraint .venv-oldest/constraints.txt --editable '.[dev]'
	.venv-oldest/bin/python $(PYTEST)

clean:
	rm -rf .venv .venv-* dist build
