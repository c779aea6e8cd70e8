"""Our protobuf messages are those of jina and docarray, and live beside theirs."""

from pathlib import Path

import pytest
from docarray.proto import DocProto
from google.protobuf import descriptor_pb2

from llamastream.jina import wire
from llamastream.jina.reading import document_fields
from llamastream.schema import ModelOutputDocument, PromptDocument

PROTOS = Path(wire.__file__).parent / "protos"


def test_descriptors_are_compiled_from_the_proto_files(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path / "descriptors.binpb"
    files = ("jina.proto", "docarray.proto")
    well_known = Path(protoc.__file__).parent / "_proto"
    flags = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--descriptor_set_out={out}"]
    assert protoc.main([*flags, *files]) == 0
    compiled, committed = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (out, PROTOS / "descriptors.binpb")
    )
    assert compiled == committed, "run `make protos`"


def test_docarray_reads_and_writes_the_same_bytes() -> None:
    prompt = PromptDocument(
        messages=[{"role": "user", "content": "é"}], max_tokens=5, temperature=0.5, stop=["a"]
    )
    ours = wire.SingleDocumentRequest()
    ours.document.MergeFromString(prompt.to_protobuf().SerializeToString())
    fields = document_fields(ours.document.SerializeToString())
    assert {name: value for name, value in fields.items() if value is not None} == {
        "id": prompt.id,
        "messages": [{"role": "user", "content": "é"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["a"],
    }

    ours = wire.SingleDocumentRequest()
    wire.set_fields(
        ours.document, {"id": "1" * 32, "token_id": 7, "generated_text": "🙂", "logprob": -1.5}
    )
    theirs = DocProto.FromString(ours.document.SerializeToString())
    answer = ModelOutputDocument.from_protobuf(theirs)
    assert (answer.id, answer.token_id, answer.generated_text) == ("1" * 32, 7, "🙂")
    assert (answer.logprob, answer.finish_reason) == (-1.5, None)


def test_nested_documents_are_dicts() -> None:
    call = wire.SingleDocumentRequest()
    turn = call.document.data["messages"].doc_array.docs.add()
    wire.set_fields(turn, {"role": "user", "content": "Hi"})
    wire.set_fields(call.document.data["inner"].doc, {"a": 1})
    assert document_fields(call.document.SerializeToString()) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "inner": {"a": 1},
    }


def test_tensors_and_deep_nesting_are_refused() -> None:
    call = wire.SingleDocumentRequest()
    call.document.data["tensor"].ndarray.dense.dtype = "f4"
    with pytest.raises(ValueError, match="tensors"):
        document_fields(call.document.SerializeToString())
    deep = wire.SingleDocumentRequest()
    node = deep.document.data["a"]
    for _ in range(20):
        node = node.list.data.add()
    node.text = "x"
    with pytest.raises(ValueError, match="deep"):
        document_fields(deep.document.SerializeToString())


def test_fields_of_the_last_document_do_not_stay() -> None:
    call = wire.SingleDocumentRequest()
    wire.set_fields(call.document, {"token_id": 1, "generated_text": "a", "logprob": -0.5})
    wire.set_fields(call.document, {"token_id": 2, "generated_text": "b"})
    assert document_fields(call.document.SerializeToString()) == {
        "token_id": 2,
        "generated_text": "b",
    }
