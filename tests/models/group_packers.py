"""Packs matrices as GPTQ and AWQ checkpoints hold them, one code at a time: slow and obvious."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Codes(NamedTuple):
    """codes: (in, out) of 4 bits. zeros, scales: (groups, out). g_idx: (in,) their groups."""

    codes: NDArray[np.int64]
    zeros: NDArray[np.int64]
    scales: NDArray[np.float16]
    g_idx: NDArray[np.int64]

    def weight(self) -> NDArray[np.float32]:
        """(out, in), exactly: a product of 11 bits and 5 fits float32."""
        values = self.scales.astype(np.float32)[self.g_idx] * (self.codes - self.zeros[self.g_idx])
        return np.ascontiguousarray(values.T.astype(np.float32))


def random_codes(
    rows: int, columns: int, group: int, rng: np.random.Generator, order: NDArray[Any] | None = None
) -> Codes:
    """order: the inputs from the first group on; None: as they come."""
    groups = columns // group
    scales = rng.uniform(0.5, 1.5, (groups, rows)) / (4 * columns**0.5)
    g_idx = np.arange(columns) // group
    if order is not None:
        g_idx[order] = np.arange(columns) // group
    return Codes(
        rng.integers(0, 16, (columns, rows)),
        rng.integers(4, 12, (groups, rows)),
        scales.astype(np.float16),
        g_idx,
    )


def _words(codes: NDArray[Any], places: Any = range(8)) -> NDArray[np.int32]:
    """(n, 8 k) codes to (n, k) words; the i-th of a word is neighbour places[i]."""
    words = np.zeros((len(codes), codes.shape[1] // 8), np.uint32)
    for word in range(words.shape[1]):
        for i, place in enumerate(places):
            words[:, word] |= codes[:, 8 * word + place].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def gptq(name: str, of: Codes, *, stored_offset: int = 1) -> dict[str, NDArray[Any]]:
    """The tensors of the matrix `name`. Zeros are stored less 1, but in version 2."""
    return {
        f"{name}.qweight": np.ascontiguousarray(_words(of.codes.T).T),
        f"{name}.qzeros": _words(of.zeros - stored_offset),
        f"{name}.scales": of.scales,
        f"{name}.g_idx": of.g_idx.astype(np.int32),
    }


def awq(name: str, of: Codes) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.qweight": _words(of.codes, AWQ_ORDER),
        f"{name}.qzeros": _words(of.zeros, AWQ_ORDER),
        f"{name}.scales": of.scales,
    }
