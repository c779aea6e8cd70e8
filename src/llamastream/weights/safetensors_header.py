"""Where each tensor of a safetensors file lies.

Read here because the `safetensors` package's NumPy front end refuses BF16, the most common type of
published Llama checkpoints. The format: 8 bytes of header length, a JSON header, the data.
Source: https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from llamastream.errors import ModelError
from llamastream.weights.checkpoint import TensorEntry

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def read_entries(file: Path) -> list[TensorEntry]:
    """The tensors of `file`, in the order of their data. Raises ModelError for a damaged file."""
    header, data_start, file_bytes = _read_header(file)
    entries = [
        _entry(file, name, info, data_start, file_bytes)
        for name, info in header.items()
        if name != "__metadata__"
    ]
    return sorted(entries, key=lambda entry: entry.offset)


def _read_header(file: Path) -> tuple[dict[str, Any], int, int]:
    try:
        file_bytes = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
            if length > MAX_HEADER_BYTES or 8 + length > file_bytes:
                raise ModelError(
                    f"{file} is not a whole safetensors file: its header is truncated or damaged. "
                    "Download it again."
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except ValueError as error:
        raise _damaged(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not a JSON object")
    return header, 8 + length, file_bytes


def _entry(file: Path, name: str, info: Any, data_start: int, file_bytes: int) -> TensorEntry:
    try:
        dtype, shape = str(info["dtype"]), tuple(int(n) for n in info["shape"])
        start, end = (int(n) for n in info["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"the header of tensor {name!r} is malformed") from error
    if dtype not in ITEM_BYTES:
        raise ModelError(
            f"{file}: tensor {name!r} has type {dtype}. Supported: {', '.join(ITEM_BYTES)}. "
            "Choose the checkpoint's unquantised version, or a GGUF file."
        )
    if start < 0 or end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _damaged(file, f"the offsets of tensor {name!r} do not fit its shape")
    if data_start + end > file_bytes:
        raise ModelError(
            f"{file} ends within tensor {name!r}: it has {file_bytes} bytes and needs at least "
            f"{data_start + end}. The file is truncated: download it again."
        )
    return TensorEntry(name, dtype, shape, file, data_start + start, end - start)


def _damaged(file: Path, reason: str) -> ModelError:
    return ModelError(f"{file} is damaged: {reason}. Download it again.")
