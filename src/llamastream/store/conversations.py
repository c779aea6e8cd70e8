"""Conversations and their items, in the order they were added."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from llamastream.errors import InvalidRequest, NotFound, quoted
from llamastream.records import (
    AllowStore,
    Conversation,
    ConversationLimits,
    Found,
    Item,
    Json,
    Page,
    PageQuery,
)
from llamastream.store.branches import check_follows, path_to, unlink
from llamastream.store.clock import StoreClock
from llamastream.store.database import Database
from llamastream.store.prompts import forget_of_conversations
from llamastream.store.reading import Choose, fetch_page, read_history
from llamastream.store.removal import remove_conversations
from llamastream.store.rows import (
    CONVERSATION_COLUMNS,
    ID,
    ITEM_COLUMNS,
    ROW_BYTES,
    conversation_row,
    find,
    item_row,
    size_of,
    to_conversation,
    to_item,
)
from llamastream.store.search import search
from llamastream.store.tables import conversations, items
from llamastream.store.transaction import Transaction
from llamastream.store.writer import Writer


class Conversations:
    """Every method raises NotFound for an id that `scope` does not have, and StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: StoreClock,
        limits: ConversationLimits,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._limits = limits

    async def create(
        self,
        id: str,
        *,
        scope: str,
        metadata: Json,
        items: Sequence[Item] = (),
        allow: AllowStore | None = None,
    ) -> Conversation:
        """Raises InvalidRequest for items beyond the limits, and what `allow` raises."""
        conversation = Conversation(id, scope, self._clock.wall(), metadata)
        row = conversation_row(conversation) | {"num_items": 0, "num_bytes": 0}

        def write(tx: Transaction) -> None:
            conn = tx.conn
            tx.allow(allow, scope, is_response=False)
            row["updated_at"] = self._clock.steady()
            num = conn.execute(insert(conversations).values(row).returning(conversations.c.num))
            own_bytes = ROW_BYTES + size_of(row["metadata"])
            tx.charges.add(scope, num_bytes=own_bytes)
            self._append(tx, num.scalar_one(), items, scope)

        await self._writer.run(write)
        return conversation

    async def get(self, id: str, *, scope: str) -> Conversation:
        return await self._database.read(lambda conn: to_conversation(_find(conn, id, scope)))

    async def update(self, id: str, *, scope: str, metadata: Json) -> Conversation:
        """Replace the metadata."""

        def write(tx: Transaction) -> Conversation:
            conn = tx.conn
            row = _find(conn, id, scope)
            changed = replace(to_conversation(row), metadata=metadata)
            values = conversation_row(changed)
            num_bytes = size_of(values["metadata"]) - size_of(row.metadata)
            tx.charges.add(scope, num_bytes=num_bytes)
            change = update(conversations).where(conversations.c.id == id)
            conn.execute(change.values(values | {"updated_at": self._clock.steady()}))
            return changed

        return await self._writer.run(write)

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete a conversation. Items that a response holds stay with that."""

        def write(tx: Transaction) -> None:
            num = find(tx.conn, "conversation", id, scope).num
            remove_conversations(tx, [num])

        await self._writer.run(write)

    async def list(self, *, scope: str, query: PageQuery) -> Page[Conversation]:
        base = select(*CONVERSATION_COLUMNS).where(conversations.c.scope == scope)
        return await self._database.read(
            lambda conn: fetch_page(conn, base, to_conversation, query, conversations)
        )

    async def search(self, query: str, *, scope: str, limit: int) -> tuple[Found, ...]:
        """See `search`. Raises InvalidRequest."""

        def read(conn: Connection) -> tuple[Found, ...]:
            with self._database.snapshot(conn):
                return search(conn, query, scope, limit)

        return await self._database.read(read)

    async def items(self, id: str, *, scope: str, query: PageQuery) -> Page[Item]:
        def read(conn: Connection) -> Page[Item]:
            num = find(conn, "conversation", id, scope).num
            base = select(*ITEM_COLUMNS).where(items.c.conversation_num == num)
            size = items.c.num_bytes
            return fetch_page(conn, base, to_item, query, items, order_by="position", size=size)

        return await self._database.read(read)

    async def history(
        self, id: str, *, scope: str, choose: Choose | None = None, after: str | None = None
    ) -> tuple[Item, ...]:
        """The items that `choose` wants, oldest first: what a new response of it starts from.

        Those on the way to the item `after`, or to the newest. `choose` is called with the outlines
        of them, on another thread, before any is read.
        """

        def read(conn: Connection) -> tuple[Item, ...]:
            with self._database.snapshot(conn):
                num = find(conn, "conversation", id, scope).num
                rows = select(items).where(items.c.conversation_num == num)
                path = path_to(conn, num, after)
                return read_history(conn, rows.order_by(items.c.position), choose, path)

        return await self._database.read(read)

    async def item(self, id: str, item_id: str, *, scope: str) -> Item:
        def read(conn: Connection) -> Item:
            num = find(conn, "conversation", id, scope).num
            return to_item(_find_item(conn, num, item_id, *ITEM_COLUMNS))

        return await self._database.read(read)

    async def add_items(
        self, id: str, new: Sequence[Item], *, scope: str, allow: AllowStore | None = None
    ) -> None:
        """Append, in order.

        Raises InvalidRequest for an item id that the conversation has, and beyond the limits, and
        what `allow` raises.
        """

        def write(tx: Transaction) -> None:
            tx.allow(allow, scope, is_response=False)
            self._append(tx, find(tx.conn, "conversation", id, scope).num, new, scope)

        await self._writer.run(write)

    async def delete_item(self, id: str, item_id: str, *, scope: str) -> None:
        """Take an item out of a conversation. It stays with the response that holds it."""

        def write(tx: Transaction) -> None:
            conn = tx.conn
            num = find(conn, "conversation", id, scope).num
            size = _find_item(conn, num, item_id, items.c.num_bytes).num_bytes
            forget_of_conversations(tx, [num])
            unlink(conn, num, item_id)
            of_item = (items.c.conversation_num == num) & (items.c.id == item_id)
            gone = conn.execute(delete(items).where(of_item, items.c.response_num.is_(None)))
            if gone.rowcount:
                tx.charges.add(scope, num_bytes=-size)
            conn.execute(update(items).where(of_item).values(conversation_num=None, position=None))
            _count(conn, num, num_items=-1, num_bytes=-size, now=self._clock.steady())

        await self._writer.run(write)

    def _append(self, tx: Transaction, num: int, new: Sequence[Item], scope: str) -> None:
        """Add items to the end of conversation `num`."""
        conn = tx.conn
        start = next_position(conn, num)
        _check_new(conn, num, new)
        for item in new:
            check_follows(conn, num, item.follows)
        rows = [
            item_row(item) | {"conversation_num": num, "position": start + k}
            for k, item in enumerate(new)
        ]
        num_bytes = sum(row["num_bytes"] for row in rows)
        check_room(conn, num, self._limits, num_items=len(rows), num_bytes=num_bytes)
        if rows:
            conn.execute(insert(items), rows)
        tx.charges.add(scope, num_bytes=num_bytes)
        _count(conn, num, num_items=len(rows), num_bytes=num_bytes, now=self._clock.steady())


def check_room(
    conn: Connection, num: int, limits: ConversationLimits, *, num_items: int, num_bytes: int
) -> None:
    """Raises InvalidRequest where conversation `num` cannot take so much more."""
    columns = (conversations.c.num_items, conversations.c.num_bytes)
    has = conn.execute(select(*columns).where(conversations.c.num == num)).one()
    if has.num_items + num_items > limits.max_items:
        limit = f"{limits.max_items} items. Given: {has.num_items}, and {num_items} more."
    elif has.num_bytes + num_bytes > limits.max_bytes:
        limit = f"{limits.max_bytes} bytes. Given: {has.num_bytes}, and {num_bytes} more."
    else:
        return
    raise InvalidRequest(
        f"A conversation must hold <= {limit} Delete items of it, or go on in a new conversation. "
        "The server's operator sets the limit (--max-conversation-items, --max-conversation-mib).",
        param="conversation",
    )


def _count(conn: Connection, num: int, *, num_items: int, num_bytes: int, now: float) -> None:
    """Note that conversation `num` has changed, and by how much."""
    conn.execute(
        update(conversations)
        .where(conversations.c.num == num)
        .values(
            num_items=conversations.c.num_items + num_items,
            num_bytes=conversations.c.num_bytes + num_bytes,
            updated_at=now,
        )
    )


def next_position(conn: Connection, num: int) -> int:
    """Where conversation `num` ends. Until the transaction's end nobody else appends to it."""
    # The row is locked where several servers write (SQLite has one writer, and no such lock).
    conn.execute(select(conversations.c.num).where(conversations.c.num == num).with_for_update())
    last = select(func.max(items.c.position)).where(items.c.conversation_num == num)
    end = conn.execute(last).scalar()
    return 0 if end is None else int(end) + 1


