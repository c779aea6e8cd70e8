"""Responses: from the request that starts one to its end, with its items and its tokens."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from llamastream.errors import (
    ChatError,
    DamagedRecord,
    IdempotencyConflict,
    NotFound,
    StoreUnavailable,
    quoted,
)
from llamastream.records import (
    MAX_LIMIT,
    AllowStore,
    ConversationLimits,
    Created,
    Drawn,
    Growth,
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
from llamastream.store.chains import chain_items
from llamastream.store.clock import StoreClock
from llamastream.store.conversations import check_room, join_conversation
from llamastream.store.database import Database
from llamastream.store.idempotency import KeyTaken, add_key, check_key
from llamastream.store.journal import Journal
from llamastream.store.packing import pack_log
from llamastream.store.prompts import NO_PROMPT
from llamastream.store.reading import Choose, fetch_page, read_history
from llamastream.store.removal import give_up, remove_responses
from llamastream.store.rows import (
    ITEM_COLUMNS,
    RESPONSE_COLUMNS,
    ROW_BYTES,
    find,
    item_row,
    response_row,
    size_of,
    start_row,
    to_item,
    to_response,
    tokens_row,
)
from llamastream.store.tables import (
    KIND,
    KIND_CHARS,
    idempotency_keys,
    items,
    responses,
)
from llamastream.store.tail import Tail
from llamastream.store.tokens import read_tokens
from llamastream.store.transaction import InProgress, Transaction
from llamastream.store.writer import Writer
from llamastream.types import Token

KEY_TRIES, KEY_RETRY_S = 50, 0.02  # while another server begins a response with it
INPUT, OUTPUT = 0, 1  # items.part
PROMPT_COLUMNS = (responses.c.prompt_ids, responses.c.forgets_prompt)
TOKEN_BYTES = (
    func.length(responses.c.token_ids) + func.coalesce(func.length(responses.c.logprobs), 0)
).label("token_bytes")


class Responses:
    """Every method raises NotFound for an id that `scope` does not have, and StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        journal: Journal,
        clock: StoreClock,
        limits: ConversationLimits,
        model: str,
    ) -> None:
        self._database = database
        self._writer = writer
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._model = model
        self._tail = Tail()

    async def create(
        self, new: NewResponse, *, scope: str, allow: AllowStore | None = None
    ) -> Created:
        """Store a response about to be generated; from here on a restart goes on with it.

        With an idempotency key that was used for the same request, give that one's response.
        Raises IdempotencyConflict when it was used for another, InvalidRequest when its
        conversation is full, and what `allow` raises.
        """
        if new.idempotency is not None:
            check_key(new.idempotency)

        def look_up(tx: Transaction) -> Created | None:
            known = new.idempotency and self._known(tx, new.idempotency, scope)
            return Created(known, existing=True) if known else None

        def write(tx: Transaction) -> Created:
            if (found := look_up(tx)) is not None:
                return found
            tx.allow(allow, scope, is_response=True)
            return Created(self._insert(tx, new, scope), existing=False)

        try:
            return await self._writer.run(write)
        except KeyTaken:
            # NOTE: nothing is begun any more. Its first steps may have been refused meanwhile.
            for _ in range(KEY_TRIES):
                await asyncio.sleep(KEY_RETRY_S)
                if (found := await self._writer.run(look_up)) is not None:
                    return found
        raise StoreUnavailable("Another server has used the Idempotency-Key just now: try again.")

    async def get(self, id: str, *, scope: str) -> Response:
        return await self._database.read(
            lambda conn: to_response(find(conn, "response", id, scope, *RESPONSE_COLUMNS))
        )

    async def tokens(self, id: str, *, scope: str, after: int = -1) -> list[Token]:
        """The journalled tokens with a position > `after`. Their request_id is the response's.

        For a response in progress these are those that any reader may have been shown.
        """
        after = max(after, -1)
        return await self._database.read(lambda conn: read_tokens(conn, id, scope, after))

    async def finish(self, id: str, outcome: Outcome, drawn: Drawn | None = None) -> Response:
        """End a response that this server generates, with the tokens of `drawn`, or else with all
        that were appended before.

        Its items join its conversation, if it has one, unless it failed. Raises NotFound when the
        response was deleted, or has ended before, and DamagedRecord, which ends it too.
        """

        def write(tx: Transaction) -> Response | ChatError:
            one = tx.in_progress.pop(id, None)
            if one is None:
                return _not_in_progress(id)
            if drawn is not None:
                one = one._replace(log=drawn.log, num_tokens=drawn.num_tokens)
            return self._finish(tx, id, one, outcome)

        ended = await self._writer.run(write)
        if isinstance(ended, ChatError):
            raise ended
        return ended

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete a response, in progress or not. Items in a conversation stay with that."""

        def write(tx: Transaction) -> None:
            remove_responses(tx, [find(tx.conn, "response", id, scope).num])
            tx.in_progress.pop(id, None)

        await self._writer.run(write)

    async def cancel(self, id: str, *, scope: str) -> None:
        """Ask the server that generates a response for its end."""

        def write(tx: Transaction) -> None:
            of_num = responses.c.num == find(tx.conn, "response", id, scope).num
            tx.conn.execute(update(responses).where(of_num).values(is_cancelled=1))

        await self._writer.run(write)

    async def follow(self, ids: Sequence[str]) -> None:
        """Tell the servers that generate these that they have readers here."""
        of_ids = responses.c.id.in_(ids), responses.c.status == Status.IN_PROGRESS
        # What another transaction has under way is told the next time: no ring of waiting.
        free = select(responses.c.num).where(*of_ids).with_for_update(skip_locked=True)
        change = update(responses).where(responses.c.num.in_(free))
        follows = change.values(num_follows=responses.c.num_follows + 1)
        await self._writer.run(lambda tx: tx.conn.execute(follows).rowcount)

    async def grown(self, num_tokens: Mapping[str, int]) -> dict[str, Growth]:
        """Of responses that other servers generate, of which so many tokens are known, by id: what
        has become of them. Those that are gone are left out. One call at a time."""
        return await self._database.read(lambda conn: self._tail.read(conn, num_tokens))

    async def update(self, id: str, change: Callable[[Json], Json], *, scope: str) -> Response:
        """Put `change` of its request in the place of that."""

        def write(tx: Transaction) -> Response:
            row = find(tx.conn, "response", id, scope, *RESPONSE_COLUMNS)
            response = to_response(row)
            changed = replace(response, request=change(response.request))
            values = response_row(changed)
            num_bytes = size_of(values["request"]) - size_of(row.request)
            _resize(tx, row, values, num_bytes)
            return changed

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
            return fetch_page(conn, base, to_item, query, items, size=items.c.num_bytes)

        return await self._database.read(read)

    async def history(
        self, id: str, *, scope: str, choose: Choose | None = None
    ) -> tuple[Item, ...]:
        """Input and output items of the response and all it continues, oldest first.

        Those that `choose` wants, see `Conversations.history`. Raises NotFound when one of the
        responses is gone, InvalidRequest when `id` has not ended or continues too many.
        """

        def read(conn: Connection) -> tuple[Item, ...]:
            with self._database.snapshot(conn):
                rows = chain_items(conn, id, scope, max_links=self._limits.max_items)
                return read_history(conn, rows, choose)

        return await self._database.read(read)

    def _known(self, tx: Transaction, key: IdempotencyKey, scope: str) -> Response | None:
        row = tx.conn.execute(
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
        if is_ours and row.id not in tx.in_progress:
            # The connection was lost as this was committed, and its caller was told it failed.
            remove_responses(tx, [row.num])
            return None
        return to_response(row)

    def _insert(self, tx: Transaction, new: NewResponse, scope: str) -> Response:
        conn = tx.conn
        input_items = [item_row(item) for item in new.input_items]
        if new.conversation_id is not None:
            num = find(conn, "conversation", new.conversation_id, scope).num
            num_bytes = sum(row["num_bytes"] for row in input_items)
            check_room(conn, num, self._limits, num_items=len(input_items) + 1, num_bytes=num_bytes)
        if new.previous_response_id is not None:
            find(conn, "response", new.previous_response_id, scope)
        now = self._clock.wall()
        response = Response(
            id=new.id,
            scope=scope,
            status=Status.IN_PROGRESS,
            created_at=now,
            finished_at=None,
            conversation_id=new.conversation_id,
            previous_response_id=new.previous_response_id,
            request=new.request,
            result=None,
            error=None,
        )
        start = start_row(new.prompt_ids, new.sampling)
        values = response_row(response) | start | tokens_row(b"", None)
        values |= {
            "owner": self._journal.owner,
            "model": self._model,
            "journal_start": self._journal.next_seq,
            "restarts": 0,
            "tokens_at_restart": 0,
            "num_bytes": ROW_BYTES
            + size_of(values["request"], start["prompt_ids"], start["sampling"]),
        }
        num = conn.execute(insert(responses).values(values).returning(responses.c.num)).scalar_one()
        tx.charges.add(scope, num_responses=1, num_bytes=values["num_bytes"])
        _insert_items(tx, num, INPUT, input_items, scope)
        if new.idempotency is not None:
            add_key(conn, new.idempotency, scope, num, now=self._clock.steady())
        tx.in_progress[new.id] = InProgress(num, scope, self._journal.next_seq)
        return response

    def _finish(
        self, tx: Transaction, id: str, one: InProgress, outcome: Outcome
    ) -> Response | ChatError:
        """What it became, or what to tell its caller once that it has ended is committed."""
        columns = (*RESPONSE_COLUMNS, *PROMPT_COLUMNS, TOKEN_BYTES)
        of_num = select(*columns).where(responses.c.num == one.num)
        row = tx.conn.execute(of_num.with_for_update()).one_or_none()
        if row is None:  # another server deleted it
            return _not_in_progress(id)
        try:
            response = to_response(row)
        except DamagedRecord as error:
            give_up(tx.conn, one.num, self._clock)
            return error
        if response.status is not Status.IN_PROGRESS:
            # The connection was lost as this was committed, and its caller was told it failed.
            return response
        now = self._clock.steady()
        ended = replace(
            response,
            status=outcome.status,
            finished_at=self._clock.wall(),
            result=outcome.result,
            error=outcome.error,
        )
        values = response_row(ended)
        values |= {"kept_from": now}
        num_bytes = size_of(values["result"], outcome.error)
        if outcome.status is Status.FAILED or row.forgets_prompt:
            values |= NO_PROMPT
            num_bytes -= size_of(row.prompt_ids)
        if one.log is None:
            num_bytes += row.token_bytes
        else:
            tokens = pack_log(one.log, one.num_tokens)
            values |= tokens_row(*tokens)
            num_bytes += size_of(*tokens)
        _resize(tx, row, values, num_bytes)
        output_items = [item_row(item) for item in outcome.output_items]
        _insert_items(tx, one.num, OUTPUT, output_items, one.scope)
        if response.conversation_id is not None and outcome.status is not Status.FAILED:
            join_conversation(tx.conn, response.conversation_id, one.scope, one.num, now)
        self._journal.forget_old(tx)
        return ended


def _resize(tx: Transaction, row: Row[Any], values: Json, num_bytes: int) -> None:
    """Change the columns `values` of a response, which takes `num_bytes` more from now on."""
    tx.charges.add(row.scope, num_bytes=num_bytes)
    change = update(responses).where(responses.c.num == row.num)
    tx.conn.execute(change.values(values | {"num_bytes": responses.c.num_bytes + num_bytes}))


def _insert_items(tx: Transaction, num: int, part: int, rows: Sequence[Json], scope: str) -> None:
    if rows:
        of_response = {"response_num": num, "part": part}
        tx.conn.execute(insert(items), [row | of_response for row in rows])
        tx.charges.add(scope, num_bytes=sum(row["num_bytes"] for row in rows))


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


def _not_in_progress(id: str) -> NotFound:
    return NotFound(f"Response {quoted(id)} is not in progress.", param="response_id")
