"""KV blocks on disk, beside the steps: one thread writes and removes, two read.

Knows no sequences. Nobody waits for it: a block is copied to be written later, or is not kept where
too many wait; what is read is waited for by who asked. The invariant: once `forget` is done,
nothing of an id is on disk, and nothing of it that was under way will be.
"""

import ctypes
import errno
import hashlib
import logging
import mmap
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum, auto
from functools import partial
from weakref import WeakSet

import numpy as np

from llamastream.engine.block_files import DAY, OWNER, BlockFiles, Bytes
from llamastream.engine.runner import Runner
from llamastream.records import CacheRetention
from llamastream.types import DiskStatus

logger = logging.getLogger(__name__)

LAYOUT = 1  # of a block's bytes and of its file: raise it when they mean something else
BUFFER_BYTES, MIN_BUFFERS = 32 * 2**20, 4  # that wait to be written: a 7B fills four a step
NUM_READERS = 2
DAY_S = 86_400.0
PAUSE_S = 10.0  # after a write failed
SCAN_PATIENCE_S = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
KEPT_SHARE = 0.9  # of what is there, when the disk is full
PREPARED_BYTES = 256 * 2**20  # of memory, at most
MADV_POPULATE_WRITE = 23  # since Linux 5.14; before, it is refused


class OwnerState(Enum):
    PENDING = auto()  # not stored yet
    STORED = auto()
    REVOKED = auto()


class Owner:
    """See BlockOwner. `id`: the answer whose text is in its blocks, too."""

    def __init__(self, name: str, id: str) -> None:
        self.name = name
        self.id = id
        self.state = OwnerState.PENDING

    def confirm(self) -> None:
        if self.state is OwnerState.PENDING:
            self.state = OwnerState.STORED


