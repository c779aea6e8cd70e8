"""Responses: from the request that starts one to its end, with its items and its tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from llamastream.errors import (
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    quoted,
)
from llamastream.store.conversations import next_position
from llamastream.store.database import Database
from llamastream.store.journal import Journal, read_unfolded
from llamastream.store.ledger import OpenResponse
from llamastream.store.packing import pack_ids
from llamastream.store.records import (
    MAX_KEY_CHARS,
    MAX_LIMIT,
    Created,
    IdempotencyKey,
    Item,
    Json,
    NewResponse,
    Outcome,
    Page,
    PageQuery,
    Response,
    Status,
)
from llamastream.store.rows import (
    ID,
    ITEM_COLUMNS,
    RESPONSE_COLUMNS,
    fetch_page,
    find,
    sampling_to_json,
    to_item,
    to_response,
)
from llamastream.store.tables import (
    KIND,
    KIND_CHARS,
    conversations,
    idempotency_keys,
    items,
    responses,
)
from llamastream.store.writer import Writer
from llamastream.types import Token

INPUT, OUTPUT = 0, 1  # items.part


class Responses:
    """Every method raises NotFound for an id that `scope` does not have, and StoreUnavailable."""

    def __init__(
        self, database: Database, writer: Writer, journal: Journal, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._writer = writer
        self._journal = journal
        self._clock = clock

    async def create(self, new: NewResponse, *, scope: str) -> Created:
        """Store a response about to be generated; from here on a restart goes on with it.

        With an idempotency key that was used for the same request, give that one's response.
        Raises IdempotencyConflict when it was used for another.
        """
        if new.idempotency is not None:
            _check_key(new.idempotency)

        def write(conn: Connection) -> Created:
            if new.idempotency is not None:
                known = self._known(conn, new.idempotency, scope)
                if known is not None:
                    return Created(known, existing=True)
            return Created(self._insert(conn, new, scope), existing=False)

        return await self._writer.run(write)

    async def get(self, id: str, *, scope: str) -> Response:
        return await self._database.read(
            lambda conn: to_response(find(conn, "response", id, scope, *RESPONSE_COLUMNS))
        )

    async def tokens(self, id: str, *, scope: str, after: int = -1) -> list[Token]:
        """The journalled tokens with a position > `after`. Their request_id is the response's.

        For a response in progress these are the tokens so far, and all that were shown to anyone.
        """
        after = max(after, -1)
        entry = self._journal.ledger.get(id)
        if entry is not None and entry.scope == scope:
            return entry.tokens(after)
        return await self._database.read(lambda conn: read_tokens(conn, id, scope, after))

    async def finish(self, id: str, outcome: Outcome) -> Response:
        """End a response that this server generates, with all tokens appended before.

        Its items join its conversation, if it has one, unless it failed. Raises NotFound when the
        response was deleted, or has ended before.
        """

        def write(conn: Connection) -> Response:
            entry = self._journal.ledger.get(id)
            if entry is None:
                raise NotFound(f"Response {quoted(id)} is not in progress.", param="response_id")
            return self._finish(conn, entry, outcome)

        return await self._writer.run(write)

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete a response, in progress or not. Items in a conversation stay with that."""

        def write(conn: Connection) -> None:
            remove_responses(conn, [find(conn, "response", id, scope).num])
            self._journal.ledger.remove(id)

        await self._writer.run(write)

    async def update(self, id: str, change: Callable[[Json], Json], *, scope: str) -> Response:
        """Put `change` of its request in the place of that."""

        def write(conn: Connection) -> Response:
            row = find(conn, "response", id, scope, *RESPONSE_COLUMNS)
            request = change(row.request)
            of_row = update(responses).where(responses.c.num == row.num)
            conn.execute(of_row.values(request=request))
            return replace(to_response(row), request=request)

        return await self._writer.run(write)

    async def list(
        self, *, scope: str, prefix: str, query: PageQuery, matches: Callable[[Response], bool]
    ) -> Page[Response]:
        """Responses that ended well, whose ids begin with `prefix`, by age.

        Where few match, all are read.
        """
        base = select(*RESPONSE_COLUMNS).where(
            responses.c.scope == scope,
            KIND == prefix[:KIND_CHARS],
            responses.c.result.is_not(None),
            responses.c.error.is_(None),
        )

        def read(conn: Connection) -> Page[Response]:
            with self._database.snapshot(conn):
                return _matching(conn, base, query, matches)

        return await self._database.read(read)

    async def input_items(self, id: str, *, scope: str, query: PageQuery) -> Page[Item]:
        def read(conn: Connection) -> Page[Item]:
            num = find(conn, "response", id, scope).num
            base = select(*ITEM_COLUMNS).where(items.c.response_num == num, items.c.part == INPUT)
            return fetch_page(conn, base, to_item, query, items)

        return await self._database.read(read)

    async def history(self, id: str, *, scope: str) -> tuple[Item, ...]:
        """Input and output items of the response and all it continues, oldest first.

        Raises NotFound when one of them is gone, InvalidRequest when `id` has not ended.
        """
        return await self._database.read(lambda conn: _history(conn, id, scope))

    def _known(self, conn: Connection, key: IdempotencyKey, scope: str) -> Response | None:
        row = conn.execute(
            select(idempotency_keys.c.digest, responses.c.owner, *RESPONSE_COLUMNS)
            .join(responses, responses.c.num == idempotency_keys.c.response_num)
            .where(idempotency_keys.c.scope == scope, idempotency_keys.c.key == key.key)
        ).one_or_none()
        if row is None:
            return None
        if row.digest != key.digest:
            raise IdempotencyConflict(
                "Idempotency-Key was used for another request: send the same one, or a new key.",
                param="Idempotency-Key",
            )
        is_ours = row.status == Status.IN_PROGRESS and row.owner == self._journal.owner
        if is_ours and self._journal.ledger.get(row.id) is None:
            # The connection was lost as this was committed, and its caller was told it failed.
            remove_responses(conn, [row.num])
            return None
        return to_response(row)

    def _insert(self, conn: Connection, new: NewResponse, scope: str) -> Response:
        if new.conversation_id is not None:
            find(conn, "conversation", new.conversation_id, scope)
        if new.previous_response_id is not None:
            find(conn, "response", new.previous_response_id, scope)
        now = self._clock()
        row = conn.execute(
            insert(responses)
            .values(
                id=new.id,
                scope=scope,
                owner=self._journal.owner,
                status=Status.IN_PROGRESS,
                created_at=now,
                conversation_id=new.conversation_id,
                previous_response_id=new.previous_response_id,
                request=new.request,
                prompt_ids=pack_ids(new.prompt_ids),
                sampling=sampling_to_json(new.sampling),
                token_ids=b"",
                journal_start=self._journal.next_seq,
                restarts=0,
                tokens_at_restart=0,
            )
            .returning(*RESPONSE_COLUMNS)
        ).one()
        insert_items(conn, row.num, INPUT, new.input_items)
        if new.idempotency is not None:
            key = new.idempotency._asdict() | {"scope": scope, "created_at": now}
            conn.execute(insert(idempotency_keys).values(key | {"response_num": row.num}))
        self._journal.open(new.id, scope=scope, num=row.num)
        return to_response(row)

    def _finish(self, conn: Connection, entry: OpenResponse, outcome: Outcome) -> Response:
        of_entry = responses.c.num == entry.num
        self._journal.fold(conn, entry)
        now = self._clock()
        row = conn.execute(
            update(responses)
            .where(of_entry, responses.c.status == Status.IN_PROGRESS)
            .values(
                status=outcome.status,
                finished_at=now,
                result=outcome.result,
                error=outcome.error,
                prompt_ids=None,
            )
            .returning(*RESPONSE_COLUMNS)
        ).one_or_none()
        if row is None:
            # The connection was lost as this was committed, and its caller was told it failed.
            self._journal.ledger.remove(entry.id)
            return to_response(conn.execute(select(*RESPONSE_COLUMNS).where(of_entry)).one())
        insert_items(conn, entry.num, OUTPUT, outcome.output_items)
        if row.conversation_id is not None and outcome.status is not Status.FAILED:
            _join_conversation(conn, row, now)
        self._journal.ledger.remove(entry.id)
        self._journal.forget_old(conn)
        return to_response(row)