def join_conversation(conn: Connection, id: str, scope: str, response_num: int, now: float) -> None:
    """Append the items of a response to its conversation, unless that was deleted meanwhile."""
    ours = (conversations.c.id == id) & (conversations.c.scope == scope)
    num = conn.execute(select(conversations.c.num).where(ours)).scalar()
    if num is None:
        return
    position = next_position(conn, num)
    columns = (items.c.num, items.c.num_bytes)
    of_response = select(*columns).where(items.c.response_num == response_num)
    joining = conn.execute(of_response.order_by(items.c.part, items.c.num)).all()
    for k, item in enumerate(joining):
        change = update(items).where(items.c.num == item.num)
        conn.execute(change.values(conversation_num=num, position=position + k))
    num_bytes = sum(item.num_bytes for item in joining)
    _count(conn, num, num_items=len(joining), num_bytes=num_bytes, now=now)


def _find(conn: Connection, id: str, scope: str) -> Row[Any]:
    return find(conn, "conversation", id, scope, *CONVERSATION_COLUMNS)


def _check_new(conn: Connection, num: int, new: Sequence[Item]) -> None:
    ids = [item.id for item in new]
    taken = select(items.c.id).where(items.c.conversation_num == num, items.c.id.in_(ids))
    known = set(conn.execute(taken).scalars()) if ids else set()
    if known or len(set(ids)) < len(ids):
        repeated = sorted(known) or sorted({id for id in ids if ids.count(id) > 1})
        raise InvalidRequest(
            f"items must have ids that are new to the conversation. Given again: {repeated[0]}.",
            param="items",
        )


def _find_item(conn: Connection, num: int, item_id: str, *columns: ColumnElement[Any]) -> Row[Any]:
    row = None
    if ID.fullmatch(item_id):
        of_num = select(*columns).where(items.c.conversation_num == num)
        row = conn.execute(of_num.where(items.c.id == item_id)).one_or_none()
    if row is None:
        raise NotFound(f"Item {quoted(item_id)} not found.", param="item_id")
    return row
