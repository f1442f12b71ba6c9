# Everything that one types in this repository. It makes its own environment in .venv, from requirements.lock.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
UV := $(or $(shell command -v uv 2>/dev/null),$(VENV)/uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help demo up test lint check openapi lock

help: ## say what can be typed
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(INSTALLED) ## purify a really backdoored CIFAR-10 model, start to verdict
	$(BIN)/redeem demo

up: $(INSTALLED) ## run the API, a worker and their queue on this machine
	$(BIN)/redeem serve

test: $(INSTALLED) ## run the tests
	$(BIN)/pytest -n 2 --dist loadfile  # torch has one thread in each

lint: $(INSTALLED) ## fix what can be fixed: imports, simplifications, layout
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: $(INSTALLED) ## lint, layout, types and import contracts; writes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

openapi: $(INSTALLED) ## write docs/openapi.json anew from the routes
	$(BIN)/python -m service.openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

lock: $(UV) ## write requirements.lock anew from pyproject.toml, keeping versions that still fit
	$(UV) --no-config pip compile pyproject.toml --extra service --extra postgres --extra otel --extra worker --extra dev \
	  --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --custom-compile-command 'make lock' --quiet --output-file requirements.lock

# Compiled at once: a server starts Python for every job, and where nothing may be written each would compile torch and us.
$(INSTALLED): requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11' $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	$(BIN)/python -m compileall -q redeem service worker
	@touch $@

$(VENV)/uv/bin/uv:
	@python3 -m venv $(VENV)/uv || { rm -rf $(VENV)/uv; \
	  echo 'Cannot make a virtual environment. On Debian: apt install python3-venv. Or put uv on the PATH.' >&2; exit 1; }
	$(VENV)/uv/bin/pip install --quiet uv