def _matching(
    conn: Connection, base: Select[Any], query: PageQuery, matches: Callable[[Response], bool]
) -> Page[Response]:
    found: list[Response] = []
    part, has_more = replace(query, limit=MAX_LIMIT), True
    while has_more and len(found) <= query.limit:
        page = fetch_page(conn, base, to_response, part, responses)
        found += filter(matches, page.data)
        has_more = page.has_more
        part = replace(part, after=page.data[-1].id) if page.data else part
    return Page(tuple(found[: query.limit]), len(found) > query.limit)


def insert_items(conn: Connection, num: int, part: int, new: Sequence[Item]) -> None:
    rows = [{"id": item.id, "body": item.body, "response_num": num, "part": part} for item in new]
    if rows:
        conn.execute(insert(items), rows)


def remove_responses(conn: Connection, nums: Sequence[int]) -> None:
    inside = items.c.response_num.in_(nums)
    conn.execute(delete(items).where(inside, items.c.conversation_num.is_(None)))
    conn.execute(delete(responses).where(responses.c.num.in_(nums)))


def read_tokens(conn: Connection, id: str, scope: str, after: int) -> list[Token]:
    """Tokens of a response that is not in this server's ledger."""
    entry_columns = ("id", "scope", "num", "token_ids", "logprobs", "journal_start")
    columns = (responses.c[name] for name in ("status", "owner", *entry_columns))
    row = find(conn, "response", id, scope, *columns)
    entry = OpenResponse.of_row(row)
    if row.status == Status.IN_PROGRESS:
        read_unfolded(conn, row.owner, [entry], start=row.journal_start)
    return entry.tokens(after)


