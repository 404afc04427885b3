# `make demo` and `make test` need nothing but Python 3.11 and pip; the rest needs nothing more but npx for buf.
PYTHON ?= python3.11
BIN := .venv/bin
PROTOS := $(wildcard protos/outrider/v1/*.proto)

.PHONY: demo test check proto clean

demo: .venv/engine
	$(BIN)/outrider-server demo

test: .venv/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	@if command -v npx >/dev/null; then cd protos && npx --yes @bufbuild/buf@1.75.0 lint; \
	else echo "skipped: buf lint (npx is not installed)"; fi

proto: .venv/dev
	$(BIN)/python protos/generate.py

.venv/engine: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[engine]'
	@touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ .venv/engine

clean:
	rm -rf .venv dist build
