"""The tokens of responses as the database has them: in their own rows, and behind that in steps."""

import logging
from array import array
from collections.abc import Mapping
from itertools import repeat
from typing import Any, Self

from sqlalchemy import Connection, Row, select

from llamastream.records import Status
from llamastream.store.damage import UNREADABLE, reading, verify
from llamastream.store.packing import (
    NO_LOGPROBS,
    make_token,
    pack_ids,
    split_entries,
    unpack_ids,
    unpack_step_entries,
    unpack_steps,
)
from llamastream.store.rows import TOKEN_COLUMNS, check_tokens, find
from llamastream.store.tables import journal, responses
from llamastream.types import Token

logger = logging.getLogger(__name__)


class StoredTokens:
    """Those of one response, in order of position."""

    def __init__(self) -> None:
        self.ids = array("I")
        self.entries: list[bytes] = []  # of log-probabilities, as many as ids once any has one

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """Those in the response's own row. Raises ValueError for what is damaged."""
        check_tokens(row)
        tokens = cls()
        tokens.ids.extend(unpack_ids(row.token_ids))
        tokens.entries = split_entries(row.logprobs or b"")
        return tokens

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, token_id: int, entry: bytes) -> None:
        if entry != NO_LOGPROBS and not self.entries:
            self.entries = [NO_LOGPROBS] * len(self.ids)
        if self.entries or entry != NO_LOGPROBS:
            self.entries.append(entry)
        self.ids.append(token_id)

    def packed(self) -> tuple[bytes, bytes | None]:
        """As the response's own row keeps them."""
        return pack_ids(self.ids), b"".join(self.entries) or None

    def from_position(self, start: int, response_id: str) -> list[Token]:
        ids, entries = self.ids[start:], self.entries[start:] or repeat(NO_LOGPROBS)
        return [
            make_token(response_id, position, token_id, entry)
            for position, (token_id, entry) in enumerate(zip(ids, entries, strict=False), start)
        ]


def read_tokens(conn: Connection, id: str, scope: str, after: int) -> list[Token]:
    """Those of a response with a position > `after`."""
    columns = (responses.c[name] for name in ("id", "num", "status", "owner", "journal_start"))
    row = find(conn, "response", id, scope, *columns, *TOKEN_COLUMNS)
    with reading("response", id):
        tokens = StoredTokens.of_row(row)
        if row.status == Status.IN_PROGRESS:
            read_unfolded(conn, row.owner, {row.num: tokens}, start=row.journal_start)
        return tokens.from_position(after + 1, id)


def read_unfolded(
    conn: Connection, owner: str, by_num: Mapping[int, StoredTokens], *, start: int
) -> None:
    """Add to each of these responses its tokens in the journal rows from `start` on.

    A token that does not follow the one before it is passed over: it was written again later, or
    what it follows is lost or damaged, and then it will be generated again.
    """
    statement = (
        select(journal.c.seq, journal.c.tokens, journal.c.logprobs, journal.c.checksum)
        .where(journal.c.owner == owner, journal.c.seq >= start)
        .order_by(journal.c.seq)
    )
    rows = [row for row in conn.execute(statement) if is_whole(row)]
    entries = {
        (num, position): entry
        for num, position, entry in unpack_step_entries(
            b"".join(row.logprobs for row in rows if row.logprobs is not None)
        )
    }
    for num, position, token_id in unpack_steps(b"".join(row.tokens for row in rows)).tolist():
        tokens = by_num.get(num)
        if tokens is not None and position == len(tokens):
            tokens.add(token_id, entries.get((num, position), NO_LOGPROBS))


def is_whole(row: Row[*tuple[Any, ...]]) -> bool:
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