def _join_conversation(conn: Connection, row: Row[Any], now: float) -> None:
    """Append the items of a response to its conversation, unless that was deleted meanwhile."""
    ours = (conversations.c.id == row.conversation_id) & (conversations.c.scope == row.scope)
    num = conn.execute(select(conversations.c.num).where(ours)).scalar()
    if num is None:
        return
    position = next_position(conn, num)
    of_response = select(items.c.num).where(items.c.response_num == row.num)
    for k, item in enumerate(conn.execute(of_response.order_by(items.c.part, items.c.num)).all()):
        change = update(items).where(items.c.num == item.num)
        conn.execute(change.values(conversation_num=num, position=position + k))
    conn.execute(update(conversations).where(ours).values(updated_at=now))


def _history(conn: Connection, id: str, scope: str) -> tuple[Item, ...]:
    of_id = find(conn, "response", id, scope, responses.c.status)
    if of_id.status == Status.IN_PROGRESS:
        raise InvalidRequest(
            f"Response {quoted(id)} is still in progress: continue it when it has ended.",
            param="previous_response_id",
        )
    names = (responses.c.num, responses.c.id, responses.c.previous_response_id)
    chain = select(*names).where(responses.c.id == id).cte("chain", recursive=True)
    # UNION and not UNION ALL: a row is followed once, whatever an imported file may hold.
    chain = chain.union(
        select(*names).where(
            responses.c.id == chain.c.previous_response_id, responses.c.scope == scope
        )
    )
    links = conn.execute(select(chain)).all()
    for missing in {link.previous_response_id for link in links} - {link.id for link in links}:
        if missing is not None:
            raise NotFound(
                f"Response {quoted(missing)}, which {quoted(id)} continues, not found: it was "
                "deleted or has expired. Send its messages as input instead.",
                param="previous_response_id",
            )
    order = (items.c.response_num, items.c.part, items.c.num)
    statement = select(*ITEM_COLUMNS).where(items.c.response_num.in_(select(chain.c.num)))
    return tuple(map(to_item, conn.execute(statement.order_by(*order))))


def _check_key(key: IdempotencyKey) -> None:
    if len(key.key) > MAX_KEY_CHARS or not ID.fullmatch(key.key):
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} visible ASCII characters. "
            f"Given: {len(key.key)} characters.",
            param="Idempotency-Key",
        )
