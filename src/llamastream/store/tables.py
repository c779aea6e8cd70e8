"""The tables as the code of today reads them; `migrations` makes them, with keys and indexes.

`num` is the key between tables, `id` the name that people see. `scope` names the API key that made
a row (empty: anonymous). `owner` names the server that generates a response, see `servers`. Columns
give what is stored, whatever that is: `rows` checks it against the checksums and makes values of
it. Sizes are of what is stored, see `rows`.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Dialect,
    Double,
    LargeBinary,
    TableClause,
    Text,
    column,
    literal_column,
    table,
)


class Blob(LargeBinary):
    """Given as it is stored. SQLAlchemy would make bytes of a damaged value, or fail."""

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        return None


def _table(name: str, /, **types: Any) -> TableClause:
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
    updated_at=Double,  # of the store's steady clock: see `clock`
    metadata=Text,  # JSON, as are request, result, sampling and body
    num_items=BigInteger,
    num_bytes=BigInteger,  # of its items
    checksum=BigInteger,  # NULL in rows older than checksums
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
    kept_from=Double,  # when it finished, of the steady clock
    conversation_id=Text,  # kept when the conversation is deleted
    previous_response_id=Text,  # kept likewise: a hole in a chain must show
    request=Text,
    result=Text,
    error=Text,
    prompt_ids=Blob,  # NULL once forgotten, see `prompts`
    sampling=Text,
    token_ids=Blob,  # those folded so far; all, once finished
    logprobs=Blob,
    journal_start=BigInteger,  # journal rows below hold nothing new of it
    restarts=BigInteger,
    tokens_at_restart=BigInteger,
    num_bytes=BigInteger,  # without its items
    checksum=BigInteger,
    start_checksum=BigInteger,  # of what a restart needs
    tokens_checksum=BigInteger,
    model=Text,  # whose tokens these are; NULL: not known
    is_cancelled=BigInteger,  # asked for by another server than its owner
    num_follows=BigInteger,  # counted on while another server's readers follow it
    forgets_prompt=BigInteger,  # or will when it has ended
)

items = _table(
    "items",
    num=BigInteger,
    id=Text,
    body=Text,
    conversation_num=BigInteger,
    position=BigInteger,  # in the conversation
    response_num=BigInteger,
    part=BigInteger,  # of the response: 0 input, 1 output
    num_bytes=BigInteger,
    role=Text,  # its body's, if that has one: who spoke is known without reading what was said
    follows=Text,  # an item's id, or ROOT; NULL: the item of the conversation before it
    checksum=BigInteger,
)

# Settings under a name, one of a name in each scope.
presets = _table(
    "presets",
    num=BigInteger,
    id=Text,
    scope=Text,
    created_at=Double,
    name=Text,
    settings=Text,  # JSON
    checksum=BigInteger,
)

# One row per step, for all streams: an append to the end of one B-tree.
journal = _table(
    "journal", owner=Text, seq=BigInteger, tokens=Blob, logprobs=Blob, checksum=BigInteger
)

# Those that live. A name is used once.
servers = _table("servers", name=Text, model=Text, beat=BigInteger)

idempotency_keys = _table(
    "idempotency_keys",
    scope=Text,
    key=Text,
    digest=Blob,
    created_at=Double,  # of the steady clock
    response_num=BigInteger,
)

# What each scope keeps, counted along by every transaction.
scope_usage = _table("scope_usage", scope=Text, num_responses=BigInteger, num_bytes=BigInteger)

# One row: see `clock`.
store_clock = _table("store_clock", num=BigInteger, state=Text, checksum=BigInteger)
