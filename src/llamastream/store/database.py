"""Connections to SQLite or PostgreSQL, and threads to read on.

Every connection is in autocommit mode: who wants a transaction says BEGIN. Knows no table. Reads
run on a few threads of their own, which was measured at less than half the time of an async driver.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from sqlalchemy import URL, Connection, create_engine, event, exc, make_url

from llamastream.errors import StoreError, StoreUnavailable

Durability = Literal["normal", "full", "off"]
T = TypeVar("T")

NUM_READERS = 4
BUSY_TIMEOUT_S = 5.0  # SQLite: how long to wait for another process's write
NOT_UNAVAILABLE = (exc.DataError, exc.IntegrityError, exc.NotSupportedError, exc.ProgrammingError)


def sqlite_url(data_dir: Path) -> str:
    """The database of a server that was given no other."""
    return URL.create("sqlite", database=str(data_dir / "llamastream.db")).render_as_string()


def is_unavailable(error: BaseException) -> bool:
    """True for a database that is full, gone, locked or damaged; false for our own mistakes."""
    return isinstance(error, exc.DBAPIError) and not isinstance(error, NOT_UNAVAILABLE)


def unavailable(error: BaseException) -> StoreUnavailable:
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    reason = " ".join(str(cause).split()).rstrip(".")
    return StoreUnavailable(f"The database failed: {reason}. Nothing was written; try again later.")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StoreUnavailable for what `is_unavailable`."""
    try:
        yield
    except exc.DBAPIError as error:
        if not is_unavailable(error):
            raise
        raise unavailable(error) from error


class Database:
    """One database. `durability` is what a commit promises, see `docs/store.md`."""

    def __init__(self, url: str, *, durability: Durability = "normal") -> None:
        self.url = _parse(url)
        self.durability = durability
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._lock: Connection | None = None
        if self.is_sqlite:
            _create_private(Path(self.url.database or ""))
            arguments: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S}
        else:
            arguments = _postgres().connect_arguments(self.url)
        self.engine = create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # an error's text must not hold what people said
            pool_size=NUM_READERS + 2,  # the writer's own, and one for the command line
            max_overflow=0,
            pool_pre_ping=not self.is_sqlite,
            connect_args=arguments,
        )
        event.listen(self.engine, "connect", self._configure)
        if not self.is_sqlite:
            event.listen(self.engine, "do_connect", _connect_postgres)
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-read")

    @property
    def name(self) -> str:
        """For messages: the URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def connect(self, *, is_patient: bool = False) -> Connection:
        """`is_patient` is for statements about whole tables, which may take minutes."""
        conn = self.engine.connect()
        if not self.is_sqlite:
            driver: Any = conn.connection.driver_connection
            driver.answer_timeout_s = math.inf if is_patient else _postgres().ANSWER_TIMEOUT_S
        return conn

    def forget_idle(self) -> None:
        """PostgreSQL: what one connection met, the others would meet. Let nobody wait for them."""
        if not self.is_sqlite:
            self.engine.dispose()

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on a thread with a connection of its own. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, fn)

    def read_now(self, fn: Callable[[Connection], T]) -> T:
        with translated_errors(), self.connect() as conn:
            return fn(conn)

    def begin(self, conn: Connection) -> None:
        """Start a transaction that writes. SQLite waits here, and not in the middle, for others."""
        conn.exec_driver_sql("BEGIN IMMEDIATE" if self.is_sqlite else "BEGIN")
        if not self.is_sqlite and self.durability != "full":
            # Tokens can be generated again, all else cannot: only theirs may return early.
            conn.exec_driver_sql("SET LOCAL synchronous_commit TO on")

    @contextmanager
    def snapshot(self, conn: Connection) -> Iterator[None]:
        """All reads within see the database at one moment."""
        conn.exec_driver_sql(
            "BEGIN" if self.is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        try:
            yield
        finally:
            conn.exec_driver_sql("ROLLBACK")

    def checkpoint_later(self) -> None:
        """Let a reader's thread bring SQLite's WAL into the database, so that no commit has to.

        It fails when the disk is full or another checkpoint runs; a later one makes up for it.
        """
        if self.is_sqlite:
            self._readers.submit(
                self.read_now, lambda conn: conn.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
            )

    def lock(self, conn: Connection, owner: str) -> None:
        """Be the only server that generates as `owner`, until the process ends or `close`.

        On PostgreSQL the lock lives as long as `conn`. Raises StoreError when another has it.
        """
        if self._lock is not None:
            return
        if (
            self._lock_file()
            if self.is_sqlite
            else _postgres().lock_session(conn, f"llamastream {owner}")
        ):
            return
        raise StoreError(
            f"Another server generates on this database as '{owner}': stop it, or give this one "
            "another database (--store, --data-dir)"
            + (" or name (--server-name)." if not self.is_sqlite else ".")
        )

    def vacuum(self) -> None:
        with translated_errors(), self.connect(is_patient=True) as conn:
            conn.exec_driver_sql("VACUUM")

    def close(self) -> None:
        self._readers.shutdown(wait=True)
        if self._lock is not None:
            self._lock.close()
            self._lock.engine.dispose()
        self.engine.dispose()

    def _lock_file(self) -> bool:
        """A second SQLite file held open in a transaction: freed by the system even at kill -9."""
        path = Path(f"{self.url.database}.lock")
        _create_private(path)
        engine = create_engine(
            self.url.set(database=str(path)),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": 0, "check_same_thread": False},
        )
        conn = engine.connect()
        try:
            conn.exec_driver_sql("BEGIN EXCLUSIVE")
        except exc.OperationalError:
            conn.close()
            engine.dispose()
            return False
        self._lock = conn
        return True

    def _configure(self, raw: Any, _: Any) -> None:
        cursor = raw.cursor()
        if self.is_sqlite:
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute("PRAGMA journal_mode = WAL")
            level = "FULL" if self.durability == "full" else "NORMAL"
            cursor.execute(f"PRAGMA synchronous = {level}")
            # A backstop for `checkpoint_later`: 64 MiB of 4 KiB pages.
            cursor.execute("PRAGMA wal_autocheckpoint = 16384")
        else:
            level = "on" if self.durability == "full" else "off"
            cursor.execute(f"SET SESSION synchronous_commit TO {level}")
        cursor.close()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise StoreError(
            f"The database must be sqlite:///PATH or postgresql://HOST/NAME. Given: {url!r}."
        ) from None
    backend = parsed.drivername.partition("+")[0]
    if backend in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise StoreError(
            "The database must be sqlite:///PATH or postgresql://HOST/NAME. "
            f"Given: {parsed.render_as_string(hide_password=True)}."
        )
    return parsed


def _create_private(path: Path) -> None:
    """Make the file readable by its owner only; SQLite gives its WAL the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"The database {path} cannot be opened: {error.strerror}.") from error


def _postgres() -> ModuleType:
    """Raises StoreError without its driver."""
    try:
        return import_module("llamastream.store.postgres")
    except ModuleNotFoundError as error:
        raise StoreError(
            f"PostgreSQL needs {error.name}: pip install 'llamastream[postgres]'."
        ) from error


def _connect_postgres(dialect: Any, record: Any, args: Any, options: Any) -> Any:
    return _postgres().ImpatientConnection.connect(*args, **options)
