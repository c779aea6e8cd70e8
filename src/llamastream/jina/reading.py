"""What a client sent, a jina.SingleDocumentRequestProto, as plain Python values.

protobuf's own parser makes an object of everything at once: of 16 MiB a gigabyte, and Python's lock
is held for seconds. This one makes nothing of what is not asked for, stops at a number of values,
and lets other threads run meanwhile. It writes nothing and knows no descriptors: field numbers are
those of jina.proto and docarray.proto, the encoding is protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

MAX_DEPTH = 8  # a document inside a document inside ...: messages need two
MAX_FIELDS = 2**17  # of all messages inside of one: ten thousand turns of a conversation
# Steps to a document's `api_key`, which are gone before the key is known: three a field.
MAX_FIELDS_TO_KEY = 2**10

Content = int | memoryview
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# docarray.NodeProto
TEXT, INTEGER, FLOAT, BOOLEAN, BLOB, NDARRAY, DOC, DOC_ARRAY, LIST, SET, TUPLE, DICT = range(1, 13)
NODE = dict.fromkeys(range(TEXT, DICT + 1), BYTES) | {
    INTEGER: VARINT,
    BOOLEAN: VARINT,
    FLOAT: FIXED64,
}
NOTHING = memoryview(b"")


class Call(NamedTuple):
    request_id: str
    endpoint: str
    document: memoryview  # for `document_fields`


def read_call(message: bytes, max_fields: int = MAX_FIELDS) -> Call:
    """Raises ValueError for what is no such message."""
    reading = _Reading(max_fields)
    found = reading.by_number(memoryview(message), {1: BYTES, 4: BYTES})
    header = reading.by_number(_bytes(found.get(1, NOTHING)), {1: BYTES, 3: BYTES})
    return Call(
        request_id=_text(header.get(1, NOTHING)),
        endpoint=_text(header.get(3, NOTHING)),
        document=_bytes(found.get(4, NOTHING)),
    )


def document_fields(
    document: memoryview | bytes,
    names: Collection[str] | None = None,
    max_fields: int = MAX_FIELDS,
) -> dict[str, object]:
    """The fields of a docarray.DocProto, of `names` if given, as None, str, int, float, bool,
    bytes, list or dict. A nested document is a dict.

    Raises ValueError for what is none, tensors, deep nesting and too many values.
    """
    return _Reading(max_fields).document(memoryview(document), names, 0)


class _Reading:
    """Counts what it meets."""

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._num_fields = 0

    def by_number(self, message: memoryview, wanted: dict[int, int]) -> dict[int, Content]:
        """The last content of each field of a message, of those `wanted`, which have this type."""
        return {number: content for number, content in self._fields(message, wanted)}

    def document(
        self, document: memoryview, names: Collection[str] | None, depth: int
    ) -> dict[str, object]:
        nodes: dict[str, memoryview] = {}
        for _, entry in self._fields(document, {1: BYTES}):
            parts = self.by_number(_bytes(entry), {1: BYTES, 2: BYTES})
            name = _text(parts.get(1, NOTHING))
            if names is None or name in names:
                nodes[name] = _bytes(parts.get(2, NOTHING))
        return {name: self._value(node, depth) for name, node in nodes.items()}

    def _value(self, node: memoryview, depth: int) -> object:
        found = list(self._fields(node, NODE))
        if not found:
            return None
        kind, content = found[-1]
        if isinstance(content, int):
            return content != 0 if kind == BOOLEAN else _signed(content)
        if kind == FLOAT:
            return float(struct.unpack("<d", content)[0])
        if kind in (TEXT, BLOB):
            return _text(content) if kind == TEXT else bytes(content)
        return self._values(kind, content, depth + 1)

    def _values(self, kind: int, content: memoryview, depth: int) -> object:
        if kind == NDARRAY:
            raise ValueError("tensors are not accepted")
        if depth > MAX_DEPTH:
            raise ValueError(f"documents may be nested {MAX_DEPTH} deep at most")
        if kind in (DOC, DICT):
            return self.document(content, None, depth)
        items = (_bytes(item) for _, item in self._fields(content, {1: BYTES}))
        if kind == DOC_ARRAY:
            return [self.document(item, None, depth) for item in items]
        return [self._value(item, depth) for item in items]

    def _fields(self, message: memoryview, wanted: dict[int, int]) -> Iterator[tuple[int, Content]]:
        """Number and content of those fields that are `wanted` and have the type they should."""
        at = 0
        while at < len(message):
            self._num_fields += 1
            if self._num_fields > self._max_fields:
                raise ValueError(f"it must hold <= {self._max_fields} fields. Given: more")
            tag, at = _varint(message, at)
            number, wire_type = tag >> 3, tag & 7
            content: Content
            if wire_type == VARINT:
                content, at = _varint(message, at)
            elif wire_type in (BYTES, FIXED64, FIXED32):
                size = 4 if wire_type == FIXED32 else 8
                if wire_type == BYTES:
                    size, at = _varint(message, at)
                content, at = message[at : at + size], at + size
            else:
                raise ValueError(f"a field has the type {wire_type}, which protobuf has not")
            if at > len(message):
                raise ValueError("it ends in the middle of a field")
            if wanted.get(number) == wire_type:
                yield number, content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where it ends."""
    if at < len(message) and message[at] < 0x80:  # nearly all of them
        return message[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number has more than 64 bits")


def _signed(value: int) -> int:
    """An int32, which is sent as 64 bits with its sign."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _bytes(content: Content) -> memoryview:
    assert isinstance(content, memoryview)  # it was asked for as bytes
    return content


def _text(content: Content) -> str:
    try:
        return str(_bytes(content), "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: its byte {error.start} is invalid") from None
