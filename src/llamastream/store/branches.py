"""Conversations that branch: an item may follow another than the one that was added before it.

What an item follows was there before it. So every way from an item to the root is found by going
back once through the outlines of a conversation.
"""

from typing import Any

from sqlalchemy import Connection, Row, exists, select, update

from llamastream.errors import NotFound, quoted
from llamastream.records import ROOT
from llamastream.store.rows import ITEM_COLUMNS, item_row, to_item
from llamastream.store.tables import items


def path_to(conn: Connection, conversation_num: int, after: str | None) -> set[int] | None:
    """The nums of the items on the way to `after` (None: to the newest); None: all there are.

    Raises NotFound for an item that the conversation does not have.
    """
    if after is None and not _has_branches(conn, conversation_num):
        return None
    if after == ROOT:
        return set()
    rows = _outlines(conn, conversation_num)
    places = {row.id: k for k, row in enumerate(rows)}
    if after is not None and after not in places:
        raise NotFound(f"Item {quoted(after)} not found.", param="conversation.after")
    k = len(rows) - 1 if after is None else places[after]
    path = set()
    while k >= 0:
        path.add(rows[k].num)
        k = _before(rows, places, k)
    return path


def check_follows(conn: Connection, conversation_num: int, after: str | None) -> None:
    """Raises NotFound for an item that the conversation does not have."""
    if after in (None, ROOT):
        return
    found = select(items.c.num).where(items.c.conversation_num == conversation_num)
    if conn.execute(found.where(items.c.id == after)).scalar() is None:
        raise NotFound(f"Item {quoted(str(after))} not found.", param="after")


def unlink(conn: Connection, conversation_num: int, item_id: str) -> None:
    """Let what follows an item follow what that follows: it is about to leave the conversation."""
    if not _has_branches(conn, conversation_num):
        return
    rows = _outlines(conn, conversation_num)
    places = {row.id: k for k, row in enumerate(rows)}
    gone = places[item_id]
    before = _before(rows, places, gone)
    parent = rows[before].id if before >= 0 else ROOT
    for k, row in enumerate(rows):
        if row.follows == item_id or (row.follows is None and k == gone + 1):
            _follow(conn, row.num, parent)


def _has_branches(conn: Connection, conversation_num: int) -> bool:
    mine = items.c.conversation_num == conversation_num
    return bool(conn.execute(select(exists().where(mine, items.c.follows.is_not(None)))).scalar())


def _outlines(conn: Connection, conversation_num: int) -> list[Row[Any]]:
    columns = (items.c.num, items.c.id, items.c.follows)
    mine = select(*columns).where(items.c.conversation_num == conversation_num)
    return list(conn.execute(mine.order_by(items.c.position)))


def _before(rows: list[Row[Any]], places: dict[str, int], k: int) -> int:
    """The place of what item `k` follows; -1 is the root."""
    follows = rows[k].follows
    if follows is None:
        return k - 1
    before = places.get(follows, -1)
    return before if before < k else -1


def _follow(conn: Connection, num: int, parent: str) -> None:
    this = items.c.num == num
    item = to_item(conn.execute(select(*ITEM_COLUMNS).where(this)).one())
    conn.execute(update(items).where(this).values(item_row(item._replace(follows=parent))))
