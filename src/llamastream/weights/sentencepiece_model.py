"""The vocabulary inside a sentencepiece `tokenizer.model`, for folders without a tokenizer.json.

The file is one protobuf message, of which we need five fields: too little to depend on the
sentencepiece package. Source of the field numbers:
https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llamastream.errors import ModelError
from llamastream.weights.tokenizer_json import Piece, sentencepiece_json

BPE_MODEL = 2  # TrainerSpec.model_type


class Vocabulary(NamedTuple):
    """What a BPE model consists of: its pieces, how good each is, and what it is (a Piece)."""

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    add_space_prefix: bool


def convert(file: Path) -> str:
    """The tokenizer.json equal to `file`. Raises ModelError for one that is not a BPE model."""
    vocabulary = read_vocabulary(file)
    bos = vocabulary.pieces.index("<s>") if "<s>" in vocabulary.pieces else None
    return sentencepiece_json(
        vocabulary.pieces,
        vocabulary.scores,
        vocabulary.kinds,
        bos_id=bos,
        add_space_prefix=vocabulary.add_space_prefix,
    )


def read_vocabulary(file: Path) -> Vocabulary:
    """Raises ModelError for a file that is damaged or holds another kind of model."""
    try:
        vocabulary, model_type = _parse(file.read_bytes())
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ModelError(f"{file} is not a sentencepiece BPE model: it is damaged.") from error
    if model_type != BPE_MODEL or not vocabulary.pieces:
        raise ModelError(
            f"{file} is not a sentencepiece BPE model. Put the model's tokenizer.json beside it."
        )
    return vocabulary


def _parse(data: bytes) -> tuple[Vocabulary, int]:
    """The vocabulary, and the kind of model it belongs to."""
    vocabulary, model_type = Vocabulary([], [], [], True), 1
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_as_bytes(value)))
            vocabulary.pieces.append(_as_bytes(piece[1]).decode())
            score = struct.unpack("<f", _as_bytes(piece.get(2, bytes(4))))[0]
            vocabulary.scores.append(score)
            vocabulary.kinds.append(_as_int(piece.get(3, Piece.NORMAL)))
        elif field == 2:
            model_type = _as_int(dict(_fields(_as_bytes(value))).get(3, model_type))
        elif field == 3:
            normalizer = dict(_fields(_as_bytes(value)))
            vocabulary = vocabulary._replace(add_space_prefix=bool(normalizer.get(3, 1)))
    return vocabulary, model_type


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of one protobuf message: varints as int, all else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("a field ends after the message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a message was expected")
    return value


def _as_int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("a message where a number was expected")
    return value
