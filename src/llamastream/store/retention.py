"""Forgetting: what is too old or too many, oldest first, a bounded number of rows at a time.

A response that another continues is kept as long as that one, so that no chain loses its start.
What is to go is looked up on a reader's thread; the writer only looks at those rows again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, select, tuple_

from llamastream.records import Retention, Swept
from llamastream.store.removal import remove_conversations, remove_responses
from llamastream.store.tables import conversations, idempotency_keys, responses
from llamastream.store.transaction import Transaction

SWEEP_LIMIT = 200  # rows of each kind in one transaction: a few ms in which no step is written
KEY_AGE_S = 86_400.0  # an Idempotency-Key is remembered for a day


class Plan(NamedTuple):
    responses: Sequence[int]
    conversations: Sequence[int]


def plan(conn: Connection, retention: Retention, now: float) -> Plan:
    """What may be forgotten at `now` of the steady clock, at most SWEEP_LIMIT of each kind."""
    before = None if retention.max_age_s is None else now - retention.max_age_s
    old = _oldest(
        conn,
        _old_responses(),
        responses.c.kept_from,
        before=before,
        excess=_excess(conn, responses.c.kept_from, retention.max_responses),
    )
    idle = _oldest(
        conn,
        _idle_conversations(),
        conversations.c.updated_at,
        before=before,
        excess=_excess(conn, conversations.c.updated_at, retention.max_conversations),
    )
    return Plan(old, idle)


def sweep(tx: Transaction, planned: Plan, now: float) -> Swept:
    """Delete what was planned, but for what was continued since."""
    conn = tx.conn
    of_plan = _old_responses().where(responses.c.num.in_(planned.responses))
    old = conn.execute(of_plan).scalars().all()
    remove_responses(tx, old)
    idle_of_plan = _idle_conversations().where(conversations.c.num.in_(planned.conversations))
    idle = conn.execute(idle_of_plan).scalars().all()
    remove_conversations(tx, idle)
    num_keys = _forget_keys(conn, before=now - KEY_AGE_S)
    return Swept(len(old), len(idle), num_keys, more=bool(old or idle or num_keys))


def _forget_keys(conn: Connection, *, before: float) -> int:
    name = (idempotency_keys.c.scope, idempotency_keys.c.key)
    old = select(*name).where(idempotency_keys.c.created_at < before).limit(SWEEP_LIMIT)
    return conn.execute(delete(idempotency_keys).where(tuple_(*name).in_(old))).rowcount


def _old_responses() -> Select[tuple[Any]]:
    """Those that have ended and that no other continues."""
    later = responses.alias()
    is_continued = exists().where(
        later.c.previous_response_id == responses.c.id, later.c.scope == responses.c.scope
    )
    return select(responses.c.num).where(responses.c.kept_from.is_not(None), ~is_continued)


def _idle_conversations() -> Select[tuple[Any]]:
    """Those in which nothing is being generated."""
    is_busy = exists().where(
        responses.c.conversation_id == conversations.c.id, responses.c.finished_at.is_(None)
    )
    return select(conversations.c.num).where(~is_busy)


def _excess(conn: Connection, time: ColumnElement[float], maximum: int | None) -> int:
    if maximum is None:
        return 0
    return max(0, conn.execute(select(func.count(time))).scalar_one() - maximum)  # not NULL


def _oldest(
    conn: Connection,
    candidates: Select[tuple[Any]],
    time: ColumnElement[float],
    *,
    before: float | None,
    excess: int,
) -> Sequence[int]:
    """The oldest `excess` candidates, or all from `before`, whichever is more."""
    candidates = candidates.order_by(time)
    nums = conn.execute(candidates.limit(min(excess, SWEEP_LIMIT))).scalars().all()
    if before is None:
        return nums
    aged = conn.execute(candidates.where(time < before).limit(SWEEP_LIMIT)).scalars().all()
    return max(nums, aged, key=len)
