# Jina's packages live in an environment of their own: they pin grpcio, uvicorn and setuptools.
JINA_BIN := .venv-jina/bin

.PHONY: jina-env test-jina protos

jina-env: $(STAMPS)/jina

test-jina: $(STAMPS)/test $(STAMPS)/jina
	$(BIN)/pytest tests/jina tests/server/jina tests/test_schema.py $(ARGS)

# The descriptors of Jina's wire, from the .proto files beside them.
protos: $(STAMPS)/test
	cd src/llamastream/server/jina/protos && $(abspath $(BIN))/python -m grpc_tools.protoc -I. \
	  --descriptor_set_out=descriptors.binpb jina.proto docarray.proto

$(STAMPS)/jina: pyproject.toml constraints-jina.txt $(CORE)
	$(PYTHON) -m venv .venv-jina
	$(JINA_BIN)/pip install --quiet --upgrade pip
	$(JINA_BIN)/pip install --constraint constraints-jina.txt --editable '.[jina]'
	@mkdir -p $(STAMPS) && touch $@
