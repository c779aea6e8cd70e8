"""What the machine could give at most, measured beside what was reached.

Reading memory is the bound of a single stream: every token reads all weights once.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 256 * 2**20  # well above any cache
REPEATS = 7


def memory_bandwidth(threads: int | None = None) -> float:
    """Bytes per second that `threads` (all cores) read together, the best of a few passes.

    A lower bound: NumPy's reductions reach most of it, not all.
    """
    threads = threads or len(os.sched_getaffinity(0))
    array = np.zeros(ARRAY_BYTES // 8, np.uint64)
    array.fill(1)  # touch every page
    parts = np.array_split(array, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            best_s = min(best_s, time.perf_counter() - start_s)
    return ARRAY_BYTES / best_s
