"""Our own reader of documents finds what protobuf's finds, and stops where that would not."""

import tracemalloc
from typing import Any

import pytest
from docarray.proto import DocProto
from hypothesis import given
from hypothesis import strategies as st

from llamastream.jina import wire
from llamastream.jina.reading import MAX_FIELDS, document_fields, read_call

VALUES = st.recursive(
    st.none()
    | st.text(max_size=5)
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def write(node: Any, value: object) -> None:
    """As docarray writes a field."""
    if isinstance(value, bool):
        node.boolean = value
    elif isinstance(value, str):
        node.text = value
    elif isinstance(value, int):
        node.integer = value
    elif isinstance(value, float):
        node.float = value
    elif isinstance(value, bytes):
        node.blob = value
    elif isinstance(value, list):
        node.list.SetInParent()
        for item in value:
            write(node.list.data.add(), item)
    elif isinstance(value, dict):
        node.dict.SetInParent()
        for name, item in value.items():
            write(node.dict.data[name], item)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.text(max_size=40))
def test_what_protobuf_wrote_is_read(fields: dict[str, object], request_id: str) -> None:
    call = wire.SingleDocumentRequest()
    call.header.request_id = request_id
    call.header.exec_endpoint = "/stream"
    call.parameters["unused"] = 1.5
    call.routes.add().executor = "unused"
    for name, value in fields.items():
        write(call.document.data[name], value)
    found = read_call(call.SerializeToString())
    assert (found.request_id, found.endpoint) == (request_id, "/stream")
    assert document_fields(found.document) == fields
    assert document_fields(found.document, ("a",)) == {k: v for k, v in fields.items() if k == "a"}


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = read_call(data)
        document_fields(found.document)
    except ValueError:
        pass


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_a_message_that_is_cut_is_refused(cut: int) -> None:
    call = wire.SingleDocumentRequest()
    write(call.document.data["prompt"], "x" * 60)
    with pytest.raises(ValueError, match="ends in the middle"):
        document_fields(read_call(call.SerializeToString()[:-cut]).document)


def tiny_values(size: int) -> dict[str, bytes]:
    """Messages of `size` bytes that hold as many values as they can, in different places."""
    lists = DocProto.FromString(b"")
    lists.data["prompt"].list.SetInParent()

    def field(number: int, content: bytes) -> bytes:
        length, head = len(content), bytearray([number << 3 | 2])
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        return bytes(head) + bytes([length]) + content

    def node(content: bytes) -> bytes:
        return field(4, field(1, field(1, b"prompt") + field(2, content)))

    return {
        "nulls": node(field(9, b"\x0a\x00" * (size // 2))),
        "booleans": node(field(9, b"\x0a\x02\x20\x01" * (size // 4))),
        "documents": node(field(8, b"\x0a\x00" * (size // 2))),
        "fields": field(4, b"\x0a\x00" * (size // 2)),
        "routes": b"\x1a\x00" * (size // 2),
    }


@pytest.mark.parametrize("kind", tiny_values(2).keys())
def test_a_megabyte_of_tiny_values_is_refused_and_makes_no_objects(kind: str) -> None:
    message = tiny_values(2**20)[kind]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"<= {MAX_FIELDS} fields"):
            document_fields(read_call(message).document, ("prompt",))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MAX_FIELDS  # protobuf's own parser: as much for each of a million


def test_what_is_not_asked_for_is_not_looked_into() -> None:
    call = wire.SingleDocumentRequest()
    call.document.data["tensor"].ndarray.dense.dtype = "f4"
    write(call.document.data["prompt"], "Hi")
    assert document_fields(read_call(call.SerializeToString()).document, ("prompt",)) == {
        "prompt": "Hi"
    }
