# Two commands do everything on a bare machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JINA_BIN := .venv-jina/bin
RAY_BIN := .venv-ray/bin
CLIENTS_BIN := .venv-clients/bin
STAMPS := .make
JOBS ?= 2
GPU_SITE := .gpu-site
CORE := CMakeLists.txt $(wildcard csrc/*)
PAGE := $(wildcard web/*.* web/src/*)
NODE_OK := $(shell command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split("."); \
  console.log(a > 22 || (a == 22 && b >= 12) || (a == 20 && b >= 19) ? "yes" : "")' 2>/dev/null)

.PHONY: help serve web chat test test-jina test-ray test-clients cluster-demo test-gpu soak check format demo-model core protos pictures clean

help:
	@echo "make serve   build, fetch the demo model, serve it   (ARGS='--port 9000 --model ...')"
	@echo "make web     the chat page alone (Node.js 20.19 or later; serve and test do it too)"
	@echo "make chat    a conversation in the terminal"
	@echo "make test    lint, types and all tests"
	@echo "make check   the same without the slow tests"
	@echo "make test-gpu    the GPU runner, without a GPU under Triton's interpreter"
	@echo "make soak    streams under failures   (SCENARIO=kill|calls|reader|rst|half-open|slow|postgres|hang|disk|takeover|... ROUNDS=20)"
	@echo "make cluster-demo   three replicas on two Ray nodes here; one is killed under a stream"
	@echo "make test-ray    the service under Ray Serve, in an environment of its own"
	@echo "make test-clients   SDKs and agents of others, unmodified, in an environment of their own (1 GB)"
	@echo "make test-jina   the unmodified jina client and executor, in their own environment"

# Without the page the service is whole but for `/`, which then says how to build it.
serve: $(STAMPS)/install
	@$(MAKE) --no-print-directory web || echo "The chat page is not built; the API works without it."
	$(BIN)/llamastream serve $(ARGS)

chat: $(STAMPS)/install
	$(BIN)/llamastream chat $(ARGS)

ifeq ($(NODE_OK),yes)
web: $(STAMPS)/web
else
web:
	@echo "No chat page: building it needs Node.js 20.19 or 22.12 or later, with npm."
endif

# A page that does not build is an error; a machine that cannot fetch what builds it is not.
test: $(STAMPS)/test demo-model
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
ifeq ($(NODE_OK),yes)
	@$(MAKE) --no-print-directory $(STAMPS)/node_modules || echo "The chat page is not built, so its tests are skipped."
	if [ -e $(STAMPS)/node_modules ]; then $(MAKE) --no-print-directory web && cd web && npm test; fi
endif
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

test-jina: $(STAMPS)/test $(STAMPS)/jina
	$(BIN)/pytest tests/jina tests/jina_wire tests/test_schema.py $(ARGS)

# Needs PostgreSQL's programs. Ray is 500 MB and pins much: an environment of its own.
cluster-demo: $(STAMPS)/ray demo-model
	$(RAY_BIN)/python -m tests.ray.demo

test-ray: $(STAMPS)/ray demo-model
	$(RAY_BIN)/pytest tests/ray $(ARGS)

# Needs Node.js.
test-clients: $(STAMPS)/test $(STAMPS)/clients
	$(CLIENTS_BIN)/pytest -c tests/clients/pytest.ini tests/clients $(ARGS)

# Triton is 180 MB and its interpreter needs an older numpy: both stand apart from the environment.
test-gpu: $(STAMPS)/test $(STAMPS)/gpu
	PYTHONPATH=$(GPU_SITE) $(BIN)/python -m pytest tests/gpu $(ARGS)

# Streams under failures: kill, reader, rst, half-open, slow, postgres, hang, disk, or all of them.
SCENARIO ?= all
soak: $(STAMPS)/test
	$(BIN)/python -m tests.soak --scenario $(SCENARIO) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

check: $(STAMPS)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/pytest -m "not slow and not demo" $(ARGS)

format: $(STAMPS)/test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

demo-model: $(STAMPS)/install
	$(BIN)/llamastream models pull demo

# The C++ core alone, beside its Python, for work on csrc/.
core: $(STAMPS)/test
	cmake -S . -B build/dev -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) \
	  -DPython_EXECUTABLE=$(abspath $(BIN))/python
	cmake --build build/dev -j2
	ln -sf $(CURDIR)/build/dev/_core*.so src/llamastream/engine/

# The descriptors of Jina's wire, from the .proto files beside them.
protos: $(STAMPS)/test
	cd src/llamastream/jina/protos && $(abspath $(BIN))/python -m grpc_tools.protoc -I. \
	  --descriptor_set_out=descriptors.binpb jina.proto docarray.proto

# The page's pictures in docs/images, from a real server with the demo in the Chromium that is installed.
pictures: $(STAMPS)/test web demo-model
	$(BIN)/python -m tests.page.screenshots

clean:
	rm -rf $(VENV) .venv-* $(GPU_SITE) $(STAMPS) build web/node_modules src/llamastream/api/web

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/install: $(STAMPS)/venv pyproject.toml constraints.txt $(CORE)
	$(BIN)/pip install --constraint constraints.txt --editable .
	@touch $@

$(STAMPS)/node_modules: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/web: $(STAMPS)/node_modules $(PAGE)
	cd web && npm run build
	@touch $@

$(STAMPS)/test: $(STAMPS)/install
	$(BIN)/pip install --constraint constraints.txt --group test
	@touch $@

# Jina's packages pin grpcio, uvicorn and setuptools, so they live in an environment of their own.
$(STAMPS)/jina: pyproject.toml constraints-jina.txt $(CORE)
	$(PYTHON) -m venv .venv-jina
	$(JINA_BIN)/pip install --quiet --upgrade pip
	$(JINA_BIN)/pip install --constraint constraints-jina.txt --editable '.[jina]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/ray: pyproject.toml constraints-ray.txt $(CORE)
	$(PYTHON) -m venv .venv-ray
	$(RAY_BIN)/pip install --quiet --upgrade pip
	$(RAY_BIN)/pip install --constraint constraints-ray.txt --editable '.[ray,postgres]' psutil pytest pytest-asyncio
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/clients: constraints-clients.txt tests/clients/js/package-lock.json
	$(PYTHON) -m venv .venv-clients
	$(CLIENTS_BIN)/pip install --quiet --upgrade pip
	$(CLIENTS_BIN)/pip install --requirement constraints-clients.txt
	cd tests/clients/js && npm ci --no-audit --no-fund
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/gpu: constraints-gpu.txt | $(STAMPS)/venv
	$(BIN)/pip install --no-deps --upgrade --target $(GPU_SITE) --requirement constraints-gpu.txt
	@touch $@
