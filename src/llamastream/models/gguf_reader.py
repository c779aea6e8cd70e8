"""The header of a GGUF file: its keys and where its tensors lie.

Knows nothing of what the keys mean. The invariant: a length that the file states is compared with
what is left of the file before anything is made of it, so a damaged one costs an error and no
memory. (The `gguf` package's reader makes several arrays of each string: 30 s for Llama 3's
vocabulary.) Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llamastream.errors import ModelError, reading
from llamastream.models.gguf_file import MAGIC

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_TENSORS = 2**20  # of which a header is read for each; the largest models have thousands
MAX_DEPTH = 4  # of arrays in arrays, which nobody writes
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


class GGUFTensor(NamedTuple):
    """`dtype` is ggml's name of it. `shape` has the rows first; `offset` counts from the file's
    start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class GGUFHeader(NamedTuple):
    """Bytes of strings that are no UTF-8 are kept as lone surrogates (PEP 383)."""

    metadata: dict[str, Any]
    tensors: tuple[GGUFTensor, ...]


def read_gguf(file: Path) -> GGUFHeader:
    """Raises ModelError for a file that is not whole, or not GGUF."""
    with reading(file), file.open("rb") as stream:
        return _Reader(file, stream).read()


class _Reader:
    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self._file = file
        self._stream = stream
        self._size = stream.seek(0, 2)
        stream.seek(0)

    def read(self) -> GGUFHeader:
        magic = self._stream.read(4)
        if magic != MAGIC:
            raise ModelError(
                f"{self._file} is not a GGUF file: it starts with {magic!r}, not {MAGIC!r}."
            )
        version = self._number("I")
        if version not in VERSIONS:
            kind = "of a big-endian machine" if not version % 2**16 else f"of version {version}"
            raise ModelError(
                f"{self._file} is a GGUF file {kind}; known are versions 2 and 3, little-endian. "
                "Convert the model again with a present llama.cpp."
            )
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._fits(num_keys, 13, "keys")):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"it has the key {key[:80]!r} twice")
            metadata[key] = self._value(self._number("I"), 0)
        self._fits(num_tensors, 24, "tensors")
        if num_tensors > MAX_TENSORS:
            raise self._damaged(f"it states {num_tensors} tensors")
        found = [self._tensor() for _ in range(num_tensors)]
        return GGUFHeader(metadata, self._placed(found, metadata))

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY or depth == MAX_DEPTH:
            raise self._damaged(f"it has a value of the unknown type {kind}")
        item, count = self._number("I"), self._number("Q")
        if item in SCALARS:
            numbers = struct.Struct(f"<{self._fits(count, 1, 'numbers')}{SCALARS[item]}")
            return list(numbers.unpack(self._bytes(numbers.size)))
        self._fits(count, 8, "values")
        if item == STRING:
            return self._strings(count)
        return [self._value(item, depth + 1) for _ in range(count)]

    def _tensor(self) -> GGUFTensor:
        name, rank = self._string(), self._number("I")
        if not 0 < rank <= MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name[:80]!r} has {rank} dimensions")
        shape = tuple(self._number("Q") for _ in range(rank))[::-1]
        kind, offset = self._number("I"), self._number("Q")
        try:
            dtype = GGMLQuantizationType(kind)
        except ValueError:
            return GGUFTensor(name, f"number {kind}", shape, offset, 0)
        block, block_bytes = GGML_QUANT_SIZES[dtype]
        if shape[-1] % block:
            raise self._damaged(f"tensor {name[:80]!r} has rows of {shape[-1]} {dtype.name} values")
        num_bytes = block_bytes
        for size in (*shape[:-1], shape[-1] // block):
            num_bytes *= size
        return GGUFTensor(name, dtype.name, shape, offset, num_bytes)

    def _placed(
        self, tensors: list[GGUFTensor], metadata: dict[str, Any]
    ) -> tuple[GGUFTensor, ...]:
        """`tensors` with offsets from the file's start, each within the file."""
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment!r:.80}, no power of two")
        start = -(-self._stream.tell() // alignment) * alignment
        names = set()
        for tensor in tensors:
            if tensor.name in names:
                raise self._damaged(f"it has the tensor {tensor.name[:80]!r} twice")
            names.add(tensor.name)
            if start + tensor.offset + tensor.num_bytes > self._size:
                raise self._damaged(f"tensor {tensor.name[:80]!r} ends after the file")
        return tuple(t._replace(offset=start + t.offset) for t in tensors)

    def _string(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8", "surrogateescape")

    def _strings(self, count: int) -> list[str]:
        """What `_string` gives `count` times, in half the time: vocabularies are long."""
        read, size_of, most = self._stream.read, int.from_bytes, self._size
        found = []
        for _ in range(count):
            head = read(8)
            size = size_of(head, "little")
            text = read(size) if size <= most else b""
            if len(text) != size or len(head) != 8:
                raise self._damaged("it ends within a list of strings")
            found.append(text.decode("utf-8", "surrogateescape"))
        return found

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._bytes(struct.calcsize(form)))[0]

    def _fits(self, count: int, least_bytes: int, what: str) -> int:
        left = self._size - self._stream.tell()
        if count * least_bytes > left:
            raise self._damaged(f"it states {count} {what} where {left} bytes are left")
        return count

    def _bytes(self, count: int) -> bytes:
        if count > self._size:  # before memory is asked for
            raise self._damaged(f"it states a length of {count} bytes in a file of {self._size}")
        data = self._stream.read(count)
        if len(data) != count:
            raise self._damaged("it ends within its header")
        return data

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._file} is truncated or damaged: {what}. Download it again.")
