"""What the tables have in common: finding by id and scope, reading a page, rows made values."""

import re
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, TableClause, select

from llamastream.errors import (
    NotFound,
    quoted,
)
from llamastream.sampling import SamplingParams
from llamastream.store.records import Conversation, Item, Json, Page, PageQuery, Response, Status, T
from llamastream.store.tables import conversations, items, responses

ID = re.compile(r"[\x21-\x7e]{1,255}")

RESPONSE_FIELDS = tuple(field.name for field in fields(Response))
RESPONSE_COLUMNS = tuple(responses.c[name] for name in ("num", *RESPONSE_FIELDS))


def find(
    conn: Connection, kind: str, id: str, scope: str, *columns: ColumnElement[Any]
) -> Row[Any]:
    """The row of a "conversation" or "response", of which `columns` are read.

    Raises NotFound alike for an id that never was, is no more, or belongs to another scope.
    """
    table = _TABLES[kind]
    if ID.fullmatch(id):
        statement = select(*(columns or (table.c.num,))).where(table.c.id == id)
        row = conn.execute(statement.where(table.c.scope == scope)).one_or_none()
        if row is not None:
            return row
    raise NotFound(f"{kind.capitalize()} {quoted(id)} not found.", param=f"{kind}_id")


def fetch_page(
    conn: Connection,
    base: Select[Any],
    make: Callable[[Row[Any]], T],
    query: PageQuery,
    table: TableClause,
    *,
    order_by: str = "num",
) -> Page[T]:
    """The part of `base`, rows of `table`, that `query` asks for, in an order that an index serves.

    Raises NotFound when `query.after` is not in the list.
    """
    order = table.c[order_by]
    if query.after is not None:
        of_id = table.c.id == query.after
        after = base.with_only_columns(order).where(of_id).limit(1)
        anchor = conn.execute(after).scalar() if ID.fullmatch(query.after) else None
        if anchor is None:
            raise NotFound(
                f"The list has no entry {quoted(query.after)}: give an id of it.", param="after"
            )
        base = base.where(order > anchor if query.order == "asc" else order < anchor)
    ordered = base.order_by(order.asc() if query.order == "asc" else order.desc())
    rows = conn.execute(ordered.limit(query.limit + 1)).all()
    return Page(tuple(make(row) for row in rows[: query.limit]), len(rows) > query.limit)


def to_response(row: Row[Any]) -> Response:
    """From a row of RESPONSE_COLUMNS."""
    values = {name: row._mapping[name] for name in RESPONSE_FIELDS}
    return Response(**values | {"status": Status(row.status)})


def to_conversation(row: Row[Any]) -> Conversation:
    return Conversation(row.id, row.scope, row.created_at, row.metadata)


ITEM_COLUMNS: tuple[ColumnElement[Any], ...] = (items.c.id, items.c.body)


def to_item(row: Row[Any]) -> Item:
    """From a row of ITEM_COLUMNS."""
    return Item(row.id, row.body)


def sampling_to_json(sampling: SamplingParams) -> Json:
    return asdict(sampling) | {"stop_token_ids": sorted(sampling.stop_token_ids)}


def sampling_from_json(fields: Json) -> SamplingParams:
    fields = fields | {
        "logit_bias": tuple((token_id, bias) for token_id, bias in fields["logit_bias"]),
        "stop_token_ids": frozenset(fields["stop_token_ids"]),
    }
    return SamplingParams(**fields)


_TABLES: dict[str, TableClause] = {"conversation": conversations, "response": responses}
