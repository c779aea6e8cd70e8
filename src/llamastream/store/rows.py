"""Rows made values and values made rows: the one place that knows how each is kept and checked.

JSON is kept as text, so that the same keys come back in the same order, from either database. Sizes
count the bytes of what is stored, and ROW_BYTES for the row itself, its ids and its index entries.
What cannot be read as what it should be raises DamagedRecord.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, TableClause, select

from llamastream.errors import NotFound, quoted
from llamastream.records import Conversation, Item, Json, Preset, Response, Status
from llamastream.sampling import SamplingParams
from llamastream.store.damage import checksum, reading, verify
from llamastream.store.packing import pack_ids, unpack_ids
from llamastream.store.tables import conversations, items, presets, responses

ID = re.compile(r"[\x21-\x7e]{1,255}")
ROW_BYTES = 256
RESPONSE_FIELDS = tuple(field.name for field in fields(Response))
RESPONSE_COLUMNS = tuple(responses.c[name] for name in ("num", *RESPONSE_FIELDS, "checksum"))
CONVERSATION_FIELDS = ("id", "scope", "created_at", "metadata")
CONVERSATION_COLUMNS = tuple(conversations.c[name] for name in (*CONVERSATION_FIELDS, "checksum"))
PRESET_FIELDS = ("id", "scope", "created_at", "name", "settings")
PRESET_COLUMNS = tuple(presets.c[name] for name in (*PRESET_FIELDS, "checksum"))
START_COLUMNS = tuple(responses.c[n] for n in ("prompt_ids", "sampling", "start_checksum"))
TOKEN_COLUMNS = tuple(responses.c[n] for n in ("token_ids", "logprobs", "tokens_checksum"))
ITEM_COLUMNS = tuple(items.c[name] for name in ("id", "body", "follows", "checksum"))


def find(
    conn: Connection, kind: str, id: str, scope: str, *columns: ColumnElement[Any]
) -> Row[Any]:
    """The row of a "conversation", "response" or "preset", of which `columns` are read.

    Raises NotFound alike for an id that never was, is no more, or belongs to another scope.
    """
    table = _TABLES[kind]
    if ID.fullmatch(id):
        statement = select(*(columns or (table.c.num,))).where(table.c.id == id)
        row = conn.execute(statement.where(table.c.scope == scope)).one_or_none()
        if row is not None:
            return row
    raise NotFound(f"{kind.capitalize()} {quoted(id)} not found.", param=f"{kind}_id")


def known_ids(conn: Connection, *, ids: Sequence[str]) -> set[str]:
    """Those that a conversation or a response has, of whatever scope."""
    tables = _TABLES.values()
    some = [conn.execute(select(t.c.id).where(t.c.id.in_(ids))).scalars() for t in tables]
    return set().union(*some)


def to_response(row: Row[Any]) -> Response:
    """From a row of RESPONSE_COLUMNS."""
    with reading("response", row.id):
        values = {name: row._mapping[name] for name in RESPONSE_FIELDS}
        verify(row.checksum, *values.values())
        values |= {
            "status": Status(row.status),
            "request": _load(row.request),
            "result": None if row.result is None else _load(row.result),
        }
        return Response(**values)


def response_row(response: Response) -> Json:
    """The columns RESPONSE_COLUMNS but `num`."""
    values = {name: getattr(response, name) for name in RESPONSE_FIELDS}
    values["request"] = dump(response.request)
    values["result"] = None if response.result is None else dump(response.result)
    return values | {"checksum": checksum(*values.values())}


def to_conversation(row: Row[Any]) -> Conversation:
    """From a row of CONVERSATION_COLUMNS."""
    with reading("conversation", row.id):
        verify(row.checksum, row.id, row.scope, row.created_at, row.metadata)
        return Conversation(row.id, row.scope, float(row.created_at), _load(row.metadata))


def conversation_row(conversation: Conversation) -> Json:
    """The columns CONVERSATION_COLUMNS."""
    values = {name: getattr(conversation, name) for name in CONVERSATION_FIELDS}
    values["metadata"] = dump(conversation.metadata)
    return values | {"checksum": checksum(*values.values())}


def to_preset(row: Row[Any]) -> Preset:
    """From a row of PRESET_COLUMNS."""
    with reading("preset", row.id):
        verify(row.checksum, *(row._mapping[name] for name in PRESET_FIELDS))
        return Preset(row.id, row.scope, float(row.created_at), row.name, _load(row.settings))


def preset_row(preset: Preset) -> Json:
    """The columns PRESET_COLUMNS."""
    values = {name: getattr(preset, name) for name in PRESET_FIELDS}
    values["settings"] = dump(preset.settings)
    return values | {"checksum": checksum(*values.values())}


def to_item(row: Row[Any]) -> Item:
    """From a row of ITEM_COLUMNS."""
    with reading("item", row.id):
        verify(row.checksum, *_checked(row.id, row.body, row.follows))
        return Item(row.id, _load(row.body), row.follows)


def item_row(item: Item) -> Json:
    """The columns ITEM_COLUMNS, and what is known of an item without reading it."""
    body, role = dump(item.body), item.body.get("role")
    return {
        "id": item.id,
        "body": body,
        "follows": item.follows,
        "checksum": checksum(*_checked(item.id, body, item.follows)),
        "num_bytes": ROW_BYTES + size_of(body),
        "role": role if isinstance(role, str) else None,
    }


def _checked(id: str, body: str, follows: str | None) -> tuple[str, ...]:
    """Most items are checked as they were before there were branches."""
    return (id, body) if follows is None else (id, body, follows)


def start_row(prompt_ids: Sequence[int], sampling: SamplingParams) -> Json:
    """The columns START_COLUMNS."""
    ids, text = pack_ids(prompt_ids), dump(_sampling_to_json(sampling))
    return {"prompt_ids": ids, "sampling": text, "start_checksum": checksum(ids, text)}


def to_start(row: Row[Any]) -> tuple[tuple[int, ...], SamplingParams]:
    """Prompt ids and sampling, from a row of START_COLUMNS and `id`."""
    with reading("response", row.id):
        verify(row.start_checksum, row.prompt_ids, row.sampling)
        return tuple(unpack_ids(row.prompt_ids)), sampling_from_json(_load(row.sampling))


def to_kept_start(row: Row[Any]) -> tuple[tuple[int, ...] | None, SamplingParams]:
    """The same of one that has ended, whose prompt may be forgotten."""
    if row.prompt_ids is not None:
        return to_start(row)
    with reading("response", row.id):
        return None, sampling_from_json(_load(row.sampling))


def tokens_row(ids: bytes, logprobs: bytes | None) -> Json:
    """The columns TOKEN_COLUMNS."""
    return {
        "token_ids": ids,
        "logprobs": logprobs,
        "tokens_checksum": checksum(ids, logprobs),
    }


def check_tokens(row: Row[Any]) -> None:
    """Of a row of TOKEN_COLUMNS. Raises ValueError."""
    verify(row.tokens_checksum, row.token_ids, row.logprobs)


def dump(value: Json) -> str:
    return orjson.dumps(value).decode()


def size_of(*values: object) -> int:
    """Of texts and bytes, and nothing of what else a damaged row may hold."""
    texts = (value.encode() if isinstance(value, str) else value for value in values)
    return sum(len(value) for value in texts if isinstance(value, bytes))


def _load(text: str) -> Json:
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _sampling_to_json(sampling: SamplingParams) -> Json:
    return asdict(sampling) | {"stop_token_ids": sorted(sampling.stop_token_ids)}


def sampling_from_json(fields: Json) -> SamplingParams:
    fields = fields | {
        "logit_bias": tuple((token_id, bias) for token_id, bias in fields["logit_bias"]),
        "stop_token_ids": frozenset(fields["stop_token_ids"]),
    }
    if (allowed := fields.get("allowed_token_ids")) is not None:
        fields["allowed_token_ids"] = tuple(allowed)
    return SamplingParams(**fields)


_TABLES: dict[str, TableClause] = {
    "conversation": conversations,
    "response": responses,
    "preset": presets,
}
