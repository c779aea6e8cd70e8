"""The store as one object: opening, recovering, forgetting, moving, closing."""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, Self

from sqlalchemy import exc

from llamastream.errors import StoreError, StoreUnavailable
from llamastream.records import (
    ConversationLimits,
    Drawn,
    Retention,
    ScopeUsage,
    Swept,
)
from llamastream.store import retention, transfer
from llamastream.store.chains import first_of_chain
from llamastream.store.claims import forget_journals
from llamastream.store.clock import Clocks, StoreClock
from llamastream.store.conversations import Conversations
from llamastream.store.database import Database, Durability, cannot_open, translated_errors
from llamastream.store.journal import Journal, Refused
from llamastream.store.membership import Membership
from llamastream.store.migrations import upgrade
from llamastream.store.presets import Presets
from llamastream.store.prompts import Prompts
from llamastream.store.reading import CHUNK
from llamastream.store.responses import Responses
from llamastream.store.rows import known_ids
from llamastream.store.servers import new_name
from llamastream.store.transaction import Transaction
from llamastream.store.usage import read_usage
from llamastream.store.writer import Writer

logger = logging.getLogger(__name__)

Access = Literal["serve", "create", "write", "read"]
LIMITS = ConversationLimits()
CLOCKS = Clocks()


class Store:
    """Made by `Store.open`, within the event loop that uses it."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        writer: Writer,
        clock: StoreClock,
        limits: ConversationLimits,
        model: str,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self.responses = Responses(database, writer, journal, clock, limits, model)
        self.prompts = Prompts(database)
        self.membership = Membership(database, writer, journal, clock, model)
        self.conversations = Conversations(database, writer, clock, limits)
        self.presets = Presets(database, writer, clock)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        durability: Durability = "normal",
        access: Access = "serve",
        label: str = "main",
        model: str = "any",
        limits: ConversationLimits = LIMITS,
        clocks: Clocks = CLOCKS,
    ) -> Self:
        """Open a database, brought to the newest version if need be.

        "serve" registers a server, in whose name `label` is, and which generates as `model`; the
        others are for the command line. "serve" and "create" make the file of SQLite where there
        is none; it has only one that does not read.
        Raises StoreError, StoreBusy for a second one, StoreUnavailable for what may pass by itself.
        """
        create = access in ("serve", "create")
        database = await asyncio.to_thread(Database, url, durability=durability, create=create)
        if access == "serve":
            database.server = new_name(label)
        journal = Journal(owner=database.server, durability=durability)
        writer = Writer(database, journal)
        store = cls(database, journal, writer, StoreClock(clocks), limits, model)
        try:
            if access != "read":
                database.lock_file()
            await asyncio.to_thread(_prepare, database)
            if access == "serve":
                await asyncio.to_thread(store.membership.register)
            await asyncio.to_thread(writer.start)
            if access != "read":
                await asyncio.to_thread(database.convert)
        except BaseException:
            database.close()
            raise
        if access != "read":
            with contextlib.suppress(StoreUnavailable):  # a full disk; nothing is forgotten then
                await store._advance_clock()
        return store

    @property
    def is_working(self) -> bool:
        """Whether the last transaction came through, and its files are still there."""
        return self._writer.is_working and self._database.is_there

    @property
    def is_lost(self) -> bool:
        """Whether its files were removed or replaced: only a restart or their return helps."""
        return not self._database.is_there

    def append(self, drawn: Sequence[Drawn]) -> asyncio.Future[Refused]:
        """Journal one step of all streams: of each what the database does not have yet.

        Done once it is committed. The result names the responses that were refused, and why; it is
        empty when all is well. Raises StoreUnavailable when nothing was written: the next step
        brings it.
        """
        return self._writer.append(drawn)

    async def usage(self, scope: str) -> ScopeUsage:
        """The responses and bytes that an API key's scope keeps: one row, counted along by every
        transaction. Raises StoreUnavailable."""
        return await self._database.read(lambda conn: read_usage(conn, scope))

    async def first_of_chain(self, id: str, *, scope: str) -> str:
        """The response that began what this one, and those it continues, go on with."""
        return await self._database.read(lambda conn: first_of_chain(conn, id, scope))

    async def missing(self, ids: Iterable[str]) -> set[str]:
        """Which of these are no conversation's and no response's. Raises StoreUnavailable."""
        asked = list(ids)
        missing = set(asked)
        for start in range(0, len(asked), CHUNK):
            some = asked[start : start + CHUNK]
            missing -= await self._database.read(partial(known_ids, ids=some))
        return missing

    async def sweep(self, policy: Retention) -> Swept:
        """Forget a bounded part of what may be forgotten, and give a bounded part of what is free
        back to the file system; call again while there is more."""
        await self._advance_clock()
        now = self._clock.steady()
        planned = await self._database.read(lambda conn: retention.plan(conn, policy, now))

        def write(tx: Transaction) -> Swept:
            swept = retention.sweep(tx, planned, now)
            forget_journals(tx.conn)
            num_pages = 0 if swept.more else self._database.shrink(tx.conn)
            return swept._replace(more=swept.more or num_pages > 0)

        return await self._writer.run(write)

    async def export(self, path: Path) -> int:
        """Write all of the database, as of one moment, and return the number of lines.

        Raises StoreError for a file that cannot be written.
        """
        return await asyncio.to_thread(_export, self._database, path)

    async def import_(self, path: Path, read: Callable[[BinaryIO], Iterable[bytes]] = iter) -> int:
        """Add what an export wrote, all or nothing, and return the number of lines.

        read: makes such lines of the file. Raises InvalidRequest. What it holds in progress is for
        the servers.
        """

        def write(tx: Transaction) -> int:
            with path.open("rb") as file:
                return transfer.import_lines(tx, read(file))

        return await self._writer.run(write)

    async def vacuum(self) -> None:
        """Give free space back to the file system. Blocks all writing: not while serving."""
        await asyncio.to_thread(self._database.vacuum)

    async def close(self) -> None:
        """Write what is outstanding, leave what is in progress to others, and close."""
        try:
            await self.membership.leave()
        finally:
            await self._writer.close()
            await asyncio.to_thread(self._database.close)

    async def _advance_clock(self) -> None:
        self._clock.set(*await self._writer.run(lambda tx: self._clock.advance(tx.conn)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _prepare(database: Database) -> None:
    try:
        with database.connect(is_patient=True) as conn:
            database.begin(conn)
            try:
                applied = upgrade(conn)
                conn.exec_driver_sql("COMMIT")
                logger.info("database=%s migrations=%s", database.name, ",".join(applied) or "none")
            except BaseException:
                conn.exec_driver_sql("ROLLBACK")
                raise
        database.keep()
    except exc.DBAPIError as error:
        raise cannot_open(database.name, error) from error


def _export(database: Database, path: Path) -> int:
    num_lines = 0
    try:
        with (
            _private_file(path) as file,
            translated_errors(),
            database.connect(is_patient=True) as conn,
            database.snapshot(conn),
        ):
            for line in transfer.export_lines(conn):
                file.write(line)
                num_lines += 1
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
    return num_lines


def _private_file(path: Path) -> BinaryIO:
    """Readable by its owner only, also if it was there before: it holds what people said."""
    file = os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fchmod(file.fileno(), 0o600)
    return file