class DiskCache:
    """`owner`, `forget`, `ids` and `expire` are the event loop's, `offer` and `read` the engine
    thread's."""

    def __init__(self, files: BlockFiles, model_id: str) -> None:
        """`model_id`: of what decides the bytes of a block, beside the layout and the tokens."""
        self._files = files
        self._model_id = model_id
        self._key = b""
        self._owners: WeakSet[Owner] = WeakSet()
        self._buffers: queue.SimpleQueue[Bytes] = queue.SimpleQueue()
        self._pending: set[tuple[str, str]] = set()  # owner and block that wait to be written
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(NUM_READERS, "kv-read")
        self._paused_until_s = 0.0
        self._said: set[int | None] = set()
        self.num_read = self.num_not_offered = 0  # which the engine thread counts
        self._num_written = self._num_dropped = self._num_failures = 0
        self._is_scanned = threading.Event()
        self._is_closed = False
        self._writer = threading.Thread(target=self._run, name="kv-write", daemon=True)
        self._writer.start()

    def attach(self, runner: Runner) -> None:
        """Say what a block is, and wait a while for what an earlier server left.

        Pages of memory are given to the first blocks, as far as there is something to read: to wait
        for them, one by one, takes several times as long as to read what goes there.
        """
        block_bytes = runner.block_bytes
        layout = f"{LAYOUT} {self._model_id} {runner.block_size} {block_bytes}"
        self._key = hashlib.sha256(layout.encode()).digest()
        for _ in range(max(MIN_BUFFERS, BUFFER_BYTES // block_bytes)):
            self._buffers.put(np.empty(block_bytes, np.uint8))  # no memory before it is used
        self._is_scanned.wait(SCAN_PATIENCE_S)
        most = min(self._files.index.num_bytes, PREPARED_BYTES)
        for index in range(min(runner.num_blocks, -(-most // block_bytes))):
            self._work.put(partial(_populate, runner.block(index)))

    def owner(self, name: str, id: str, retention: CacheRetention | None = None) -> Owner | None:
        """For an answer that is about to be stored; nothing is kept of what has odd ids."""
        if not (OWNER.fullmatch(name) and OWNER.fullmatch(id)):
            return None
        owner = Owner(name + DAY if retention else name, id)
        self._owners.add(owner)
        return owner

    def forget(self, id: str) -> "Future[None]":
        """Remove all blocks with text of this id. Done once they are gone."""
        names = set(self._files.index.owners_with(id))
        names |= {owner.name for owner in self._owners if owner.id == id}
        if OWNER.fullmatch(id):
            names |= {id, id + DAY}
        return self._remove(names)

    def expire(self) -> None:
        """Remove what was to be kept for a day."""
        old = self._files.index.begun_before(time.time() - DAY_S)
        self._remove(owner for owner in old if owner.endswith(DAY))

    def ids(self) -> set[str]:
        """Whose text is on disk. Waits until those of the last server are known."""
        self._is_scanned.wait()
        return self._files.index.ids()

    def holds(self, digest: bytes) -> bool:
        return self._files.index.has(self._name(digest))

    def offer(self, owner: Owner, digest: bytes, block: Bytes) -> bool:
        """Have a block written that is `block` now. False: try again, too many wait."""
        if owner.state is not OwnerState.STORED:
            return owner.state is OwnerState.REVOKED
        name = self._name(digest)
        place = owner.name, name
        if place in self._pending or self._files.index.has(name, owner.name):
            return True
        data = None
        if not self._files.index.has(name):
            try:
                data = self._buffers.get_nowait()
            except queue.Empty:
                return False
            np.copyto(data, block)
        self._pending.add(place)
        self._work.put(partial(self._write, owner, name, data))
        return True

    def read(
        self, wanted: Sequence[tuple[bytes, Bytes]], on_done: Callable[[list[bool]], None]
    ) -> None:
        """Read blocks into memory; `on_done` hears on some thread which of them could be."""
        names = [self._name(digest) for digest, _ in wanted]
        tasks = [
            self._readers.submit(self._files.read, name, into)
            for name, (_, into) in zip(names, wanted, strict=True)
        ]

        def finish() -> None:
            wait(tasks)
            on_done([_is_read(task) for task in tasks])
            self._files.touch(names[-1])

        self._readers.submit(finish)

    def status(self) -> DiskStatus:
        files = self._files
        return DiskStatus(
            files.index.num_bytes,
            files.max_bytes,
            self.num_read,
            self._num_written,
            self.num_not_offered + self._num_dropped,
            files.num_damaged,
            self._num_failures,
        )

    def close(self) -> None:
        """Write what waits, and stop."""
        self._readers.shutdown()
        self._is_closed = True
        self._work.put(None)
        self._writer.join()

    def _name(self, digest: bytes) -> str:
        return hashlib.sha256(self._key + digest).hexdigest()

    def _remove(self, names: Iterable[str]) -> "Future[None]":
        names = set(names)
        for owner in self._owners:
            if owner.name in names:
                owner.state = OwnerState.REVOKED
        done: Future[None] = Future()

        def remove() -> None:
            try:
                for name in names:
                    self._files.remove(name)
            finally:
                done.set_result(None)

        remove() if self._is_closed else self._work.put(remove)
        return done

    # The writer's thread.

    def _run(self) -> None:
        self._try(self._files.scan)
        self._is_scanned.set()
        while (work := self._work.get()) is not None:
            self._try(work)
        self._files.close()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._num_failures += 1
            self._paused_until_s = time.monotonic() + PAUSE_S
            if error.errno not in self._said:
                self._said.add(error.errno)
                logger.warning("KV blocks are not kept on disk for now: %s", error)
        except Exception:
            logger.exception("the cache on disk failed")

    def _write(self, owner: Owner, name: str, data: Bytes | None) -> None:
        try:
            is_wanted = owner.state is OwnerState.STORED
            if is_wanted and time.monotonic() < self._paused_until_s:
                self._num_dropped += 1
            elif is_wanted and self._files.write(owner.name, owner.id, name, data):
                self._num_written += data is not None
        except OSError as error:
            self._num_dropped += 1
            if error.errno in FULL:  # who shares the disk, the database first of all, needs it more
                self._files.shrink(KEPT_SHARE)
            raise
        finally:
            self._pending.discard((owner.name, name))
            if data is not None:
                self._buffers.put(data)


def _is_read(task: "Future[bool]") -> bool:
    """Whatever went wrong: somebody waits for the end of it."""
    if (error := task.exception()) is not None:
        logger.error("the cache on disk failed", exc_info=error)
        return False
    return task.result()


def _populate(memory: Bytes) -> None:
    """Changes nothing of what is there."""
    if sys.platform == "linux":
        start = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        size = memory.ctypes.data + memory.nbytes - start
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(max(size, 0)), MADV_POPULATE_WRITE
        )
