"""A server among those of one database: its name, what it takes over, and what it hands over.

SQLite has one server, so that nothing has to beat: its start finds whatever the last one left.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, delete, select

from llamastream.errors import Fenced, StoreUnavailable
from llamastream.records import News, Recovery, Status
from llamastream.store import servers, tables
from llamastream.store.claims import Claims, park
from llamastream.store.clock import StoreClock
from llamastream.store.database import Database, translated_errors
from llamastream.store.journal import Journal
from llamastream.store.removal import remove_responses
from llamastream.store.transaction import Transaction
from llamastream.store.writer import Writer

T = TypeVar("T")

LOOK_INTERVAL_S = 0.25
UNSURE_LOOKS = 8  # at the start, until who has no session is dead or back
NOTHING = Recovery((), ())


class Membership:
    """Every method raises StoreUnavailable, and Fenced once others took this server for dead."""

    def __init__(
        self, database: Database, writer: Writer, journal: Journal, clock: StoreClock, model: str
    ) -> None:
        self._database = database
        self._writer = writer
        self._journal = journal
        self._model = model
        self._label = journal.owner.rpartition("-")[0]
        self._is_serving = False
        self._in_progress: set[str] = set()  # here, before the last look
        self._claims = Claims(journal, clock)
        self._lookout = servers.Lookout()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-look")

    @property
    def has_peers(self) -> bool:
        """Whether others could go on with what this server generates."""
        return self._lookout.num_peers > 0

    def register(self) -> None:
        """Under the journal's name; not as one that takes over, before `serve`. Blocks."""
        with translated_errors(), self._database.connect() as conn:
            if self._database.is_sqlite:  # its file is locked: there are no others
                conn.execute(delete(tables.servers))
            servers.register(conn, self._journal.owner)

    async def recover(self) -> Recovery:
        """At the start: what nobody generates, unless there are others who can go on at once."""
        sight = await self.look()
        for _ in range(UNSURE_LOOKS):
            if self._database.is_sqlite or not await self._run(self._lookout.is_unsure):
                break
            await asyncio.sleep(LOOK_INTERVAL_S)
            sight = await self.look()
        return await self._take(sight)

    async def serve(self) -> None:
        """From now on take a share of what nobody generates. Idempotent."""
        if not self._is_serving and self._model:
            name, model = self._journal.owner, self._model
            await self._run(lambda conn: servers.serve(conn, name, model))
            self._is_serving = True

    async def look(self) -> servers.Sight:
        """To be called every LOOK_INTERVAL_S: it is the beat by which others know that we live.

        It waits for no lock.
        """
        self._in_progress = set(self._writer.in_progress)
        name, model, takes = self._journal.owner, self._model, self._is_serving
        return await self._run(lambda conn: self._lookout.look(conn, name, model, takes=takes))

    async def heed(self, sight: servers.Sight) -> News:
        """Take over what was seen last, and see what was removed."""
        own = {one.id for one in sight.own}
        missing, unknown = self._in_progress - own, own - self._writer.in_progress.keys()
        recovery = await self._take(sight)
        if self._database.is_sqlite or not (missing or unknown):
            return News(recovery, sight.own, ())
        removed = await self._writer.run(lambda tx: self._reconcile(tx, missing, unknown))
        return News(recovery, sight.own, removed)

    def _reconcile(self, tx: Transaction, missing: set[str], unknown: set[str]) -> list[str]:
        """Which of those said to be in progress the database does not have: others deleted them.

        `unknown`: the database says that they are ours. A connection was lost as they were begun,
        and their callers were told that they failed.
        """
        removed = [id for id in missing if id in tx.in_progress and not self._is_ours(tx, id)]
        for id in removed:
            del tx.in_progress[id]
        lost = [id for id in unknown if id not in tx.in_progress and self._is_ours(tx, id)]
        if lost:
            nums = select(tables.responses.c.num).where(tables.responses.c.id.in_(lost))
            remove_responses(tx, tx.conn.execute(nums).scalars().all())
        return removed

    def _is_ours(self, tx: Transaction, id: str) -> bool:
        columns = tables.responses.c
        ours = (columns.status == Status.IN_PROGRESS, columns.owner == self._journal.owner)
        here = select(columns.num).where(columns.id == id, *ours)
        return tx.conn.execute(here).first() is not None

    async def rename(self, *, stays: bool) -> None:
        """Leave what is in progress to the others, and go on under a new name.

        `stays`: to take over from others; without, only to end what it does for its readers.
        """
        self._model = self._model if stays else ""
        self._is_serving = False
        self._database.server = name = servers.new_name(self._label)

        def begin_anew(tx: Transaction) -> None:
            self._leave(tx)
            tx.in_progress.clear()
            servers.register(tx.conn, name)
            if not self._database.is_sqlite:
                servers.name_session(tx.conn, name)

        await self._writer.rename(name, begin_anew)

    async def leave(self) -> None:
        """What is in progress is for others, or for the next start. Idempotent."""
        self._thread.shutdown()
        if not self._journal.owner:
            return
        try:
            await self._writer.run(self._leave)
        except Fenced:
            pass
        except StoreUnavailable:
            if self._writer.in_progress:
                raise

    def _leave(self, tx: Transaction) -> None:
        if servers.unregister(tx.conn, self._journal.owner):
            park(tx, self._journal)

    async def _run(self, fn: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._database.read_now, fn)
        except StoreUnavailable:
            self._lookout.forget()
            raise

    async def _take(self, sight: servers.Sight) -> Recovery:
        if not sight.share:
            return NOTHING
        return await self._writer.run(lambda tx: self._claims.take(tx, sight.share))
