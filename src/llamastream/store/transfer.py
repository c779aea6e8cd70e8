"""A database as lines of JSON, and back: the same lines again, through either database.

Kinds of lines, each after those it refers to: `header`, `conversation`, `response` with its
tokens, `item`, `idempotency_key`.
"""

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from sqlalchemy import Connection, Row, insert, select

from llamastream.errors import InvalidRequest
from llamastream.records import Json, Status
from llamastream.store.journal import read_unfolded
from llamastream.store.ledger import OpenResponse
from llamastream.store.packing import pack_ids, unpack_ids
from llamastream.store.tables import conversations, idempotency_keys, items, responses

FORMAT = 1

_RESPONSE_FIELDS = (
    *("id", "scope", "status", "created_at", "finished_at", "conversation_id"),
    *("previous_response_id", "request", "result", "error", "sampling"),
)
_CONVERSATION_FIELDS = ("id", "scope", "created_at", "updated_at", "metadata")


def export_lines(conn: Connection) -> Iterator[bytes]:
    """Every line of the file. The caller holds a snapshot."""
    yield _line("header", {"format": FORMAT})
    for row in _rows(conn, select(conversations).order_by(conversations.c.num)):
        yield _line("conversation", {name: getattr(row, name) for name in _CONVERSATION_FIELDS})
    for row in _rows(conn, select(responses).order_by(responses.c.num)):
        yield _line("response", _response_fields(conn, row))
    yield from _export_items(conn)
    keys = select(idempotency_keys, responses.c.id.label("response_id")).join(
        responses, responses.c.num == idempotency_keys.c.response_num
    )
    for row in _rows(conn, keys.order_by(idempotency_keys.c.scope, idempotency_keys.c.key)):
        fields = {
            name: getattr(row, name) for name in ("scope", "key", "created_at", "response_id")
        }
        yield _line("idempotency_key", fields | {"digest": _encode(row.digest)})


def import_lines(conn: Connection, lines: Iterable[bytes], *, owner: str) -> int:
    """Add every line within the caller's transaction, and return how many there were.

    Raises InvalidRequest, which names the line, for one that is not ours or whose id is taken.
    """
    importer = _Importer(conn, owner)
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            fields = orjson.loads(line)
            importer.add(fields.pop("kind"), fields, is_first=number == 1)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"line {number} is not one of an export: {error!r}.") from error
        except InvalidRequest as error:
            raise InvalidRequest(f"line {number}: {error.message}") from error
    if number == 0:
        raise InvalidRequest("The file is empty: give one that an export wrote.")
    return number


class _Importer:
    def __init__(self, conn: Connection, owner: str) -> None:
        self._conn = conn
        self._owner = owner
        self._conversations: dict[str, int] = {}  # id -> num, of this file
        self._responses: dict[str, int] = {}
        self._add: dict[str, Callable[[Json], None]] = {
            "conversation": self._add_conversation,
            "response": self._add_response,
            "item": self._add_item,
            "idempotency_key": self._add_key,
        }

    def add(self, kind: str, fields: Json, *, is_first: bool) -> None:
        if is_first != (kind == "header"):
            raise InvalidRequest("the first line, and only it, must be of the kind header.")
        if kind != "header":
            self._add[kind](fields)
        elif fields["format"] != FORMAT:
            raise InvalidRequest(f"format must be {FORMAT}. Given: {fields['format']}.")

    def _add_conversation(self, fields: Json) -> None:
        self._check_free(conversations.c.id, fields["id"])
        values = {name: fields[name] for name in _CONVERSATION_FIELDS}
        statement = insert(conversations).values(values).returning(conversations.c.num)
        self._conversations[fields["id"]] = self._conn.execute(statement).scalar_one()

    def _add_response(self, fields: Json) -> None:
        self._check_free(responses.c.id, fields["id"])
        prompt_ids, logprobs = fields["prompt_ids"], fields["logprobs"]
        values = {name: fields[name] for name in _RESPONSE_FIELDS} | {
            "status": Status(fields["status"]),
            "owner": self._owner,
            "token_ids": pack_ids(fields["token_ids"]),
            "logprobs": None if logprobs is None else base64.b64decode(logprobs),
            "prompt_ids": None if prompt_ids is None else pack_ids(prompt_ids),
            "journal_start": 0,
            "restarts": 0,
            "tokens_at_restart": len(fields["token_ids"]),
        }
        statement = insert(responses).values(values).returning(responses.c.num)
        self._responses[fields["id"]] = self._conn.execute(statement).scalar_one()

    def _add_item(self, fields: Json) -> None:
        conversation, response = fields["conversation_id"], fields["response_id"]
        values = {
            "id": fields["id"],
            "body": fields["body"],
            "position": fields["position"],
            "part": fields["part"],
            "conversation_num": None if conversation is None else self._conversations[conversation],
            "response_num": None if response is None else self._responses[response],
        }
        self._conn.execute(insert(items).values(values))

    def _add_key(self, fields: Json) -> None:
        values = {name: fields[name] for name in ("scope", "key", "created_at")}
        values |= {"digest": base64.b64decode(fields["digest"])}
        values |= {"response_num": self._responses[fields["response_id"]]}
        self._conn.execute(insert(idempotency_keys).values(values))

    def _check_free(self, column: Any, id: str) -> None:
        if self._conn.execute(select(column).where(column == id)).first() is not None:
            raise InvalidRequest(f"The id {id!r} is in the database already: nothing was imported.")


def _response_fields(conn: Connection, row: Row[Any]) -> Json:
    """A response in progress is given with what is journalled of it so far."""
    entry = OpenResponse.of_row(row)
    if row.status == Status.IN_PROGRESS:
        read_unfolded(conn, row.owner, [entry], start=row.journal_start)
    _, logprobs = entry.packed()
    return {name: getattr(row, name) for name in _RESPONSE_FIELDS} | {
        "token_ids": entry.ids.tolist(),
        "logprobs": None if logprobs is None else _encode(logprobs),
        "prompt_ids": None if row.prompt_ids is None else unpack_ids(row.prompt_ids),
    }


def _export_items(conn: Connection) -> Iterator[bytes]:
    statement = (
        select(
            items,
            conversations.c.id.label("conversation_id"),
            responses.c.id.label("response_id"),
        )
        .outerjoin(conversations, conversations.c.num == items.c.conversation_num)
        .outerjoin(responses, responses.c.num == items.c.response_num)
        .order_by(items.c.num)
    )
    names = ("id", "body", "conversation_id", "position", "response_id", "part")
    for row in _rows(conn, statement):
        yield _line("item", {name: getattr(row, name) for name in names})


def _rows(conn: Connection, statement: Any) -> Iterator[Row[Any]]:
    """A few rows in memory at a time."""
    yield from conn.execute(statement, execution_options={"yield_per": 200})


def _line(kind: str, fields: Json) -> bytes:
    return orjson.dumps({"kind": kind} | fields) + b"\n"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
