"""The prompts of answers that have ended: kept, so that an answer can be computed again, and
forgotten with what they were made of.

A prompt holds what was said before it. So none outlives what its user has deleted of that: a
conversation, an item of it, or a response that it continues.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, func, select, update

from llamastream.records import Recorded, Status
from llamastream.store.database import Database
from llamastream.store.rows import (
    RESPONSE_COLUMNS,
    START_COLUMNS,
    find,
    to_kept_start,
    to_response,
)
from llamastream.store.tables import conversations, items, responses
from llamastream.store.tokens import read_tokens
from llamastream.store.transaction import Transaction

NO_PROMPT = {"prompt_ids": None, "start_checksum": None}


class Prompts:
    """Reading only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def recorded(self, id: str, *, scope: str) -> Recorded:
        """All that an answer was drawn from, and what was drawn. Raises NotFound for an id that
        `scope` does not have."""

        def read(conn: Connection) -> Recorded:
            row = find(conn, "response", id, scope, *RESPONSE_COLUMNS, *START_COLUMNS)
            token_ids = tuple(token.token_id for token in read_tokens(conn, id, scope, -1))
            return Recorded(to_response(row), *to_kept_start(row), token_ids)

        return await self._database.read(read)

    async def ended(self) -> list[tuple[str, str]]:
        """Ids and scopes of all answers that have ended, oldest first."""
        of_ended = select(responses.c.id, responses.c.scope).where(
            responses.c.status != Status.IN_PROGRESS
        )

        def read(conn: Connection) -> list[tuple[str, str]]:
            return [(row.id, row.scope) for row in conn.execute(of_ended.order_by(responses.c.num))]

        return await self._database.read(read)


def forget_of_conversations(tx: Transaction, nums: Sequence[int]) -> None:
    """The prompts of all answers in these conversations.

    Before any row of theirs is changed: who ends an answer takes that first, too.
    """
    ids = select(conversations.c.id).where(conversations.c.num.in_(nums))
    joined = select(items.c.response_num).where(items.c.conversation_num.in_(nums))
    in_progress = (responses.c.status == Status.IN_PROGRESS) & responses.c.conversation_id.in_(ids)
    _forget(tx, responses.c.num.in_(joined) | in_progress)


def forget_behind(tx: Transaction, nums: Sequence[int]) -> None:
    """The prompts of all answers that continue these responses."""
    names = (responses.c.num, responses.c.id, responses.c.scope)
    chain = select(*names).where(responses.c.num.in_(nums)).cte("chain", recursive=True)
    chain = chain.union(
        select(*names).where(
            responses.c.previous_response_id == chain.c.id, responses.c.scope == chain.c.scope
        )
    )
    later = responses.c.num.in_(select(chain.c.num))
    _forget(tx, later & responses.c.num.not_in(nums))


def _forget(tx: Transaction, which: ColumnElement[bool]) -> None:
    """One in progress needs its prompt until it has ended."""
    tx.conn.execute(update(responses).where(which).values(forgets_prompt=1))
    has_ended = responses.c.status != Status.IN_PROGRESS
    held = which & has_ended & responses.c.prompt_ids.is_not(None)
    size = func.length(responses.c.prompt_ids)
    sizes = tx.conn.execute(select(responses.c.scope, size).where(held)).all()
    without = NO_PROMPT | {"num_bytes": responses.c.num_bytes - size}
    tx.conn.execute(update(responses).where(held).values(without))
    for scope, num_bytes in sizes:
        tx.charges.add(scope, num_bytes=-num_bytes)
