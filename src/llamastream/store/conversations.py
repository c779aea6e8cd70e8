"""Conversations and their items, in the order they were added."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from llamastream.errors import (
    InvalidRequest,
    NotFound,
    quoted,
)
from llamastream.store.database import Database
from llamastream.store.records import Conversation, Item, Json, Page, PageQuery
from llamastream.store.rows import ID, ITEM_COLUMNS, fetch_page, find, to_conversation, to_item
from llamastream.store.tables import conversations, items
from llamastream.store.writer import Writer

COLUMNS = (
    conversations.c.id,
    conversations.c.scope,
    conversations.c.created_at,
    conversations.c.metadata,
)


class Conversations:
    """Every method raises NotFound for an id that `scope` does not have, and StoreUnavailable."""

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], float]) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock

    async def create(
        self, id: str, *, scope: str, metadata: Json, items: Sequence[Item] = ()
    ) -> Conversation:
        now = self._clock()
        row = {"id": id, "scope": scope, "metadata": metadata, "created_at": now, "updated_at": now}

        def write(conn: Connection) -> None:
            num = conn.execute(insert(conversations).values(row).returning(conversations.c.num))
            append_items(conn, num.scalar_one(), items, now)

        await self._writer.run(write)
        return Conversation(id, scope, now, metadata)

    async def get(self, id: str, *, scope: str) -> Conversation:
        return await self._database.read(
            lambda conn: to_conversation(find(conn, "conversation", id, scope, *COLUMNS))
        )

    async def update(self, id: str, *, scope: str, metadata: Json) -> Conversation:
        """Replace the metadata."""

        def write(conn: Connection) -> Conversation:
            row = find(conn, "conversation", id, scope, *COLUMNS)
            change = update(conversations).where(conversations.c.id == id)
            conn.execute(change.values(metadata=metadata, updated_at=self._clock()))
            return Conversation(id, scope, row.created_at, metadata)

        return await self._writer.run(write)

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete a conversation. Items that a response holds stay with that."""

        def write(conn: Connection) -> None:
            remove_conversations(conn, [find(conn, "conversation", id, scope).num])

        await self._writer.run(write)

    async def list(self, *, scope: str, query: PageQuery) -> Page[Conversation]:
        base = select(*COLUMNS).where(conversations.c.scope == scope)
        return await self._database.read(
            lambda conn: fetch_page(conn, base, to_conversation, query, conversations)
        )

    async def items(self, id: str, *, scope: str, query: PageQuery) -> Page[Item]:
        def read(conn: Connection) -> Page[Item]:
            num = find(conn, "conversation", id, scope).num
            base = select(*ITEM_COLUMNS).where(items.c.conversation_num == num)
            return fetch_page(conn, base, to_item, query, items, order_by="position")

        return await self._database.read(read)

    async def history(self, id: str, *, scope: str) -> tuple[Item, ...]:
        """All items, oldest first: what a new response of the conversation starts from."""

        def read(conn: Connection) -> tuple[Item, ...]:
            num = find(conn, "conversation", id, scope).num
            statement = select(*ITEM_COLUMNS).where(items.c.conversation_num == num)
            return tuple(map(to_item, conn.execute(statement.order_by(items.c.position))))

        return await self._database.read(read)

    async def item(self, id: str, item_id: str, *, scope: str) -> Item:
        def read(conn: Connection) -> Item:
            return _find_item(conn, find(conn, "conversation", id, scope).num, item_id)

        return await self._database.read(read)

    async def add_items(self, id: str, new: Sequence[Item], *, scope: str) -> None:
        """Append, in order. Raises InvalidRequest for an item id that the conversation has."""

        def write(conn: Connection) -> None:
            append_items(conn, find(conn, "conversation", id, scope).num, new, self._clock())

        await self._writer.run(write)

    async def delete_item(self, id: str, item_id: str, *, scope: str) -> None:
        """Take an item out of a conversation. It stays with the response that holds it."""

        def write(conn: Connection) -> None:
            num = find(conn, "conversation", id, scope).num
            _find_item(conn, num, item_id)
            of_item = (items.c.conversation_num == num) & (items.c.id == item_id)
            conn.execute(delete(items).where(of_item, items.c.response_num.is_(None)))
            conn.execute(update(items).where(of_item).values(conversation_num=None, position=None))
            change = update(conversations).where(conversations.c.num == num)
            conn.execute(change.values(updated_at=self._clock()))

        await self._writer.run(write)


def append_items(conn: Connection, num: int, new: Sequence[Item], now: float) -> None:
    """Add items to the end of conversation `num`."""
    start = next_position(conn, num)
    ids = [item.id for item in new]
    taken = select(items.c.id).where(items.c.conversation_num == num, items.c.id.in_(ids))
    known = set(conn.execute(taken).scalars()) if ids else set()
    if known or len(set(ids)) < len(ids):
        repeated = sorted(known) or sorted({id for id in ids if ids.count(id) > 1})
        raise InvalidRequest(
            f"items must have ids that are new to the conversation. Given again: {repeated[0]}.",
            param="items",
        )
    rows = [
        {"id": item.id, "body": item.body, "conversation_num": num, "position": start + k}
        for k, item in enumerate(new)
    ]
    if rows:
        conn.execute(insert(items), rows)
    conn.execute(update(conversations).where(conversations.c.num == num).values(updated_at=now))


def next_position(conn: Connection, num: int) -> int:
    """Where conversation `num` ends. Until the transaction's end nobody else appends to it."""
    # The row is locked where several servers write (SQLite has one writer, and no such lock).
    conn.execute(select(conversations.c.num).where(conversations.c.num == num).with_for_update())
    last = select(func.max(items.c.position)).where(items.c.conversation_num == num)
    end = conn.execute(last).scalar()
    return 0 if end is None else int(end) + 1


def remove_conversations(conn: Connection, nums: Sequence[int]) -> None:
    inside = items.c.conversation_num.in_(nums)
    conn.execute(delete(items).where(inside, items.c.response_num.is_(None)))
    conn.execute(update(items).where(inside).values(conversation_num=None, position=None))
    conn.execute(delete(conversations).where(conversations.c.num.in_(nums)))


def _find_item(conn: Connection, num: int, item_id: str) -> Item:
    row = None
    if ID.fullmatch(item_id):
        of_num = select(*ITEM_COLUMNS).where(items.c.conversation_num == num)
        row = conn.execute(of_num.where(items.c.id == item_id)).one_or_none()
    if row is None:
        raise NotFound(f"Item {quoted(item_id)} not found.", param="item_id")
    return to_item(row)
