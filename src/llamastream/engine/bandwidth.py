"""How fast the machine reads memory: the bound of a single stream, since every token reads all
weights once."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 256 * 2**20  # well above any cache
REPEATS = 7


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
