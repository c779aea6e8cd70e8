"""Idempotency-Keys: the same request under the same key is one response, at whatever server."""

from sqlalchemy import Connection, text

from llamastream.errors import InvalidRequest
from llamastream.records import MAX_KEY_CHARS, IdempotencyKey
from llamastream.store.rows import ID

_ADD = text(
    "INSERT INTO idempotency_keys (scope, key, digest, created_at, response_num) "
    "VALUES (:scope, :key, :digest, :created_at, :response_num) ON CONFLICT DO NOTHING"
)


class KeyTaken(Exception):
    """By another server, since it was looked for."""


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
    """Waits for another server that adds it just now. Raises KeyTaken."""
    values = key._asdict() | {"scope": scope, "created_at": now, "response_num": response_num}
    if not conn.execute(_ADD, values).rowcount:
        raise KeyTaken
