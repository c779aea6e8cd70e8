"""Connections to SQLite or PostgreSQL, and threads to read on.

Every connection is in autocommit mode: who wants a transaction says BEGIN. Knows no table. Reads
run on a few threads of their own, which was measured at less than half the time of an async driver.
"""

import asyncio
import logging
import math
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from sqlalchemy import URL, Connection, create_engine, event, exc, make_url

from llamastream.errors import (
    ChatError,
    DamagedRecord,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from llamastream.store import sqlite
from llamastream.store.damage import UNREADABLE
from llamastream.store.sqlite import SqliteFile

logger = logging.getLogger(__name__)

Durability = Literal["normal", "full", "off"]
T = TypeVar("T")

NUM_READERS = 4
DAMAGE = (*UNREADABLE, exc.ArgumentError)  # that one: a place in an order that was read is none
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
    if reason.startswith("Could not decode"):  # SQLite's driver goes on with what it holds
        reason = "text that is not UTF-8"
    return StoreUnavailable(f"The database failed: {reason}. Nothing was written; try again later.")


def cannot_open(name: str, error: exc.DBAPIError) -> ChatError:
    """What a start ends with: StoreUnavailable where a later one may succeed, else StoreError."""
    backend = sqlite if isinstance(error.orig, sqlite3.Error) else _postgres()
    kind = StoreUnavailable if backend.may_pass_later(error.orig) else StoreError
    reason = " ".join(str(error.orig).split()).rstrip(".")
    return kind(f"{name} cannot be opened: {reason}.")


def unreadable(error: Exception) -> DamagedRecord | None:
    """What to tell of an error that no record is known for; None if it is none of a parser."""
    if isinstance(error, ChatError) or not isinstance(error, DAMAGE):
        return None
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{where.name}:{where.lineno}"
    logger.error("damaged row, or a bug of ours: %s in %s", type(error).__name__, place)
    return DamagedRecord("What the database holds of this is damaged: it cannot be read.")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StoreUnavailable for what `is_unavailable`, and DamagedRecord for `unreadable`."""
    try:
        yield
    except exc.DBAPIError as error:
        if not is_unavailable(error):
            raise
        raise unavailable(error) from error
    except DAMAGE as error:
        if (damage := unreadable(error)) is None:
            raise
        raise damage from error


class Database:
    """One database. `durability` is what a commit promises, see `docs/store.md`."""

    def __init__(self, url: str, *, durability: Durability = "normal", create: bool = True) -> None:
        self.url = _parse(url)
        self.durability = durability
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        path = Path(self.url.database or "")
        self.file = SqliteFile(path, create=create) if self.is_sqlite else None
        self.server = ""  # by whose name PostgreSQL knows our sessions
        self._keeper: Connection | None = None
        address, arguments = self.url, {"timeout": sqlite.BUSY_TIMEOUT_S}
        if self.file is not None:
            address = self.file.engine_url(self.url)
        else:
            arguments = _postgres().connect_arguments(self.url)
        self.engine = create_engine(
            address,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # an error's text must not hold what people said
            pool_size=NUM_READERS
            + 4,  # the writer's, the lookout's, the keeper, the command line's
            max_overflow=0,
            pool_pre_ping=not self.is_sqlite,
            connect_args=arguments,
        )
        event.listen(self.engine, "connect", self._configure)
        if not self.is_sqlite:
            event.listen(self.engine, "do_connect", _connect_postgres)
            event.listen(self.engine, "checkout", self._name_session)
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="store-read")

    @property
    def name(self) -> str:
        """For messages: the URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def keep(self) -> None:
        """SQLite: from now on its files are to be those that are there now.

        A connection stays open for that, since the last one to close removes the log.
        """
        if self.file is not None and self._keeper is None:
            self._keeper = self.engine.connect()
            self._keeper.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
            self.file.watch()

    def check_there(self) -> None:
        """SQLite: raise StoreUnavailable if a file was removed or replaced since it was opened."""
        if self.file is not None and not self.file.is_there():
            raise StoreUnavailable(
                f"The database {self.file.path} was removed, moved or replaced while the server "
                "uses it: nothing more is stored. Stop the server, put the files back, start it."
            )

    @property
    def is_there(self) -> bool:
        return self.file is None or self.file.is_there()

    def connect(self, *, is_patient: bool = False) -> Connection:
        """`is_patient` is for statements about whole tables, which may take minutes.

        Raises StoreUnavailable for files that are gone.
        """
        self.check_there()
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
        if self.is_sqlite:
            conn.exec_driver_sql("BEGIN IMMEDIATE")
        elif self.durability == "full":
            conn.exec_driver_sql("BEGIN")
        else:
            # Tokens can be generated again, all else cannot: only theirs may return early.
            conn.exec_driver_sql("BEGIN; SET LOCAL synchronous_commit TO on")

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

    def lock_file(self) -> None:
        """SQLite: be the only server on this file, until the process ends or `close`.

        Before anything else is done with it. Raises StoreBusy when another has the lock.
        """
        if self.file is not None and not self.file.lock():
            raise StoreBusy(
                "Another server generates on this database: stop it, or give this one another "
                "database (--store, --data-dir)."
            )

    def shrink(self, conn: Connection) -> int:
        """Within the caller's transaction; the pages given back. PostgreSQL sees to it itself."""
        return sqlite.shrink(conn) if self.is_sqlite else 0

    def convert(self) -> None:
        """Let a file of an older release shrink. Once it is locked, and nothing writes yet."""
        if self.is_sqlite:
            with translated_errors(), self.connect() as conn:
                sqlite.convert(conn)

    def vacuum(self) -> None:
        with translated_errors(), self.connect(is_patient=True) as conn:
            conn.exec_driver_sql("VACUUM")

    def close(self) -> None:
        self._readers.shutdown(wait=True)
        if self._keeper is not None:
            self._keeper.close()
        self.engine.dispose()
        if self.file is not None:
            self.file.close()

    def _configure(self, raw: Any, _: Any) -> None:
        cursor = raw.cursor()
        if self.is_sqlite:
            sqlite.configure(cursor, is_full=self.durability == "full")
        else:
            level = "on" if self.durability == "full" else "off"
            cursor.execute(f"SET SESSION synchronous_commit TO {level}")
        cursor.close()

    def _name_session(self, raw: Any, record: Any, _: Any) -> None:
        """PostgreSQL: a server's sessions have its name, by which others know that it lives."""
        if record.info.get("server", "") == self.server:
            return
        try:
            raw.execute(
                "SELECT set_config('application_name', %s, false)", (session_of(self.server),)
            )
        except Exception as error:  # lost just now: another is tried
            raise exc.DisconnectionError from error
        record.info["server"] = self.server


def session_of(server: str) -> str:
    """What PostgreSQL calls the sessions of this server."""
    return f"llamastream {server}"


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
