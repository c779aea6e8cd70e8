"""GPTQ's and AWQ's numbers: codes of 4 bits, with a scale and a zero for each group of inputs.

Knows no files. A weight is scale * (code - zero), exactly. The invariant: what comes out are the
codes, scales and zeros that went in, in the core's blocks (see `zeroed_blocks`), rows of outputs.
Sources: github.com/AutoGPTQ/AutoGPTQ, nn_modules/qlinear, and github.com/casper-hansen/AutoAWQ,
awq/utils/packing_utils.py.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamastream.spec import StoredTensor

Bytes = NDArray[np.uint8]

BITS, IN_WORD = 4, 8  # codes of a 32-bit word
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # where AWQ puts the codes of 8 neighbours
SPANS = (128, 64, 32)  # of the core: weights in a row that share a scale and a zero


class Grouped(NamedTuple):
    """What a checkpoint has of one matrix, as it is packed there.

    qweight: GPTQ (in / 8, out), AWQ (in, out / 8) int32. qzeros: (groups, out / 8) int32.
    scales: (groups, out) half. g_idx: (in,) the group of each input, None where they follow one
    another. zero_offset: what is added to a stored zero.
    """

    qweight: NDArray[np.int32]
    qzeros: NDArray[np.int32]
    scales: NDArray[np.float16]
    g_idx: NDArray[np.int32] | None
    is_awq: bool
    zero_offset: int


def stored_tensor(packed: Grouped) -> StoredTensor:
    """The matrix as the core takes it, its columns in order of their groups.

    Raises ValueError for groups that the core's spans do not divide.
    """
    num_groups, rows = packed.scales.shape
    order: NDArray[np.int64] | None = None
    if packed.g_idx is not None:
        order = np.argsort(packed.g_idx, kind="stable")
        if np.array_equal(order, np.arange(len(order))):
            order = None
    pairs = _pairs(packed, order)  # (out, in / 2)
    columns = 2 * pairs.shape[1]
    groups = np.arange(columns) // (columns // num_groups)
    if packed.g_idx is not None:
        groups = np.sort(packed.g_idx)
    elif columns % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {columns} inputs")
    span = _span(groups)
    of_span = groups[::span]
    zeros = (_unpacked_rows(packed.qzeros, AWQ_ORDER if packed.is_awq else range(IN_WORD))
             + np.uint8(packed.zero_offset)) & np.uint8(15)  # fmt: skip
    data = zeroed_blocks(pairs, packed.scales.T[:, of_span], zeros.T[:, of_span], span)
    listed = () if order is None else order.tolist()
    return StoredTensor(kind_of(span), data.reshape(-1), (rows, columns), listed)


def kind_of(span: int) -> str:
    """The core's name of numbers of which so many share a scale and a zero."""
    return f"Z4_{span}"


def zeroed_blocks(pairs: Bytes, scales: NDArray[np.float16], zeros: Bytes, span: int) -> Bytes:
    """The blocks of the core's Z4: a scale (half), a zero, codes in pairs of neighbours.

    pairs: (out, in / 2) two codes each. scales, zeros: (out, in / span). Returns (out, bytes).
    """
    rows, count = scales.shape
    blocks = np.empty((rows, count, 3 + span // 2), np.uint8)
    blocks[..., :2] = np.ascontiguousarray(scales)[..., None].view(np.uint8)
    blocks[..., 2] = zeros
    blocks[..., 3:] = pairs.reshape(rows, count, -1)
    return blocks.reshape(rows, -1)


def dequantize(stored: StoredTensor) -> NDArray[np.float32]:
    """The weights of a `stored_tensor`, columns in transformers' order."""
    rows, columns = stored.shape
    span = int(stored.kind.rpartition("_")[2])
    blocks = stored.data.reshape(rows, columns // span, -1)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)  # (rows, n, 1)
    codes = np.stack([blocks[..., 3:] & 15, blocks[..., 3:] >> 4], axis=-1)
    codes = codes.reshape(rows, columns // span, span).astype(np.float32)
    codes -= blocks[..., 2:3]
    codes *= scales
    values: NDArray[np.float32] = codes.reshape(rows, columns)
    if len(stored.order):
        values, sorted_values = np.empty_like(values), values
        values[:, stored.order] = sorted_values
    return values


def span_of(group: int) -> int | None:
    """The longest span that divides groups of so many columns."""
    return next((span for span in SPANS if group % span == 0), None)


def _span(groups: NDArray[np.int64]) -> int:
    """The longest span all of whose columns share a group. Raises ValueError where none is."""
    columns = len(groups)
    changes = np.flatnonzero(np.diff(groups)) + 1
    step = math.gcd(columns, *changes.tolist())
    span = span_of(step)
    if span is None:
        raise ValueError(f"its groups have {step} columns, which is no multiple of {SPANS[-1]}")
    return span


def _pairs(packed: Grouped, order: NDArray[np.int64] | None) -> Bytes:
    """Codes of neighbouring inputs, two in a byte, in the order given: (out, in / 2)."""
    if packed.is_awq:
        codes = _unpacked_rows(packed.qweight, AWQ_ORDER)  # (in, out)
    elif order is None:
        # A word is 8 inputs of an output, so its bytes are the pairs already.
        return np.ascontiguousarray(packed.qweight.T).view(np.uint8)
    else:
        words = packed.qweight.view(np.uint32)
        codes = np.empty((len(words), IN_WORD, words.shape[1]), np.uint8)
        for i in range(IN_WORD):
            codes[:, i] = words >> np.uint32(BITS * i) & np.uint32(15)
        codes = codes.reshape(-1, words.shape[1])[order]
    return np.ascontiguousarray((codes[::2] | codes[1::2] << BITS).T)


def _unpacked_rows(words: NDArray[np.int32], places: "tuple[int, ...] | range") -> Bytes:
    """(n, out / 8) words to (n, out) codes; the i-th of a word is neighbour places[i]."""
    unsigned = words.view(np.uint32)
    codes = np.empty((*words.shape, IN_WORD), np.uint8)
    for i, place in enumerate(places):
        codes[..., place] = unsigned >> np.uint32(BITS * i) & np.uint32(15)
    return codes.reshape(len(words), -1)
