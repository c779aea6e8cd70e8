# Two commands do everything on a bare machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .make
CORE := CMakeLists.txt $(wildcard csrc/*)

.PHONY: help serve chat test check format demo-model clean

help:
	@echo "make serve   build, fetch the demo model, serve it   (ARGS='--port 9000 --model ...')"
	@echo "make chat    a conversation in the terminal"
	@echo "make test    lint, types and all tests"
	@echo "make check   the same without the slow tests"

serve: $(STAMPS)/install
	$(BIN)/llamastream serve $(ARGS)

chat: $(STAMPS)/install
	$(BIN)/llamastream chat $(ARGS)

test: $(STAMPS)/test demo-model
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/pytest $(ARGS)

check: $(STAMPS)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/pytest -m "not slow and not demo" $(ARGS)

format: $(STAMPS)/test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

demo-model: $(STAMPS)/install
	$(BIN)/llamastream models pull demo

clean:
	rm -rf $(VENV) .venv-* $(STAMPS) build

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/install: $(STAMPS)/venv pyproject.toml constraints.txt $(CORE)
	$(BIN)/pip install --constraint constraints.txt --editable .
	@touch $@

$(STAMPS)/test: $(STAMPS)/install
	$(BIN)/pip install --constraint constraints.txt --group test
	@touch $@
