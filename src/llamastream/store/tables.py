"""The tables as the code of today reads them; `migrations` makes them, with keys and indexes.

`num` is the key between tables, `id` the name that people see. `scope` names the API key that made
a row (empty: anonymous). `owner` names the server that generates a response: replicas that share
one PostgreSQL have different names.
"""

from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Dialect,
    Double,
    LargeBinary,
    TableClause,
    Text,
    TypeDecorator,
    column,
    literal_column,
    table,
)


class JsonText(TypeDecorator[Any]):
    """JSON kept as text: the same keys in the same order come back, from either database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)


def _table(name: str, **types: Any) -> TableClause:
    return table(name, *(column(column_name, kind) for column_name, kind in types.items()))


# How an id begins tells what it is of. An index is used for exactly this text only.
KIND = literal_column("substr(id, 1, 5)", Text)
KIND_CHARS = 5

conversations = _table(
    "conversations",
    num=BigInteger,
    id=Text,
    scope=Text,
    created_at=Double,
    updated_at=Double,
    metadata=JsonText,
)

responses = _table(
    "responses",
    num=BigInteger,
    id=Text,
    scope=Text,
    owner=Text,
    status=Text,
    created_at=Double,
    finished_at=Double,
    conversation_id=Text,  # kept when the conversation is deleted
    previous_response_id=Text,  # kept likewise: a hole in a chain must show
    request=JsonText,
    result=JsonText,
    error=Text,
    prompt_ids=LargeBinary,  # NULL once finished
    sampling=JsonText,
    token_ids=LargeBinary,  # those folded so far; all, once finished
    logprobs=LargeBinary,
    journal_start=BigInteger,  # journal rows below hold nothing new of it
    restarts=BigInteger,
    tokens_at_restart=BigInteger,
)

items = _table(
    "items",
    num=BigInteger,
    id=Text,
    body=JsonText,
    conversation_num=BigInteger,
    position=BigInteger,  # in the conversation
    response_num=BigInteger,
    part=BigInteger,  # of the response: 0 input, 1 output
)

# One row per step, for all streams: an append to the end of one B-tree.
journal = _table("journal", owner=Text, seq=BigInteger, tokens=LargeBinary, logprobs=LargeBinary)

idempotency_keys = _table(
    "idempotency_keys",
    scope=Text,
    key=Text,
    digest=LargeBinary,
    created_at=Double,
    response_num=BigInteger,
)
