"""What grows at other servers: the ends of their journals, and the responses that end there.

One reader of a server follows all. What it cannot tell from the steps, since they were folded or
the owner has changed, it reads from the response itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select

from llamastream.errors import DamagedRecord, NotFound
from llamastream.records import Growth, Status
from llamastream.store.packing import NO_LOGPROBS, make_token, unpack_step_entries, unpack_steps
from llamastream.store.rows import RESPONSE_COLUMNS, to_response
from llamastream.store.tables import journal, responses
from llamastream.store.tokens import is_whole, read_tokens
from llamastream.types import Token

_STATE = tuple(responses.c[name] for name in ("id", "num", "scope", "status", "owner"))


class Tail:
    """How far each journal is read. Used by one thread at a time."""

    def __init__(self) -> None:
        self._seqs: dict[str, int] = {}  # by owner
        self._owners: dict[str, str] = {}  # by id, as of the last read

    def read(self, conn: Connection, num_tokens: Mapping[str, int]) -> dict[str, Growth]:
        """See `Responses.grown`."""
        of_ids = select(*_STATE).where(responses.c.id.in_(num_tokens))
        rows = conn.execute(of_ids).all()
        # NOTE: how far the journals are, before the tokens are read that are behind nothing here.
        steps = self._steps(conn, {row.owner for row in rows})
        found = {}
        for row in rows:
            with suppress(NotFound, DamagedRecord):  # since: whoever comes for it is told which
                found[row.id] = self._growth(conn, row, steps.get(row.num, ()), num_tokens[row.id])
        self._owners = {row.id: row.owner for row in rows}
        return found

    def _growth(
        self, conn: Connection, row: Row[Any], steps: Sequence[Token], known: int
    ) -> Growth:
        if row.status != Status.IN_PROGRESS:
            columns = select(*RESPONSE_COLUMNS).where(responses.c.num == row.num)
            record = to_response(conn.execute(columns).one())
            return Growth(read_tokens(conn, row.id, row.scope, known - 1), record)
        tokens = _behind(row, steps, known)
        if tokens is None or self._owners.get(row.id) != row.owner:
            tokens = read_tokens(conn, row.id, row.scope, known - 1)
        return Growth(tokens, None)

    def _steps(self, conn: Connection, owners: set[str]) -> dict[int, list[Token]]:
        """By num, what was journalled since. Of an owner that is new here nothing."""
        new = owners - self._seqs.keys()
        self._seqs = {owner: seq for owner, seq in self._seqs.items() if owner in owners}
        last = func.coalesce(func.max(journal.c.seq), -1)
        for owner in new:
            of_owner = select(last).where(journal.c.owner == owner)
            self._seqs[owner] = conn.execute(of_owner).scalar_one()
        old = [
            and_(journal.c.owner == owner, journal.c.seq > seq)
            for owner, seq in self._seqs.items()
            if owner not in new
        ]
        if not old:
            return {}
        rows = conn.execute(select(journal).where(or_(*old)).order_by(journal.c.seq)).all()
        for row in rows:
            self._seqs[row.owner] = max(self._seqs[row.owner], row.seq)
        return _by_num(filter(is_whole, rows))


def _by_num(rows: Iterable[Row[Any]]) -> dict[int, list[Token]]:
    """The tokens of steps, without the ids of their responses."""
    found = defaultdict(list)
    for row in rows:
        entries = {
            (num, position): entry
            for num, position, entry in unpack_step_entries(row.logprobs or b"")
        }
        for num, position, token_id in unpack_steps(row.tokens).tolist():
            entry = entries.get((num, position), NO_LOGPROBS)
            found[num].append(make_token("", position, token_id, entry))
    return found


def _behind(row: Row[Any], tokens: Sequence[Token], known: int) -> list[Token] | None:
    """Of these, those behind the `known` first. None: there is a hole."""
    found: list[Token] = []
    for token in tokens:
        if token.position == known + len(found):
            found.append(token._replace(request_id=row.id))
        elif token.position > known + len(found):
            return None
    return found
