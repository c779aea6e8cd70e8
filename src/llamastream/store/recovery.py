"""What a start finds in progress, and what a stop leaves so.

A response is given up after three starts that found no new token of it, so that no input can keep
the server down. A clean stop does not count.
"""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select, update

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
from llamastream.store.tables import responses
from llamastream.store.tokens import StoredTokens, read_unfolded
from llamastream.store.transaction import InProgress, Transaction

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # without progress

_STATE = tuple(responses.c[name] for name in ("journal_start", "restarts", "tokens_at_restart"))


class _Found(NamedTuple):
    num: int
    response: Response
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    restarts: int
    tokens_at_restart: int
    journal_start: int
    tokens: StoredTokens


def recover(tx: Transaction, journal: Journal, clock: StoreClock) -> Recovery:
    """Take up every response in progress of this owner, fail the hopeless, empty the journal."""
    statement = (
        select(*RESPONSE_COLUMNS, *START_COLUMNS, *TOKEN_COLUMNS, *_STATE)
        .where(responses.c.status == Status.IN_PROGRESS, responses.c.owner == journal.owner)
        .order_by(responses.c.num)
    )
    conn = tx.conn
    found, interrupted, failed = [], [], []
    for row in conn.execute(statement).all():
        try:
            found.append(_read(row))
        except DamagedRecord:
            give_up(conn, row.num, clock)
            failed.append(row.id)
    start = min((one.journal_start for one in found), default=journal.next_seq)
    read_unfolded(conn, journal.owner, {one.num: one.tokens for one in found}, start=start)
    for one in found:
        num_tokens, response = len(one.tokens), one.response
        restarts = 0 if num_tokens > one.tokens_at_restart else one.restarts
        journal.fold(conn, one.num, *one.tokens.packed())
        if restarts >= MAX_RESTARTS:
            failed.append(response.id)
            _fail(conn, one, clock)
            continue
        tx.in_progress[response.id] = InProgress(
            one.num, response.scope, journal.next_seq, num_tokens
        )
        _count(conn, one.num, restarts + 1, num_tokens)
        interrupted.append(_interrupted(one, restarts + 1))
    journal.forget_old(tx)
    return Recovery(tuple(interrupted), tuple(failed))


def park(tx: Transaction, journal: Journal) -> None:
    """Fold what is in progress, for the next start, which will not count as one after a crash."""
    journal.fold_all(tx)
    for one in tx.in_progress.values():
        _count(tx.conn, one.num, 0, one.num_tokens)


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
    return _Found(row.num, response, *start, *counts, tokens)


def _interrupted(one: _Found, restarts: int) -> Interrupted:
    return Interrupted(
        response=one.response,
        prompt_ids=one.prompt_ids,
        sampling=one.sampling,
        output_ids=tuple(one.tokens.ids),
        restarts=restarts,
    )


def _count(conn: Connection, num: int, restarts: int, num_tokens: int) -> None:
    change = update(responses).where(responses.c.num == num)
    conn.execute(change.values(restarts=restarts, tokens_at_restart=num_tokens))


def _fail(conn: Connection, one: _Found, clock: StoreClock) -> None:
    error = f"The server stopped {MAX_RESTARTS} times in a row while generating this response."
    failed = replace(one.response, status=Status.FAILED, finished_at=clock.wall(), error=error)
    ended = {"prompt_ids": None, "start_checksum": None, "kept_from": clock.steady()}
    change = update(responses).where(responses.c.num == one.num)
    conn.execute(change.values(response_row(failed) | ended))
