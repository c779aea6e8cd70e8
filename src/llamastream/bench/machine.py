"""What the machine could give at most, measured beside what was reached.

Reading memory is the bound of a single stream: every token reads all weights once. Multiplying is
the bound of many, and of prompts: they share what was read.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from llamastream.config import DType
from llamastream.engine import _core

ARRAY_BYTES = 256 * 2**20  # well above any cache
REPEATS = 7
PEAK_S = 0.02  # of each repetition


class Bounds(NamedTuple):
    bytes_per_s: float  # read from memory
    ops_per_s: float  # a product and its addition are two


def measure_bounds(dtype: DType = "int8", threads: int | None = None) -> Bounds:
    """The best of a few passes of `threads` (all cores) together."""
    threads = threads or len(os.sched_getaffinity(0))
    return Bounds(memory_bandwidth(threads), compute_peak(threads, dtype))


def memory_bandwidth(threads: int, *, num_bytes: int = ARRAY_BYTES) -> float:
    """Bytes per second that `threads` read together.

    NumPy's reductions release the interpreter's lock; on two cores they reach what a loop of
    512-bit loads in C reaches, within the machine's noise.
    """
    array = np.empty(num_bytes // 8, np.uint64)
    array.fill(1)  # touch every page
    parts = np.array_split(array, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            best_s = min(best_s, time.perf_counter() - start_s)
    return array.nbytes / best_s


def compute_peak(threads: int, dtype: DType) -> float:
    """Operations per second of the products that a model of this precision is made of."""
    int8 = dtype == "int8"
    return max(
        _core.measure_peak("auto", int8=int8, threads=threads, seconds=PEAK_S)
        for _ in range(REPEATS)
    )
