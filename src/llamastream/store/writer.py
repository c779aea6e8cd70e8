"""The one thread that writes: its connection, and a transaction per group of jobs.

Whatever came while a transaction was under way makes the next one. A job is a function of the
transaction, or how far responses have come. When the database fails, every job of the group fails
with StoreUnavailable and nothing of it was kept; the next group starts on a new connection. A lost
connection is tried again once at once, unless its COMMIT may have come through.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from llamastream.errors import ChatError, Fenced, StoreUnavailable
from llamastream.records import Drawn
from llamastream.store.database import (
    Database,
    is_unavailable,
    translated_errors,
    unavailable,
    unreadable,
)
from llamastream.store.journal import Journal, Refused, Step
from llamastream.store.servers import check_lives, end_session
from llamastream.store.transaction import InProgress, Transaction

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GROUP = 256  # jobs of one transaction
CHECKPOINT_AFTER = 512  # transactions
CHECK_INTERVAL_S = 0.05
MAX_PAUSE_MS = 1000  # within a transaction, of one that hangs: others wait for what it has locked


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    fn: Callable[[Transaction], Any] | None
    drawn: Sequence[Drawn] = ()
    name: str | None = None  # under which the server goes on: this job is a transaction alone


class Writer:
    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self.in_progress: Mapping[str, InProgress] = {}  # by id, as of the last commit
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._conn: Connection | None = None
        self._session: tuple[str, int] | None = None  # the last one at PostgreSQL
        self._must_fold = False
        self._is_committing = False
        self._num_commits = 0
        self._checked_s = -math.inf  # when the files were last seen
        self._closed = False
        self.is_working = True  # the last transaction came through
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)

    def start(self) -> None:
        """Connect. Blocks. Raises StoreUnavailable."""
        with translated_errors():
            self._connect()
        self._must_fold = False
        self._thread.start()

    def append(self, drawn: Sequence[Drawn]) -> asyncio.Future[Refused]:
        return self._submit(_Job(self._loop.create_future(), None, drawn))

    def run(self, fn: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Run `fn` in a transaction; its result is there once that is committed.

        What `fn` raises takes back its own changes alone.
        """
        return self._submit(_Job(self._loop.create_future(), fn))

    def rename(self, name: str, fn: Callable[[Transaction], None]) -> asyncio.Future[None]:
        """Run `fn` in a transaction, fenced or not, and go on as the server `name`.

        What was submitted before belongs to the old name, what comes after to the new one.
        """
        return self._submit(_Job(self._loop.create_future(), fn, name=name))

    async def close(self) -> None:
        """Finish what was submitted, and stop."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _submit(self, job: _Job) -> asyncio.Future[Any]:
        if self._closed:
            closed = StoreUnavailable("The store is closed: the server is stopping.")
            job.future.set_exception(closed)
        else:
            self._jobs.put(job)
        return job.future

    # All below runs on the thread.

    def _run(self) -> None:
        running = True
        while running:
            group = self._next_group()
            running = group[-1] is not None
            jobs = [job for job in group if job is not None]
            for _, part in groupby(jobs, key=lambda job: job.name):
                together = list(part)
                outcomes = self._write(together)
                self._loop.call_soon_threadsafe(_resolve, together, outcomes)
        self._drop_connection()

    def _next_group(self) -> list[_Job | None]:
        group = [self._jobs.get()]
        try:
            while group[-1] is not None and len(group) < MAX_GROUP:
                group.append(self._jobs.get_nowait())
        except Empty:
            pass
        return group

    def _write(self, jobs: list[_Job]) -> list[object]:
        """The outcome of each job: a result or an exception."""
        was_connected = self._conn is not None
        # Broad, since nothing may end this thread: whoever waits must hear of it.
        try:
            outcomes = self._transact(jobs)
        except Exception as error:
            # A database that was started again since the last transaction costs no stream anything.
            # Tokens may be written twice, which does no harm (see `tokens`); all else may not.
            can_repeat = was_connected and not self._is_committing and _is_lost(error)
            failure = self._abandon(error)
            if can_repeat and not self._database.is_sqlite:
                return self._write(jobs)
            self.is_working = False
            return [failure] * len(jobs)
        self.is_working = True
        return outcomes

    def _abandon(self, error: Exception) -> Exception:
        """Give up the connection. Gives what callers hear."""
        self._drop_connection()
        if not isinstance(error, Fenced):  # the database is well
            self._database.forget_idle()
        if is_unavailable(error):
            error = unavailable(error)
        if isinstance(error, ChatError):
            logger.warning("%s", error)
        else:
            logger.error("a transaction failed", exc_info=error)
        return error

    def _transact(self, jobs: list[_Job]) -> list[object]:
        conn = self._conn or self._connect()
        tx, step = Transaction(conn, self.in_progress), Step()
        name = jobs[0].name
        # A step alone is a single statement, and that is a transaction by itself.
        self._is_committing = False
        is_explicit = self._must_fold or any(job.fn is not None for job in jobs)
        self._check_there(at_once=is_explicit)
        if is_explicit:
            self._database.begin(conn)
        if is_explicit and name is None and self._journal.owner:
            check_lives(conn, self._journal.owner)
        if self._must_fold and name is None:
            self._journal.fold_all(tx)
        outcomes = [
            step.take(tx, job.drawn) if job.fn is None else self._call(tx, job.fn) for job in jobs
        ]
        self._journal.write(step)
        if is_explicit:
            tx.charges.write(conn)
            self._is_committing = True
            conn.exec_driver_sql("COMMIT")
        self._check_there(at_once=is_explicit)
        self.in_progress = tx.in_progress
        if name is not None and not isinstance(outcomes[0], Exception):
            self._journal.owner = name
            if self._session is not None:
                self._session = name, self._session[1]
        self._must_fold = self._journal.wants_fold(tx)
        self._num_commits += 1
        if self._num_commits % CHECKPOINT_AFTER == 0:
            self._database.checkpoint_later()
        return outcomes

    def _check_there(self, *, at_once: bool) -> None:
        """Before a transaction, and after it: what is confirmed is in files that have names.

        For steps one look in CHECK_INTERVAL_S is enough: their tokens can be generated again.
        Raises StoreUnavailable.
        """
        now_s = time.monotonic()
        if at_once or now_s - self._checked_s > CHECK_INTERVAL_S:
            self._database.check_there()
            self._checked_s = now_s

    def _call(self, tx: Transaction, fn: Callable[[Transaction], Any]) -> object:
        branch = tx.branch()
        tx.conn.exec_driver_sql("SAVEPOINT job")
        try:
            outcome = fn(branch)
            tx.join(branch)
        except Exception as error:
            if is_unavailable(error):
                raise
            tx.conn.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
            outcome = unreadable(error) or error
        tx.conn.exec_driver_sql("RELEASE SAVEPOINT job")
        return outcome

    def _connect(self) -> Connection:
        conn = self._database.connect()
        try:
            if not self._database.is_sqlite:
                # What was given up may still be under way, when the database hung.
                driver: Any = conn.connection.driver_connection
                if self._session is not None:
                    end_session(conn, *self._session)
                conn.exec_driver_sql(f"SET idle_in_transaction_session_timeout TO {MAX_PAUSE_MS}")
                self._session = self._database.server, driver.info.backend_pid
            self._journal.attach(conn)
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        self._must_fold = True
        return conn

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.invalidate()
            self._conn.close()
            self._conn = None


def _is_lost(error: Exception) -> bool:
    """Whether another connection may do what this one did not."""
    is_unsaid = is_unavailable(error) or isinstance(error, StoreUnavailable)
    return is_unsaid and not isinstance(error, Fenced)


def _resolve(jobs: list[_Job], outcomes: list[object]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue  # its caller was cancelled
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
