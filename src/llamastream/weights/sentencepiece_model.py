"""The vocabulary inside a sentencepiece `tokenizer.model`, for folders without a tokenizer.json.

The file is one protobuf message, of which we need five fields: too little to depend on the
sentencepiece package. Source of the field numbers:
https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from llamastream.errors import ModelError
from llamastream.weights.tokenizer_json import Piece, sentencepiece_json

BPE_MODEL = 2  # TrainerSpec.model_type


def convert(file: Path) -> str:
    """The tokenizer.json equal to `file`. Raises ModelError for one that is not a BPE model."""
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    model_type, add_space_prefix = 1, True
    try:
        for field, value in _fields(file.read_bytes()):
            if field == 1:
                piece = dict(_fields(_as_bytes(value)))
                pieces.append(_as_bytes(piece[1]).decode())
                scores.append(struct.unpack("<f", _as_bytes(piece.get(2, bytes(4))))[0])
                kinds.append(int(piece.get(3, Piece.NORMAL)))
            elif field == 2:
                model_type = int(dict(_fields(_as_bytes(value))).get(3, 1))
            elif field == 3:
                add_space_prefix = bool(dict(_fields(_as_bytes(value))).get(3, 1))
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ModelError(f"{file} is not a sentencepiece model, or is damaged.") from error
    if model_type != BPE_MODEL or not pieces:
        raise ModelError(
            f"{file} is not a sentencepiece BPE model. Put the model's tokenizer.json beside it."
        )
    bos = next((i for i, text in enumerate(pieces) if text == "<s>"), None)
    return sentencepiece_json(pieces, scores, kinds, bos_id=bos, add_space_prefix=add_space_prefix)


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
