"""A process that writes blocks until it is killed."""

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.block_files import BlockFiles

BLOCK_BYTES = 50_000


def content(name: str) -> NDArray[np.uint8]:
    """What is in the block of this name."""
    return np.random.default_rng(int(name, 16) % 2**32).integers(
        256, size=BLOCK_BYTES, dtype=np.uint8
    )


def write_until_killed(folder: str, pipe: Connection) -> None:
    """Says once how many are written."""
    files = BlockFiles.open(Path(folder), 10**9)
    files.scan()
    for number in itertools.count(len(files.index.ids())):
        name = f"{number:064x}"
        files.write(f"conv_{number % 3}", f"resp_{number % 7}", name, content(name))
        if number == 20:
            pipe.send(number)
