"""Idempotency-Keys: the same request under the same key is one response, at whatever server."""

from sqlalchemy import Connection, text

from llamastream.errors import InvalidRequest
from llamastream.records import MAX_KEY_CHARS, IdempotencyKey
from llamastream.store.rows import ID

_ADD = text(
    "INSERT INTO idempotency_keys (scope, key, digest, created_at, response_num) "
    "VALUES (:scope, :key, :digest, :created_at, :response_num) ON CONFLICT DO NOTHING"
)


# To wait for a key, with others held, could make a ring of servers that wait for each other.
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, hashtext(:scope)))")


class KeyTaken(Exception):
    """By another server, since it was looked for, or just now."""


def check_key(key: IdempotencyKey) -> None:
    """Raises InvalidRequest."""
    if len(key.key) > MAX_KEY_CHARS or not ID.fullmatch(key.key):
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} visible ASCII characters. "
            f"Given: {len(key.key)} characters.",
            param="Idempotency-Key",
        )


def add_key(
    conn: Connection, key: IdempotencyKey, scope: str, response_num: int, *, now: float
) -> None:
    """Raises KeyTaken."""
    names = {"scope": scope, "key": key.key}
    if conn.dialect.name == "postgresql" and not conn.execute(_LOCK, names).scalar():
        raise KeyTaken
    values = key._asdict() | {"scope": scope, "created_at": now, "response_num": response_num}
    if not conn.execute(_ADD, values).rowcount:
        raise KeyTaken
