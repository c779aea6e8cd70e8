"""What nobody generates any more: taken over, and left so by a server that stops.

A response is given up when a third server ended without a new token of it, so that no input can
keep servers down. A clean stop does not count.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, delete, select, update

from llamastream.errors import DamagedRecord
from llamastream.records import Interrupted, Recovery, Response, Status
from llamastream.sampling import SamplingParams
from llamastream.store.clock import StoreClock
from llamastream.store.damage import UNREADABLE, reading
from llamastream.store.journal import Journal
from llamastream.store.removal import give_up
from llamastream.store.rows import (
    RESPONSE_COLUMNS,
    START_COLUMNS,
    TOKEN_COLUMNS,
    response_row,
    to_response,
    to_start,
)
from llamastream.store.tables import journal as journal_table
from llamastream.store.tables import responses, servers
from llamastream.store.tokens import StoredTokens, read_unfolded
from llamastream.store.transaction import InProgress, Transaction

logger = logging.getLogger(__name__)

MAX_RESTARTS = 2  # without progress; the server that began it is the first of three

_STATE = ("owner", "is_cancelled", "journal_start", "restarts", "tokens_at_restart")
_COLUMNS = (
    *(*RESPONSE_COLUMNS, *START_COLUMNS, *TOKEN_COLUMNS),
    *(responses.c[name] for name in _STATE),
)
_LIVING = select(servers.c.name)
Conditions = tuple[ColumnElement[bool], ...]


class _Found(NamedTuple):
    num: int
    owner: str
    is_cancelled: bool
    response: Response
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    restarts: int
    tokens_at_restart: int
    journal_start: int
    tokens: StoredTokens


class Claims:
    """What a server takes over. The writer's thread alone uses it, within its transactions."""

    def __init__(self, journal: Journal, clock: StoreClock) -> None:
        self._journal = journal
        self._clock = clock
        self._suspect: tuple[str, int] | None = None  # goes on now: its id, and its tokens then

    def take(self, tx: Transaction, nums: Sequence[int]) -> Recovery:
        """Take what of these is nobody's any more, with all its tokens, and fail the hopeless.

        Of what no server brought on any further, one at a time: it may be what ended those.
        """
        conn, journal = tx.conn, self._journal
        nobodys = _in_progress(responses.c.num.in_(nums), responses.c.owner.not_in(_LIVING))
        owners = conn.execute(select(responses.c.owner).where(*nobodys).distinct()).scalars().all()
        # NOTE: not `nobodys` again. These names are dead for good, while another server that takes
        # one of the responses right now may be too new to be among the living of this statement.
        is_theirs = responses.c.owner.in_(owners)
        found, failed = self._read(conn, _in_progress(responses.c.num.in_(nums), is_theirs))
        interrupted = []
        for one in found:
            num_tokens = len(one.tokens)
            restarts = 0 if num_tokens > one.tokens_at_restart else one.restarts
            if 0 < restarts < MAX_RESTARTS and self._has_suspect(tx):
                continue
            journal.fold(conn, one.num, *one.tokens.packed())
            if restarts >= MAX_RESTARTS:
                failed.append(one.response.id)
                _fail(conn, one, self._clock)
                continue
            if restarts:
                self._suspect = one.response.id, num_tokens
            tx.in_progress[one.response.id] = InProgress(
                one.num, one.response.scope, journal.next_seq, num_tokens
            )
            _count(conn, one.num, restarts + 1, num_tokens, owner=journal.owner)
            interrupted.append(_interrupted(one))
        for owner in owners:
            _forget_journal(conn, journal_table.c.owner == owner)
        journal.forget_old(tx)
        return Recovery(tuple(interrupted), tuple(failed))

    def _read(self, conn: Connection, conditions: Conditions) -> tuple[list[_Found], list[str]]:
        """With their tokens, and the ids of those that cannot be read, which are failed."""
        found, failed = [], []
        statement = select(*_COLUMNS).where(*conditions).order_by(responses.c.num)
        for row in conn.execute(statement.with_for_update(skip_locked=True)).all():
            try:
                found.append(_read(row))
            except DamagedRecord:
                give_up(conn, row.num, self._clock)
                failed.append(row.id)
        for owner in {one.owner for one in found}:
            of_owner = [one for one in found if one.owner == owner]
            start = min(one.journal_start for one in of_owner)
            read_unfolded(conn, owner, {one.num: one.tokens for one in of_owner}, start=start)
        return found, failed

    def _has_suspect(self, tx: Transaction) -> bool:
        """Whether one goes on here without any new token so far."""
        if self._suspect is None:
            return False
        id, num_tokens = self._suspect
        one = tx.in_progress.get(id)
        return one is not None and one.num_tokens == num_tokens


def forget_journals(conn: Connection) -> None:
    """Of servers that are gone, once all that they had in progress is taken."""
    _forget_journal(conn, journal_table.c.owner.not_in(_LIVING))


def _forget_journal(conn: Connection, condition: ColumnElement[bool]) -> None:
    needed = select(responses.c.owner).where(responses.c.status == Status.IN_PROGRESS)
    conn.execute(delete(journal_table).where(condition, journal_table.c.owner.not_in(needed)))


def _in_progress(*conditions: ColumnElement[bool]) -> Conditions:
    return responses.c.status == Status.IN_PROGRESS, *conditions


def park(tx: Transaction, journal: Journal) -> None:
    """Fold what is in progress, for the next start, which will not count as one after a crash."""
    journal.fold_all(tx)
    for one in tx.in_progress.values():
        _count(tx.conn, one.num, 0, one.num_tokens, owner=journal.owner)


def _read(row: Row[Any]) -> _Found:
    """Raises DamagedRecord, but not for tokens: those are generated again, bit for bit."""
    response, start = to_response(row), to_start(row)
    with reading("response", row.id):
        counts = int(row.restarts), int(row.tokens_at_restart), int(row.journal_start)
    try:
        tokens = StoredTokens.of_row(row)
    except UNREADABLE as why:
        logger.error("damaged tokens of response=%r: %s", row.id, type(why).__name__)
        tokens = StoredTokens()
    return _Found(row.num, row.owner, bool(row.is_cancelled), response, *start, *counts, tokens)


def _interrupted(one: _Found) -> Interrupted:
    return Interrupted(
        response=one.response,
        prompt_ids=one.prompt_ids,
        sampling=one.sampling,
        output_ids=tuple(one.tokens.ids),
        is_cancelled=one.is_cancelled,
    )


def _count(conn: Connection, num: int, restarts: int, num_tokens: int, *, owner: str) -> None:
    change = update(responses).where(responses.c.num == num)
    conn.execute(change.values(owner=owner, restarts=restarts, tokens_at_restart=num_tokens))


def _fail(conn: Connection, one: _Found, clock: StoreClock) -> None:
    error = f"Servers stopped {MAX_RESTARTS + 1} times in a row while generating this response."
    failed = replace(one.response, status=Status.FAILED, finished_at=clock.wall(), error=error)
    ended = {"prompt_ids": None, "start_checksum": None, "kept_from": clock.steady()}
    change = update(responses).where(responses.c.num == one.num)
    conn.execute(change.values(response_row(failed) | ended))
