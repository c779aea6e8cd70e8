"""What a start finds in progress, and what a stop leaves so.

A response is given up after three starts that found no new token of it, so that no input can keep
the server down. A clean stop does not count.
"""

from typing import Any

from sqlalchemy import Connection, Row, select, update

from llamastream.records import Interrupted, Recovery, Status
from llamastream.store.journal import Journal, read_unfolded
from llamastream.store.ledger import OpenResponse
from llamastream.store.packing import unpack_ids
from llamastream.store.rows import RESPONSE_COLUMNS, sampling_from_json, to_response
from llamastream.store.tables import responses

MAX_RESTARTS = 3  # without progress

_STATE = tuple(
    responses.c[name]
    for name in (
        *("prompt_ids", "sampling", "token_ids", "logprobs", "journal_start"),
        *("restarts", "tokens_at_restart"),
    )
)


def recover(conn: Connection, journal: Journal, now: float) -> Recovery:
    """Open every response in progress of this owner again, fail the hopeless, empty the journal."""
    statement = (
        select(*RESPONSE_COLUMNS, *_STATE)
        .where(responses.c.status == Status.IN_PROGRESS, responses.c.owner == journal.owner)
        .order_by(responses.c.num)
    )
    rows = conn.execute(statement).all()
    opened = [OpenResponse.of_row(row) for row in rows]
    start = min((row.journal_start for row in rows), default=journal.next_seq)
    read_unfolded(conn, journal.owner, opened, start=start)
    interrupted, failed = [], []
    for row, entry in zip(rows, opened, strict=True):
        restarts = 0 if len(entry.ids) > row.tokens_at_restart else row.restarts
        journal.fold(conn, entry)
        if restarts >= MAX_RESTARTS:
            failed.append(row.id)
            _fail(conn, row, now)
            continue
        journal.ledger.add(entry)
        _count(conn, row.num, restarts + 1, len(entry.ids))
        interrupted.append(_interrupted(row, entry, restarts + 1))
    journal.forget_old(conn)
    return Recovery(tuple(interrupted), tuple(failed))


def park(conn: Connection, journal: Journal) -> None:
    """Fold what is in progress, for the next start, which will not count as one after a crash."""
    journal.fold_all(conn)
    for entry in journal.ledger.all():
        _count(conn, entry.num, 0, len(entry.ids))


def _interrupted(row: Row[Any], entry: OpenResponse, restarts: int) -> Interrupted:
    return Interrupted(
        response=to_response(row),
        prompt_ids=tuple(unpack_ids(row.prompt_ids)),
        sampling=sampling_from_json(row.sampling),
        output_ids=tuple(entry.ids),
        restarts=restarts,
    )


def _count(conn: Connection, num: int, restarts: int, num_tokens: int) -> None:
    change = update(responses).where(responses.c.num == num)
    conn.execute(change.values(restarts=restarts, tokens_at_restart=num_tokens))


def _fail(conn: Connection, row: Row[Any], now: float) -> None:
    error = f"The server stopped {MAX_RESTARTS} times in a row while generating this response."
    change = update(responses).where(responses.c.num == row.num)
    conn.execute(change.values(status=Status.FAILED, finished_at=now, error=error, prompt_ids=None))
