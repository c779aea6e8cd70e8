"""The journal in the database: a row per step, folded into each response's own row when it ends.

Writing only; `tokens` reads. What is written is taken from the responses' logs: a step writes of
each what the database does not have yet, so that no failure leaves a hole. Folding is also done
when the rows pile up, and on a new connection, so that whatever the database may have lost of its
journal is whole again.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from llamastream.errors import ChatError, Fenced, NotFound
from llamastream.records import Drawn, Status
from llamastream.store.damage import checksum
from llamastream.store.database import Durability, unavailable
from llamastream.store.packing import pack_entry, pack_ids, pack_log, pack_step_entry
from llamastream.store.tables import journal, responses
from llamastream.store.transaction import InProgress, Transaction
from llamastream.types import TokenLogprob

FOLD_AFTER = 4096  # rows that the oldest response in progress may hold back, a few MB

# NOTE: the one statement given to the driver itself. On a processor gone cold between two steps
# SQLAlchemy's own part of it would take longer than all the rest (0.27 ms against 0.12).
# It writes nothing under a name that is fenced; see `servers` for the lock.
_INSERT_STEP = (
    "INSERT INTO journal (owner, seq, tokens, logprobs, checksum) "
    "SELECT name, {0}, {0}, {0}, {0} FROM servers WHERE name = {0} {1}"
)

_FOLD = (
    update(responses)
    # One that has ended was folded then.
    .where(responses.c.num == bindparam("of_num"), responses.c.status == Status.IN_PROGRESS)
    .values(
        token_ids=bindparam("ids"),
        logprobs=bindparam("entries"),
        tokens_checksum=bindparam("crc"),
        journal_start=bindparam("start"),
    )
)

Refused = dict[str, ChatError]


class Step:
    """What one row of the journal is to hold."""

    def __init__(self) -> None:
        self._tokens: list[int] = []  # (num, position, token id), flat
        self._entries: list[bytes] = []

    def take(self, tx: Transaction, drawn: Iterable[Drawn]) -> Refused:
        """Of each response what the database does not have yet. Names those that are refused."""
        refused: Refused = {}
        in_progress, tokens = tx.in_progress, self._tokens
        for id, log, num_tokens in drawn:
            one = in_progress.get(id)
            if one is None:
                refused[id] = NotFound(f"Response '{id}' is not in progress.")
                continue
            num, scope, first_row, position, _ = one
            if position > num_tokens:  # the log was set back
                position = num_tokens
            ids, logprobs = log.drawn(position, num_tokens)
            if logprobs:
                self._take_logprobs(num, position, logprobs)
            for token_id in ids:
                tokens += (num, position, token_id)
                position += 1
            in_progress[id] = InProgress(num, scope, first_row, num_tokens, log)
        return refused

    def _take_logprobs(self, num: int, start: int, logprobs: Sequence[TokenLogprob | None]) -> None:
        for position, logprob in enumerate(logprobs, start):
            if logprob is not None:
                self._entries.append(pack_step_entry(num, position, pack_entry(logprob)))

    def packed(self) -> tuple[bytes, bytes | None] | None:
        """None if there is nothing to write."""
        if not self._tokens:
            return None
        return pack_ids(self._tokens), b"".join(self._entries) or None


class Journal:
    """The writer's thread alone uses it, within its transactions."""

    def __init__(self, *, owner: str, durability: Durability) -> None:
        self.owner = owner  # the server's name, which changes with each of its lives
        self._keeps_steps = durability != "off"
        self.next_seq = 0  # the row that the next step becomes
        self._cursor: Any = None  # of the driver
        self._driver_error: type[Exception] = Exception
        self._insert_step = ""

    def attach(self, conn: Connection) -> None:
        """Read on a new connection where the journal ends."""
        last = conn.execute(
            select(func.max(journal.c.seq)).where(journal.c.owner == self.owner)
        ).scalar()
        self._cursor = conn.connection.cursor()
        self._driver_error = conn.dialect.loaded_dbapi.Error
        is_sqlite = conn.dialect.name == "sqlite"
        marks = ("?", "") if is_sqlite else ("%s", "FOR KEY SHARE")
        self._insert_step = _INSERT_STEP.format(*marks)
        # NOTE: rows may have gone with the last fold, so the number in memory can be the larger.
        self.next_seq = max(self.next_seq, 0 if last is None else last + 1)

    def write(self, step: Step) -> None:
        """As one row, on the connection attached to. Raises Fenced."""
        packed = step.packed()
        if packed is None or not self._keeps_steps:
            return
        row = (self.next_seq, *packed, checksum(*packed), self.owner)
        try:
            self._cursor.execute(self._insert_step, row)
        except self._driver_error as error:
            raise unavailable(error) from error
        if not self._cursor.rowcount:
            raise Fenced
        self.next_seq += 1

    def wants_fold(self, tx: Transaction) -> bool:
        return self.next_seq - self._oldest_start(tx) >= FOLD_AFTER

    def fold(self, conn: Connection, num: int, ids: bytes, entries: bytes | None) -> None:
        """Write all tokens of a response into its own row. Steps taken so far are included, and
        will be once more in the step's row."""
        tokens = {"ids": ids, "entries": entries, "crc": checksum(ids, entries)}
        conn.execute(_FOLD, tokens | {"of_num": num, "start": self.next_seq})

    def fold_all(self, tx: Transaction) -> None:
        for id, one in tx.in_progress.items():
            if one.log is not None:
                self.fold(tx.conn, one.num, *pack_log(one.log, one.num_tokens))
            tx.in_progress[id] = one._replace(start=self.next_seq)
        self.forget_old(tx)

    def forget_old(self, tx: Transaction) -> None:
        """Delete the rows that no response in progress needs any more."""
        is_old = journal.c.seq < self._oldest_start(tx)
        tx.conn.execute(delete(journal).where(journal.c.owner == self.owner, is_old))

    def _oldest_start(self, tx: Transaction) -> int:
        return min((one.start for one in tx.in_progress.values()), default=self.next_seq)
