"""Reports how much of a download has arrived, by looking at the files as they grow.

Neither pip nor huggingface_hub (whose bars change between versions) offers a callback.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llamastream.models.checkpoint import Progress

POLL_S = 0.2


@contextmanager
def reported(
    progress: Progress | None, label: str, total_bytes: int, arrived: Callable[[], int]
) -> Iterator[None]:
    """Call `progress` while the body runs, and once with all bytes when it succeeds.

    arrived: bytes that are here; called on a thread of its own.
    """
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            progress(label, min(arrived(), total_bytes), total_bytes)

    watcher = threading.Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(label, total_bytes, total_bytes)
