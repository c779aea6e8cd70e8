"""A database as lines of JSON, and back: the same lines again, through either database.

Kinds of lines, each after those it refers to: `header`, `conversation`, `response` with its
tokens, `item`, `idempotency_key`, `preset`. Damaged records are left out, and the log names them.
"""

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, insert, select, update

from llamastream.errors import DamagedRecord, InvalidRequest
from llamastream.records import Conversation, Item, Json, Preset, Response, Status
from llamastream.store.damage import reading
from llamastream.store.packing import pack_ids
from llamastream.store.presets import num_bytes_of
from llamastream.store.rows import (
    PRESET_FIELDS,
    RESPONSE_FIELDS,
    ROW_BYTES,
    conversation_row,
    item_row,
    preset_row,
    response_row,
    sampling_from_json,
    size_of,
    start_row,
    to_conversation,
    to_item,
    to_kept_start,
    to_preset,
    to_response,
    to_start,
    tokens_row,
)
from llamastream.store.tables import conversations, idempotency_keys, items, presets, responses
from llamastream.store.tokens import StoredTokens, read_unfolded
from llamastream.store.transaction import Transaction

FORMAT = 1


def export_lines(conn: Connection) -> Iterator[bytes]:
    """Every line of the file. The caller holds a snapshot."""
    return _Exporter(conn).lines()


def import_lines(tx: Transaction, lines: Iterable[bytes]) -> int:
    """Add every line within the caller's transaction, and return how many there were.

    Raises InvalidRequest, which names the line, for one that is not ours or whose id is taken.
    """
    importer = _Importer(tx)
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
    importer.count_items()
    return number


class _Exporter:
    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._left_out: set[str] = set()  # ids of conversations and responses

    def lines(self) -> Iterator[bytes]:
        yield _line("header", {"format": FORMAT})
        conversation_rows = select(conversations).order_by(conversations.c.num)
        yield from self._all("conversation", conversation_rows, _conversation_fields)
        response_rows = select(responses).order_by(responses.c.num)
        yield from self._all("response", response_rows, self._response_fields)
        item_rows = (
            select(
                items,
                conversations.c.id.label("conversation_id"),
                responses.c.id.label("response_id"),
            )
            .outerjoin(conversations, conversations.c.num == items.c.conversation_num)
            .outerjoin(responses, responses.c.num == items.c.response_num)
            .order_by(items.c.num)
        )
        yield from self._all("item", item_rows, self._item_fields)
        key_rows = (
            select(idempotency_keys, responses.c.id.label("response_id"), responses.c.id)
            .join(responses, responses.c.num == idempotency_keys.c.response_num)
            .order_by(idempotency_keys.c.scope, idempotency_keys.c.key)
        )
        yield from self._all("idempotency_key", key_rows, self._key_fields)
        yield from self._all("preset", select(presets).order_by(presets.c.num), _preset_fields)

    def _all(
        self, kind: str, rows: Select[Any], fields_of: Callable[[Row[Any]], Json | None]
    ) -> Iterator[bytes]:
        """A few rows in memory at a time. `fields_of` gives None for what is left out."""
        for row in self._conn.execute(rows, execution_options={"yield_per": 200}):
            line = None
            try:
                with reading(kind, row.id):
                    if (fields := fields_of(row)) is not None:
                        line = _line(kind, fields)
            except DamagedRecord:
                self._left_out.add(row.id)
            if line is not None:
                yield line

    def _response_fields(self, row: Row[Any]) -> Json:
        """A response in progress is given with what is journalled of it so far."""
        response = to_response(row)
        tokens = StoredTokens.of_row(row)
        prompt_ids: tuple[int, ...] | None = None
        if response.status is Status.IN_PROGRESS:
            prompt_ids = to_start(row)[0]
            read_unfolded(self._conn, row.owner, {row.num: tokens}, start=row.journal_start)
        else:
            with suppress(DamagedRecord):  # the answer is worth more
                prompt_ids = to_kept_start(row)[0]
        _, logprobs = tokens.packed()
        return {name: getattr(response, name) for name in RESPONSE_FIELDS} | {
            "sampling": orjson.loads(row.sampling),
            "token_ids": tokens.ids.tolist(),
            "logprobs": None if logprobs is None else _encode(logprobs),
            "prompt_ids": prompt_ids,
            "kept_from": row.kept_from,
        }

    def _item_fields(self, row: Row[Any]) -> Json | None:
        """With those of its conversation and its response that are in the file."""
        item = to_item(row)
        holders = {"conversation_id": row.conversation_id, "response_id": row.response_id}
        holders = {k: None if id in self._left_out else id for k, id in holders.items()}
        if not any(holders.values()):
            return None
        follows = {} if item.follows is None else {"follows": item.follows}
        body = {"id": item.id, "body": item.body} | follows
        return body | {"position": row.position, "part": row.part} | holders

    def _key_fields(self, row: Row[Any]) -> Json | None:
        if row.response_id in self._left_out:
            return None
        names = ("scope", "key", "created_at", "response_id")
        return {name: getattr(row, name) for name in names} | {"digest": _encode(row.digest)}


