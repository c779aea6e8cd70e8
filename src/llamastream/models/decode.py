"""From bytes on disk to arrays in transformers' row order: as they are, or in float32.

Block formats are decoded by the `gguf` package; the plain float formats here. Work runs on two
threads a bounded distance ahead of the reader, so that reading, converting and using overlap.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as dequantize_blocks
from numpy.typing import NDArray

from llamastream.errors import ModelError
from llamastream.models.checkpoint import Place, Quantised, TensorEntry
from llamastream.models.group_codes import Grouped, dequantize, stored_tensor
from llamastream.spec import StoredTensor

MAX_AHEAD_BYTES = 128 * 2**20  # results that may wait; a larger tensor waits alone
THREADS = 2  # conversion is bound by memory: more threads gain nothing
# `gguf` works on 16 rows at a time. Rows of this many blocks keep its temporary arrays in the L2
# cache and its Python overhead small: 3 times faster than with a model's own narrow rows.
BLOCKS_PER_ROW = 64

T = TypeVar("T")


def read_tensors(entries: Iterable[TensorEntry]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Decode `entries` in order. Raises ModelError when a file is shorter than its header said."""
    return _read_ahead(entries, _decode, lambda entry: 4 * math.prod(entry.shape))


def read_stored(entries: Iterable[TensorEntry]) -> Iterator[tuple[str, StoredTensor]]:
    """The same in the numbers of the file."""
    return _read_ahead(entries, _stored, lambda entry: entry.num_bytes)


def _read_ahead(
    entries: Iterable[TensorEntry],
    read: Callable[[TensorEntry], T],
    num_bytes: Callable[[TensorEntry], int],
) -> Iterator[tuple[str, T]]:
    waiting: deque[tuple[TensorEntry, Future[T]]] = deque()
    ahead_bytes = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="weights") as pool:
        for entry in entries:
            while waiting and ahead_bytes + num_bytes(entry) > MAX_AHEAD_BYTES:
                ready, future = waiting.popleft()
                ahead_bytes -= num_bytes(ready)
                yield ready.name, future.result()
            waiting.append((entry, pool.submit(read, entry)))
            ahead_bytes += num_bytes(entry)
        while waiting:
            ready, future = waiting.popleft()
            yield ready.name, future.result()


def _stored(entry: TensorEntry) -> StoredTensor:
    if entry.quantised is not None:
        return _grouped(entry.name, entry.quantised)
    raw = _read(entry.name, entry.place)
    if entry.interleaved_heads:
        rows = raw.reshape(entry.shape[0], -1)
        raw = _rotate_half_order(rows, entry.interleaved_heads).reshape(-1)
    return StoredTensor(entry.dtype, raw, entry.shape)


def _read(name: str, place: Place) -> NDArray[np.uint8]:
    # NOTE: read, not mapped: a mapped file counts as memory of this process until it is unmapped.
    raw = np.fromfile(place.file, dtype=np.uint8, count=place.num_bytes, offset=place.offset)
    if raw.nbytes != place.num_bytes:
        raise ModelError(
            f"{place.file} ends within tensor {name!r}: the file is truncated. Download it again."
        )
    return raw


def _grouped(name: str, parts: Quantised) -> StoredTensor:
    """A matrix of GPTQ or AWQ, in the core's own blocks."""

    def integers(place: Place) -> NDArray[np.int32]:
        return _read(name, place).view("<i4").reshape(place.shape)

    scales = _to_float32(_read(name, parts.scales), parts.scales.dtype).reshape(parts.scales.shape)
    halves = scales.astype(np.float16)
    if not np.array_equal(halves, scales):
        raise ModelError(
            f"{parts.scales.file}: the scales of {name!r} do not fit half precision. Use the "
            "model's float weights, or a GGUF file."
        )
    g_idx = None if parts.g_idx is None else integers(parts.g_idx)
    try:
        return stored_tensor(
            Grouped(
                qweight=integers(parts.qweight),
                qzeros=integers(parts.qzeros),
                scales=halves,
                g_idx=g_idx,
                is_awq=parts.is_awq,
                zero_offset=parts.zero_offset,
            )
        )
    except ValueError as error:
        raise ModelError(
            f"{parts.qweight.file}: tensor {name!r} cannot be run: {error}. Use the model's float "
            "weights, or a GGUF file."
        ) from error


def _decode(entry: TensorEntry) -> NDArray[np.float32]:
    stored = _stored(entry)
    if entry.quantised is not None:
        return dequantize(stored)
    return _to_float32(stored.data, stored.kind).reshape(stored.shape)


def _to_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32, copy=False)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    if dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= 16  # a bfloat16 is the upper half of a float32
        return wide.view(np.float32)
    kind = GGMLQuantizationType[dtype]
    row_bytes = GGML_QUANT_SIZES[kind][1] * BLOCKS_PER_ROW
    whole = raw.nbytes - raw.nbytes % row_bytes
    parts = [raw[:whole].reshape(-1, row_bytes), raw[whole:].reshape(1, -1)]
    flat = [dequantize_blocks(part, kind).reshape(-1) for part in parts if part.size]
    return flat[0] if len(flat) == 1 else np.concatenate(flat)


def _rotate_half_order(rows: NDArray[np.uint8], num_heads: int) -> NDArray[np.uint8]:
    """Undo llama.cpp's order of q and k rows: pairs (i, i + D/2) of a head lie side by side there.

    rows: (heads * D, bytes of a row).
    """
    pairs = rows.reshape(num_heads, -1, 2, rows.shape[1])  # (heads, D/2, 2, bytes)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
