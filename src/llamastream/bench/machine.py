"""What the machine could give at most, measured beside what was reached.

Reading memory is the bound of a single stream: every token reads all weights once. Multiplying is
the bound of many, and of prompts: they share what was read.
"""

import os
from typing import NamedTuple

from llamastream.config import DType
from llamastream.engine import _core
from llamastream.engine.bandwidth import memory_bandwidth

REPEATS = 7
PEAK_S = 0.02  # of each repetition


class Bounds(NamedTuple):
    bytes_per_s: float  # read from memory
    ops_per_s: float  # a product and its addition are two


def measure_bounds(dtype: DType = "int8", threads: int | None = None, isa: str = "auto") -> Bounds:
    """The best of a few passes of `threads` (all cores) together."""
    threads = threads or len(os.sched_getaffinity(0))
    return Bounds(memory_bandwidth(threads), compute_peak(threads, dtype, isa))


def compute_peak(threads: int, dtype: DType, isa: str = "auto") -> float:
    """Operations per second of the products that a model of this precision is made of."""
    int8 = dtype == "int8"
    return max(
        _core.measure_peak(isa, int8=int8, threads=threads, seconds=PEAK_S) for _ in range(REPEATS)
    )
