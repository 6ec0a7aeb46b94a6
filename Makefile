# Everything that can be done here; `make` alone lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
URL    ?= memory://
TREE   := build/tree

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types bench soak wheel clean

help: ## list what can be done
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo ## a service on a bad day, unprotected and protected, side by side (URL=redis://… for Redis)
	$(BIN)/python -m examples.shop --url $(URL)

test: lint types wheel ## lint, types and every test (but those of soak), against the built wheel, the sources out of the way
	@rm -rf $(TREE) && mkdir -p $(TREE)
	@cp -r tests examples benchmarks docs pyproject.toml README.md CHANGELOG.md Makefile $(TREE)
	$(PIP) --force-reinstall --no-deps dist/*.whl
	cd $(TREE) && ARESILIENCE_FROM_WHEEL=1 ../../$(BIN)/pytest -q -m "not redis and not slow" -n auto --dist loadscope
	cd $(TREE) && ARESILIENCE_FROM_WHEEL=1 ../../$(BIN)/pytest -q -m "redis and not slow"

check: $(VENV)/dev lint types ## lint, types and the tests that need no server, on the sources
	PYTHONPATH=. $(BIN)/pytest -q -m "not redis and not slow" -n auto --dist loadscope

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/interrogate --quiet tests

types: $(VENV)/dev
	$(BIN)/mypy
	$(BIN)/mypy tests/typing examples benchmarks

bench: $(VENV)/bench ## measure, beside the peers, and write benchmarks/RESULTS.md
	PYTHONPATH=. $(BIN)/python -m benchmarks

soak: $(VENV)/dev ## the long histories, random and with kills (SECONDS=…, 600 by default)
	PYTHONPATH=. SOAK_SECONDS=$(or $(SECONDS),600) $(BIN)/pytest -q -m slow --timeout=0

wheel: $(VENV)/dev ## build the wheel into dist/
	@rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > build.log || { cat build.log; exit 1; }
	@rm -f build.log

clean: ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the '$*' extra …"
	@$(PIP) --editable ".[$*]"
	@touch $@