class _Importer:
    def __init__(self, tx: Transaction) -> None:
        self._conn = tx.conn
        self._charges = tx.charges
        self._conversations: dict[str, int] = {}  # id -> num, of this file
        self._responses: dict[str, int] = {}
        self._scopes: dict[str, str] = {}  # by id, of either
        self._num_items: Counter[str] = Counter()  # by conversation
        self._num_bytes: Counter[str] = Counter()
        self._add: dict[str, Callable[[Json], None]] = {
            "conversation": self._add_conversation,
            "response": self._add_response,
            "item": self._add_item,
            "idempotency_key": self._add_key,
            "preset": self._add_preset,
        }

    def add(self, kind: str, fields: Json, *, is_first: bool) -> None:
        if is_first != (kind == "header"):
            raise InvalidRequest("the first line, and only it, must be of the kind header.")
        if kind != "header":
            self._add[kind](fields)
        elif fields["format"] != FORMAT:
            raise InvalidRequest(f"format must be {FORMAT}. Given: {fields['format']}.")

    def count_items(self) -> None:
        """Once all are added."""
        for id, num_items in self._num_items.items():
            change = update(conversations).where(conversations.c.num == self._conversations[id])
            self._conn.execute(change.values(num_items=num_items, num_bytes=self._num_bytes[id]))

    def _add_conversation(self, fields: Json) -> None:
        updated_at = fields.pop("updated_at")
        new = Conversation(**fields)
        self._check_free(conversations.c.id, new.id)
        counts = {"updated_at": updated_at, "num_items": 0, "num_bytes": 0}
        values = conversation_row(new) | counts
        statement = insert(conversations).values(values).returning(conversations.c.num)
        self._conversations[new.id] = self._conn.execute(statement).scalar_one()
        self._scopes[new.id] = new.scope
        self._charges.add(new.scope, num_bytes=ROW_BYTES + size_of(values["metadata"]))

    def _add_response(self, fields: Json) -> None:
        status = Status(fields["status"])
        new = Response(**{name: fields[name] for name in RESPONSE_FIELDS} | {"status": status})
        self._check_free(responses.c.id, new.id)
        prompt_ids, logprobs = fields["prompt_ids"], fields["logprobs"]
        tokens = tokens_row(
            pack_ids(fields["token_ids"]), None if logprobs is None else base64.b64decode(logprobs)
        )
        start = start_row(prompt_ids or (), sampling_from_json(fields["sampling"]))
        if prompt_ids is None:
            start |= {"prompt_ids": None, "start_checksum": None}
        values = response_row(new) | start | tokens
        values |= {
            "owner": "",  # nobody's, if it is in progress
            "kept_from": fields.get("kept_from", new.finished_at),  # not in older files
            "journal_start": 0,
            "restarts": 0,
            "tokens_at_restart": len(fields["token_ids"]),
            "num_bytes": ROW_BYTES
            + size_of(
                *(values[name] for name in ("request", "sampling", "result", "error")),
                *(values[name] for name in ("prompt_ids", "token_ids", "logprobs")),
            ),
        }
        statement = insert(responses).values(values).returning(responses.c.num)
        self._responses[new.id] = self._conn.execute(statement).scalar_one()
        self._scopes[new.id] = new.scope
        self._charges.add(new.scope, num_responses=1, num_bytes=values["num_bytes"])

    def _add_item(self, fields: Json) -> None:
        conversation, response = fields["conversation_id"], fields["response_id"]
        values = item_row(Item(fields["id"], fields["body"], fields.get("follows"))) | {
            "position": fields["position"],
            "part": fields["part"],
            "conversation_num": None if conversation is None else self._conversations[conversation],
            "response_num": None if response is None else self._responses[response],
        }
        self._conn.execute(insert(items).values(values))
        self._charges.add(self._scopes[conversation or response], num_bytes=values["num_bytes"])
        if conversation is not None:
            self._num_items[conversation] += 1
            self._num_bytes[conversation] += values["num_bytes"]

    def _add_key(self, fields: Json) -> None:
        values = {name: fields[name] for name in ("scope", "key", "created_at")}
        values |= {"digest": base64.b64decode(fields["digest"])}
        values |= {"response_num": self._responses[fields["response_id"]]}
        self._conn.execute(insert(idempotency_keys).values(values))

    def _add_preset(self, fields: Json) -> None:
        new = Preset(**fields)
        self._check_free(presets.c.id, new.id)
        self._check_free(presets.c.name, new.name, presets.c.scope == new.scope)
        values = preset_row(new)
        self._conn.execute(insert(presets).values(values))
        self._charges.add(new.scope, num_bytes=num_bytes_of(new.name, values["settings"]))

    def _check_free(self, column: Any, value: str, *among: ColumnElement[bool]) -> None:
        taken = select(column).where(column == value, *among)
        if self._conn.execute(taken).first() is not None:
            raise InvalidRequest(
                f"The {column.name} {value!r} is in the database already: nothing was imported."
            )


def _conversation_fields(row: Row[Any]) -> Json:
    one = to_conversation(row)
    times = {"created_at": one.created_at, "updated_at": row.updated_at}
    return {"id": one.id, "scope": one.scope, **times, "metadata": one.metadata}


def _preset_fields(row: Row[Any]) -> Json:
    preset = to_preset(row)
    return {name: getattr(preset, name) for name in PRESET_FIELDS}


def _line(kind: str, fields: Json) -> bytes:
    return orjson.dumps({"kind": kind} | fields) + b"\n"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
