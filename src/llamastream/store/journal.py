"""The journal in the database: a row per step, folded into each response's own row when it ends.

Folding is also done when the rows pile up, and after a lost connection: a fold writes all tokens of
a response from memory, so that whatever the database may have lost of its journal is whole again.
"""

import logging
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from llamastream.records import Status
from llamastream.store.damage import UNREADABLE, checksum, reading, verify
from llamastream.store.database import Durability, unavailable
from llamastream.store.ledger import Ledger, OpenResponse
from llamastream.store.packing import NO_LOGPROBS, unpack_step_entries, unpack_steps
from llamastream.store.rows import TOKEN_COLUMNS, check_tokens, find
from llamastream.store.tables import journal, responses
from llamastream.types import Token

logger = logging.getLogger(__name__)

FOLD_AFTER = 4096  # rows that the oldest response in progress may hold back, a few MB

# NOTE: the one statement given to the driver itself. On a processor gone cold between two steps
# SQLAlchemy's own part of it would take longer than all the rest (0.27 ms against 0.12).
_INSERT_STEP = (
    "INSERT INTO journal (owner, seq, tokens, logprobs, checksum) VALUES ({0}, {0}, {0}, {0}, {0})"
)

_FOLD = (
    update(responses)
    # One that has ended was folded then, and what is in memory may be less.
    .where(responses.c.num == bindparam("of_num"), responses.c.status == Status.IN_PROGRESS)
    .values(
        token_ids=bindparam("ids"),
        logprobs=bindparam("entries"),
        tokens_checksum=bindparam("crc"),
        journal_start=bindparam("start"),
    )
)


class Journal:
    """Writes the ledger's changes. The writer's thread alone uses it, within its transactions."""

    def __init__(self, ledger: Ledger, *, owner: str, durability: Durability) -> None:
        self.ledger = ledger
        self.owner = owner
        self._keeps_steps = durability != "off"
        self.next_seq = 0  # the row that the next step becomes
        self._cursor: Any = None  # of the driver
        self._driver_error: type[Exception] = Exception
        self._insert_step = ""

    @property
    def wants_fold(self) -> bool:
        return self.next_seq - self.ledger.oldest_start(self.next_seq) >= FOLD_AFTER

    def attach(self, conn: Connection) -> None:
        """Read on a new connection where the journal ends."""
        last = conn.execute(
            select(func.max(journal.c.seq)).where(journal.c.owner == self.owner)
        ).scalar()
        self._cursor = conn.connection.cursor()
        self._driver_error = conn.dialect.loaded_dbapi.Error
        mark = "?" if conn.dialect.paramstyle == "qmark" else "%s"
        self._insert_step = _INSERT_STEP.format(mark)
        # NOTE: rows may have gone with the last fold, so the number in memory can be the larger.
        self.next_seq = max(self.next_seq, 0 if last is None else last + 1)

    def open(self, response_id: str, *, scope: str, num: int) -> None:
        self.ledger.add(OpenResponse(response_id, scope, num, self.next_seq))

    def write_step(self) -> None:
        """Write what was staged, as one row, on the connection attached to."""
        packed = self.ledger.take_step()
        if packed is None or not self._keeps_steps:
            return
        row = (self.owner, self.next_seq, *packed, checksum(*packed))
        try:
            self._cursor.execute(self._insert_step, row)
        except self._driver_error as error:
            raise unavailable(error) from error
        self.next_seq += 1

    def fold(self, conn: Connection, entry: OpenResponse) -> None:
        """Write all tokens of a response into its own row. Steps staged so far are included."""
        ids, entries = entry.packed()
        # Tokens staged in this transaction are in the fold, and once more in the step's row.
        start = self.next_seq
        tokens = {"ids": ids, "entries": entries, "crc": checksum(ids, entries)}
        conn.execute(_FOLD, tokens | {"of_num": entry.num, "start": start})
        self.ledger.move_start(entry, start)

    def fold_all(self, conn: Connection) -> None:
        for entry in self.ledger.all():
            self.fold(conn, entry)
        self.forget_old(conn)

    def forget_old(self, conn: Connection) -> None:
        """Delete the rows that no response in progress needs any more."""
        oldest = self.ledger.oldest_start(self.next_seq)
        conn.execute(delete(journal).where(journal.c.owner == self.owner, journal.c.seq < oldest))


def read_tokens(conn: Connection, id: str, scope: str, after: int) -> list[Token]:
    """Tokens of a response that is not in this server's ledger."""
    columns = (responses.c[n] for n in ("id", "scope", "num", "status", "owner", "journal_start"))
    row = find(conn, "response", id, scope, *columns, *TOKEN_COLUMNS)
    with reading("response", id):
        check_tokens(row)
        entry = OpenResponse.of_row(row)
        if row.status == Status.IN_PROGRESS:
            read_unfolded(conn, row.owner, [entry], start=row.journal_start)
        return entry.tokens(after)


def read_unfolded(conn: Connection, owner: str, opened: list[OpenResponse], *, start: int) -> None:
    """Add to each of `opened` its tokens in the journal rows from `start` on.

    A token that does not follow the one before it is passed over: it was written again later, or
    what it follows is lost or damaged, and then it will be generated again.
    """
    statement = (
        select(journal.c.seq, journal.c.tokens, journal.c.logprobs, journal.c.checksum)
        .where(journal.c.owner == owner, journal.c.seq >= start)
        .order_by(journal.c.seq)
    )
    rows = [row for row in conn.execute(statement) if _is_whole(row)]
    entries = {
        (num, position): entry
        for num, position, entry in unpack_step_entries(
            b"".join(row.logprobs for row in rows if row.logprobs is not None)
        )
    }
    by_num = {entry.num: entry for entry in opened}
    for num, position, token_id in unpack_steps(b"".join(row.tokens for row in rows)).tolist():
        response = by_num.get(num)
        if response is not None and position == len(response.ids):
            response.add(token_id, entries.get((num, position), NO_LOGPROBS))
    for response in opened:
        response.num_committed = len(response.ids)


def _is_whole(row: Row[*tuple[Any, ...]]) -> bool:
    """Whether a step can be read. One that cannot is as good as lost, which the log is told."""
    try:
        verify(row.checksum, row.tokens, row.logprobs)
        unpack_steps(row.tokens)
        for _ in unpack_step_entries(row.logprobs or b""):
            pass
    except UNREADABLE as why:
        logger.error("damaged journal row=%r: %s", row.seq, type(why).__name__)
        return False
    return True
