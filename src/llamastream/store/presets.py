"""Presets: options of requests under a name. Kept until they are deleted, whatever their age."""

from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, update

from llamastream.errors import InvalidRequest
from llamastream.records import AllowStore, Json, Page, PageQuery, Preset
from llamastream.store.clock import StoreClock
from llamastream.store.database import Database
from llamastream.store.reading import fetch_page
from llamastream.store.rows import PRESET_COLUMNS, ROW_BYTES, find, preset_row, size_of, to_preset
from llamastream.store.tables import presets
from llamastream.store.transaction import Transaction
from llamastream.store.writer import Writer

MAX_PRESETS = 100  # of a scope: one page of a list
# Two servers that save in a scope come one after the other.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('presets', hashtext(:scope)))")


class Presets:
    """Every method raises NotFound for an id that `scope` does not have, and StoreUnavailable."""

    def __init__(self, database: Database, writer: Writer, clock: StoreClock) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock

    async def save(
        self, id: str, *, scope: str, name: str, settings: Json, allow: AllowStore | None = None
    ) -> Preset:
        """A new preset, or the one of this name with other settings: that keeps its id.

        Raises InvalidRequest for one too many, and what `allow` raises.
        """
        new = Preset(id, scope, self._clock.wall(), name, settings)

        def write(tx: Transaction) -> Preset:
            tx.allow(allow, scope, is_response=False)
            return _save(tx, new)

        return await self._writer.run(write)

    async def get(self, id: str, *, scope: str) -> Preset:
        return await self._database.read(
            lambda conn: to_preset(find(conn, "preset", id, scope, *PRESET_COLUMNS))
        )

    async def list(self, *, scope: str, query: PageQuery) -> Page[Preset]:
        base = select(*PRESET_COLUMNS).where(presets.c.scope == scope)
        return await self._database.read(
            lambda conn: fetch_page(conn, base, to_preset, query, presets)
        )

    async def delete(self, id: str, *, scope: str) -> None:
        def write(tx: Transaction) -> None:
            num = find(tx.conn, "preset", id, scope).num
            gone = delete(presets).where(presets.c.num == num)
            for row in tx.conn.execute(gone.returning(*_SIZED)):
                tx.charges.add(scope, num_bytes=-num_bytes_of(*row))

        await self._writer.run(write)


def num_bytes_of(name: str, settings: str) -> int:
    """What a row counts for."""
    return ROW_BYTES + size_of(name, settings)


_SIZED = (presets.c.name, presets.c.settings)


def _save(tx: Transaction, new: Preset) -> Preset:
    conn = tx.conn
    if conn.dialect.name == "postgresql":
        conn.execute(_LOCK, {"scope": new.scope})
    mine = presets.c.scope == new.scope
    of_name = select(presets.c.num, *PRESET_COLUMNS).where(mine, presets.c.name == new.name)
    old = conn.execute(of_name).one_or_none()
    if old is None:
        _check_room(conn, mine)
        row = preset_row(new)
        conn.execute(insert(presets).values(row))
    else:
        kept = to_preset(old)
        new = replace(new, id=kept.id, created_at=kept.created_at)
        row = preset_row(new)
        conn.execute(update(presets).where(presets.c.num == old.num).values(row))
        tx.charges.add(new.scope, num_bytes=-num_bytes_of(old.name, old.settings))
    tx.charges.add(new.scope, num_bytes=num_bytes_of(row["name"], row["settings"]))
    return new


def _check_room(conn: Connection, mine: ColumnElement[bool]) -> None:
    count = conn.execute(select(func.count()).select_from(presets).where(mine)).scalar_one()
    if count >= MAX_PRESETS:
        raise InvalidRequest(
            f"A key must have <= {MAX_PRESETS} presets. Given: {count}, and one more. Delete one, "
            "or give the name of one that is to be replaced.",
            param="name",
        )
