"""The tables as the code of today reads them; `migrations` is how a database gets there.

`num` is the key between tables, `id` the name that people see. `scope` names the API key that made
a row (empty: anonymous). `owner` names the server that generates a response: replicas that share
one PostgreSQL have different names.
"""

from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)


class JsonText(TypeDecorator[Any]):
    """JSON kept as text: the same keys in the same order come back, from either database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)


# SQLite numbers rows by itself only where the type is exactly INTEGER.
Num = BigInteger().with_variant(Integer, "sqlite")

# How an id begins tells what it is of. Text, since an index is used for the same text only.
KIND = text("substr(id, 1, 5)")
KIND_CHARS = 5

metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("num", Num, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("scope", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("metadata", JsonText, nullable=False),
    Index("conversations_scope", "scope", "num"),
    Index("conversations_updated_at", "updated_at"),
)

responses = Table(
    "responses",
    metadata,
    Column("num", Num, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("scope", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("conversation_id", Text),  # kept when the conversation is deleted
    Column("previous_response_id", Text),  # kept likewise: a hole in a chain must show
    Column("request", JsonText, nullable=False),
    Column("result", JsonText),
    Column("error", Text),
    Column("prompt_ids", LargeBinary),  # NULL once finished
    Column("sampling", JsonText, nullable=False),
    Column("token_ids", LargeBinary, nullable=False),  # those folded so far; all, once finished
    Column("logprobs", LargeBinary),
    Column("journal_start", Num, nullable=False),  # journal rows below hold nothing new of it
    Column("restarts", Integer, nullable=False),
    Column("tokens_at_restart", Integer, nullable=False),
    Index("responses_previous", "previous_response_id"),
    Index("responses_finished_at", "finished_at"),
    Index("responses_status", "status", "owner"),
    Index("responses_kind", "scope", KIND, "num"),
)

items = Table(
    "items",
    metadata,
    Column("num", Num, primary_key=True),
    Column("id", Text, nullable=False),
    Column("body", JsonText, nullable=False),
    Column("conversation_num", Num, ForeignKey("conversations.num", ondelete="SET NULL")),
    Column("position", Num),  # in the conversation
    Column("response_num", Num, ForeignKey("responses.num", ondelete="SET NULL")),
    Column("part", Integer),  # of the response: 0 input, 1 output
    Index("items_conversation", "conversation_num", "position", unique=True),
    Index("items_conversation_id", "conversation_num", "id", unique=True),
    Index("items_response", "response_num", "part", "num"),
)

# One row per step, for all streams: an append to the end of one B-tree.
journal = Table(
    "journal",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("seq", Num, primary_key=True, autoincrement=False),
    Column("tokens", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("response_num", Num, ForeignKey("responses.num", ondelete="CASCADE"), nullable=False),
    Index("idempotency_keys_response", "response_num"),
    Index("idempotency_keys_created_at", "created_at"),
)
