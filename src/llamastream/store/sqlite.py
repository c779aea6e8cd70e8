"""SQLite's files: private, locked for one server, looked for at every commit, and made smaller.

The lock is on the database file itself, so that nobody loses it by removing a file. The files are
known by their inodes: what is written into one that has no name any more is not confirmed.
"""

import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection

from llamastream.errors import StoreError, StoreUnavailable, may_pass

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 5.0  # how long to wait for another process's write
MAX_WAL_BYTES = 16 * 2**20  # what stays of a write-ahead log that has grown larger
AUTOCHECKPOINT_PAGES = 16384  # of 4 KiB: a backstop for `Database.checkpoint_later`
SHRINK_PAGES = 256  # in one transaction: a few ms in which no step is written
KEPT_FREE_PAGES = 1024  # not given back, since new rows will want them
CONVERTED_BYTES = 128 * 2**20  # a larger file is not copied at a start
INCREMENTAL = 2  # of PRAGMA auto_vacuum
PASSING = frozenset(  # primary result codes of what may pass by itself
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    }
)

_held: set[int] = set()  # descriptors with a lock, which a forked child must not hold on to


class SqliteFile:
    """One database file, held open by a descriptor of our own.

    That is closed last: to close any descriptor of a file frees what locks this process has on it,
    SQLite's too.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Make it if need be, readable by its owner only; SQLite gives its other files that mode.

        Raises StoreError or StoreUnavailable.
        """
        self.path = path
        try:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError as error:
            raise StoreError(
                f"There is no database {path}. Give the server's --data-dir, or its --store."
            ) from error
        except OSError as error:
            kind = StoreUnavailable if may_pass(error) else StoreError
            raise kind(f"The database {path} cannot be opened: {error.strerror}.") from error
        found = os.fstat(self._fd)
        self._files = [(str(path), found.st_dev, found.st_ino)]

    def engine_url(self, url: URL) -> URL:
        """For the driver, which is not to make a new file where this one is gone."""
        quoted = self.path.absolute().as_uri()
        return url.set(database=quoted, query={"mode": "rw", "uri": "true"})

    def watch(self) -> None:
        """Know its log as well, which is there as long as a connection is open."""
        for path in (f"{self.path}-wal", f"{self.path}-shm"):
            if os.path.exists(path):  # a file system without shared memory has none
                found = os.stat(path)
                self._files.append((path, found.st_dev, found.st_ino))

    def is_there(self) -> bool:
        """Whether the names still lead to the files that were opened. Takes some microseconds."""
        try:
            for path, device, inode in self._files:
                found = os.stat(path)
                if found.st_ino != inode or found.st_dev != device:
                    return False
        except OSError:
            return False
        return True

    def lock(self) -> bool:
        """Be the only one with the lock, until the process ends or `close`.

        Raises StoreError where files cannot be locked.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(f"{self.path} cannot be locked: {error.strerror}.") from error
        if not _held:
            os.register_at_fork(after_in_child=_let_go)
        _held.add(self._fd)
        return True

    def close(self) -> None:
        """After all connections."""
        _held.discard(self._fd)
        os.close(self._fd)


def configure(cursor: Any, *, is_full: bool) -> None:
    """A new connection, by its driver's cursor."""
    cursor.execute("PRAGMA foreign_keys = ON")
    # Of effect in a new file, and in an old one when it is vacuumed next.
    cursor.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute(f"PRAGMA synchronous = {'FULL' if is_full else 'NORMAL'}")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
    cursor.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")


def shrink(conn: Connection) -> int:
    """Give a bounded part of what is free back to the file system; the pages that were."""
    num_free: int = conn.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    num_pages = min(SHRINK_PAGES, num_free - KEPT_FREE_PAGES)
    if num_pages <= 0 or not _can_shrink(conn):
        return 0
    cursor = conn.connection.cursor()
    for _ in range(num_pages):
        # NOTE: Python's driver lets a statement without results take one step, which is one page.
        cursor.execute("PRAGMA incremental_vacuum(1)")
    return num_pages


def convert(conn: Connection) -> None:
    """Make a file that an older release made able to shrink, unless that would take long."""
    if _can_shrink(conn):
        return
    page_count, page_size = (
        conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
    )
    if page_count * page_size <= CONVERTED_BYTES:
        conn.exec_driver_sql("VACUUM")
    else:
        logger.info(
            "the database file does not shrink: run `llamastream db vacuum` once, "
            "while the server is stopped"
        )


def may_pass_later(error: object) -> bool:
    """Of an error of the driver: not for a file that is damaged or no database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in PASSING


def _can_shrink(conn: Connection) -> bool:
    return bool(conn.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL)


def _let_go() -> None:
    """In a forked child: the lock is to end with the server."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
