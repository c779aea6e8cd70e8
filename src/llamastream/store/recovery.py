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
from llamastream.store.journal import Journal, read_unfolded
from llamastream.store.ledger import OpenResponse
from llamastream.store.removal import give_up
from llamastream.store.rows import (
    RESPONSE_COLUMNS,
    START_COLUMNS,
    TOKEN_COLUMNS,
    check_tokens,
    response_row,
    to_response,
    to_start,
)
from llamastream.store.tables import responses

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
    entry: OpenResponse


def recover(conn: Connection, journal: Journal, clock: StoreClock) -> Recovery:
    """Open every response in progress of this owner again, fail the hopeless, empty the journal."""
    statement = (
        select(*RESPONSE_COLUMNS, *START_COLUMNS, *TOKEN_COLUMNS, *_STATE)
        .where(responses.c.status == Status.IN_PROGRESS, responses.c.owner == journal.owner)
        .order_by(responses.c.num)
    )
    found, interrupted, failed = [], [], []
    for row in conn.execute(statement).all():
        try:
            found.append(_read(row))
        except DamagedRecord:
            give_up(conn, row.num, clock)
            failed.append(row.id)
    opened = [one.entry for one in found]
    start = min((entry.start for entry in opened), default=journal.next_seq)
    read_unfolded(conn, journal.owner, opened, start=start)
    for one in found:
        num_tokens = len(one.entry.ids)
        restarts = 0 if num_tokens > one.tokens_at_restart else one.restarts
        journal.fold(conn, one.entry)
        if restarts >= MAX_RESTARTS:
            failed.append(one.response.id)
            _fail(conn, one, clock)
            continue
        journal.ledger.add(one.entry)
        _count(conn, one.num, restarts + 1, num_tokens)
        interrupted.append(_interrupted(one, restarts + 1))
    journal.forget_old(conn)
    return Recovery(tuple(interrupted), tuple(failed))


def park(conn: Connection, journal: Journal) -> None:
    """Fold what is in progress, for the next start, which will not count as one after a crash."""
    journal.fold_all(conn)
    for entry in journal.ledger.all():
        _count(conn, entry.num, 0, len(entry.ids))


def _read(row: Row[Any]) -> _Found:
    """Raises DamagedRecord, but not for tokens: those are generated again, bit for bit."""
    response, start = to_response(row), to_start(row)
    with reading("response", row.id):
        counts = int(row.restarts), int(row.tokens_at_restart)
        entry = OpenResponse(row.id, row.scope, row.num, int(row.journal_start))
    try:
        check_tokens(row)
        entry = OpenResponse.of_row(row)
    except UNREADABLE as why:
        logger.error("damaged tokens of response=%r: %s", row.id, type(why).__name__)
    return _Found(row.num, response, *start, *counts, entry)


def _interrupted(one: _Found, restarts: int) -> Interrupted:
    return Interrupted(
        response=one.response,
        prompt_ids=one.prompt_ids,
        sampling=one.sampling,
        output_ids=tuple(one.entry.ids),
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
