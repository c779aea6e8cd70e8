"""Finding conversations by the words of their titles and texts.

SQLite keeps the words of items in a table that triggers keep up (FTS5); PostgreSQL has an index of
them. Both are made by `migrations`.
"""

import re
from collections.abc import Iterator
from itertools import islice

from sqlalchemy import Connection, select, text

from llamastream.errors import InvalidRequest, quoted
from llamastream.records import Found
from llamastream.store.migrations import WORDS_OF_BODY
from llamastream.store.rows import (
    CONVERSATION_COLUMNS,
    ITEM_COLUMNS,
    to_conversation,
    to_item,
)
from llamastream.store.tables import conversations, items

MAX_QUERY_CHARS = 200
MAX_ITEMS = 20_000  # with the words, that are looked at
MAX_TITLES = 5_000  # conversations with the words in their metadata that are looked at

# SQLite gives these as they are asked for, so that few are read of a word that is everywhere.
IN_SQLITE = f"""
    SELECT conversations.num, items.num FROM item_words
    JOIN items ON items.num = item_words.rowid
    JOIN conversations ON conversations.num = items.conversation_num
    WHERE item_words MATCH :words AND conversations.scope = :scope
    ORDER BY item_words.rowid DESC LIMIT {MAX_ITEMS}"""
IN_POSTGRES = f"""
    SELECT conversations.num, items.num FROM items
    JOIN conversations ON conversations.num = items.conversation_num
    WHERE {WORDS_OF_BODY} @@ to_tsquery('simple', :words) AND conversations.scope = :scope
    ORDER BY items.num DESC LIMIT {MAX_ITEMS}"""


def search(conn: Connection, query: str, scope: str, limit: int) -> tuple[Found, ...]:
    """Conversations with all words of `query`, the last of which may go on: first those that have
    them in their titles, then those with a text that has them, with the newest such item.

    Raises InvalidRequest.
    """
    words = words_of(query)
    found = {one.conversation.id: one for one in islice(_titled(conn, words, scope), limit)}
    if len(found) < limit:
        for one in _said(conn, words, scope, limit):
            found.setdefault(one.conversation.id, one)
    return tuple(found.values())[:limit]


def words_of(query: str) -> list[str]:
    """In lower case. Raises InvalidRequest."""
    words = re.findall(r"\w+", query.lower())
    if not words or len(query) > MAX_QUERY_CHARS:
        raise InvalidRequest(
            f"query must hold a word, and <= {MAX_QUERY_CHARS} characters. Given: {quoted(query)}.",
            param="query",
        )
    return words


def _titled(conn: Connection, words: list[str], scope: str) -> Iterator[Found]:
    mine = select(*CONVERSATION_COLUMNS).where(conversations.c.scope == scope)
    for word in filter(str.isascii, words):  # the databases' case is that of ASCII
        mine = mine.where(conversations.c.metadata.icontains(word, autoescape=True))
    for row in conn.execute(mine.order_by(conversations.c.num.desc()).limit(MAX_TITLES)):
        conversation = to_conversation(row)
        title = str(conversation.metadata.get("title", "")).lower()
        if all(word in title for word in words):
            yield Found(conversation, None)


def _said(conn: Connection, words: list[str], scope: str, limit: int) -> Iterator[Found]:
    newest = _newest(conn, words, scope, limit)
    of_nums = select(conversations.c.num, *CONVERSATION_COLUMNS)
    rows = conn.execute(of_nums.where(conversations.c.num.in_(newest)))
    held = {row.num: to_conversation(row) for row in rows}
    said = select(items.c.num, *ITEM_COLUMNS).where(items.c.num.in_(newest.values()))
    found = {row.num: to_item(row) for row in conn.execute(said)}
    for num, item_num in newest.items():
        yield Found(held[num], found[item_num])


def _newest(conn: Connection, words: list[str], scope: str, limit: int) -> dict[int, int]:
    """The nums of conversations with the newest item of each that has the words, newest first."""
    if conn.dialect.name == "sqlite":
        statement = IN_SQLITE
        query = " ".join(f'"{word}"' for word in words) + "*"
    else:
        statement = IN_POSTGRES
        query = " & ".join(f"'{word}'" for word in words) + ":*"
    newest: dict[int, int] = {}
    with conn.execute(text(statement), {"words": query, "scope": scope}) as rows:
        for conversation_num, item_num in rows:
            newest.setdefault(conversation_num, item_num)
            if len(newest) == limit:
                break
    return newest
