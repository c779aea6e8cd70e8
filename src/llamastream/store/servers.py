"""Which servers live, and what nobody generates: the table `servers`, and what is seen of it.

A server draws a name for each of its lives, and its row is its right to write: whoever takes it for
dead deletes that row, and from then on no statement of the dead one changes anything. What is in
progress under a name without a row is nobody's. No clocks of two machines are compared: a server is
dead when the observer's own reads saw its beat stand still.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, exc, insert, select, text, update

from llamastream.errors import Fenced, StoreUnavailable
from llamastream.records import Asked, Status
from llamastream.store.database import session_of
from llamastream.store.tables import responses, servers

logger = logging.getLogger(__name__)

GONE_S = 0.7  # without a beat, of a server that has no session at the database any more
HUNG_S = 5.0  # of one that has
MAX_GAP_S = 1.0  # of two reads: if it was more, the observer was stopped, and not the others
UNSERVED_S = 60.0  # that what another model began waits for a server of that model
LOOKS_PER_SEARCH = 8  # for what nobody generates, while servers neither come nor go
MAX_LABEL_CHARS = 32

_SESSIONS = text(
    "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
)
_END_SESSIONS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :session "
    "AND datname = current_database() AND usename = current_user"
)
_END_SESSION = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid "
    "AND application_name = :session AND datname = current_database()"
)
SESSION_ENDS_S = 1.0


def new_name(label: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', label)[:MAX_LABEL_CHARS]}-{secrets.token_hex(6)}"


def check_lives(conn: Connection, name: str) -> None:
    """Within a transaction, which nobody can fence before it ends. Raises Fenced."""
    # NOTE: the weakest lock is enough, for a fence deletes; and beats, which update, pass by it.
    row = select(servers.c.name).where(servers.c.name == name)
    if conn.execute(row.with_for_update(read=True, key_share=True)).first() is None:
        raise Fenced


def register(conn: Connection, name: str) -> None:
    conn.execute(insert(servers).values(name=name, model="", beat=0))


def serve(conn: Connection, name: str, model: str) -> None:
    """From now on others leave it a share of what they find, of this model."""
    conn.execute(update(servers).where(servers.c.name == name).values(model=model))


def unregister(conn: Connection, name: str) -> bool:
    """What it generates is nobody's once this is committed. False: it was fenced before."""
    return bool(conn.execute(delete(servers).where(servers.c.name == name)).rowcount)


def name_session(conn: Connection, name: str) -> None:
    session = {"session": session_of(name)}
    conn.execute(text("SELECT set_config('application_name', :session, false)"), session)


def end_session(conn: Connection, name: str, pid: int) -> None:
    """Of a server's own that it gave up: what that has under way is over when this returns.

    Raises StoreUnavailable when it does not end.
    """
    until_s = time.monotonic() + SESSION_ENDS_S
    while conn.execute(_END_SESSION, {"pid": pid, "session": session_of(name)}).first():
        if time.monotonic() > until_s:
            raise StoreUnavailable("The database has not ended the session that failed before.")
        time.sleep(0.02)


class Sight(NamedTuple):
    share: Sequence[int]  # nums: of what nobody generates, what this server is to go on with
    own: Sequence[Asked]  # all that the database has in progress under its name


class _Beat(NamedTuple):
    number: int
    still_s: float


class Lookout:
    """What one server sees of the others. Used by one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, _Beat] = {}  # of the others
        self._looked_s = 0.0
        self._num_looks = 0  # since the last search
        self._left: set[int] = set()  # nobody's at the last search
        self._unserved_s: dict[str, float] = {}  # by model, since when
        self.num_peers = 0  # others of the same model

    def forget(self) -> None:
        """After a read that failed: it may be the database that stood still."""
        self._beats.clear()

    def is_unsure(self, conn: Connection) -> bool:
        """Whether one without a session may still come back to the database."""
        return bool(self._beats.keys() - _with_session(conn, self._beats))

    def look(self, conn: Connection, name: str, model: str, *, takes: bool) -> Sight:
        """Beat, fence who is dead, and see what there is to do: with no `model` nothing, and where
        this server not yet `takes` its share, only what nobody else would. Raises Fenced."""
        is_shared = conn.dialect.name != "sqlite"
        others = self._others(conn, name) if is_shared else []
        peers = sorted({name, *(other.name for other in others if other.model == model)})
        self.num_peers = len(peers) - 1
        share = self._search(conn, model, {other.model for other in others}) if model else []
        own = _own(conn, name) if is_shared else ()
        if not takes and self.num_peers:
            return Sight((), own)
        rank, left = peers.index(name), self._left
        self._left = set(share)
        return Sight([num for num in share if num % len(peers) == rank or num in left], own)

    def _others(self, conn: Connection, name: str) -> list[Row[Any]]:
        """Those that live."""
        beat = update(servers).where(servers.c.name == name).values(beat=servers.c.beat + 1)
        if not conn.execute(beat).rowcount:
            raise Fenced
        rows = conn.execute(select(servers).where(servers.c.name != name)).all()
        now_s = self._clock()
        passed_s, self._looked_s = min(now_s - self._looked_s, MAX_GAP_S), now_s
        before = self._beats
        self._beats = {row.name: _count(before.get(row.name), row.beat, passed_s) for row in rows}
        if before.keys() != self._beats.keys():
            self._num_looks = 0
        dead = {name for name in self._dead(conn) if _fence(conn, name, self._beats[name])}
        if dead:
            self._num_looks = 0
        return [row for row in rows if row.name not in dead]

    def _dead(self, conn: Connection) -> list[str]:
        silent = {name: beat for name, beat in self._beats.items() if beat.still_s >= GONE_S}
        connected = _with_session(conn, silent) if silent else silent
        return [
            name for name, beat in silent.items() if name not in connected or beat.still_s >= HUNG_S
        ]

    def _search(self, conn: Connection, model: str, served: Collection[str]) -> list[int]:
        """What nobody generates."""
        self._num_looks -= 1
        if self._num_looks >= 0 and not self._left:
            return []
        self._num_looks = LOOKS_PER_SEARCH
        living = select(servers.c.name)
        nobodys = select(responses.c.num, responses.c.model).where(
            responses.c.status == Status.IN_PROGRESS, responses.c.owner.not_in(living)
        )
        rows = conn.execute(nobodys).all()
        theirs = {row.model for row in rows} - {None, model}
        now_s = self._clock()
        self._unserved_s = {
            one: self._unserved_s.get(one, now_s) for one in theirs if one not in served
        }
        limit_s = 0 if conn.dialect.name == "sqlite" else UNSERVED_S
        given_up = {one for one, since in self._unserved_s.items() if now_s - since >= limit_s}
        return [row.num for row in rows if row.model in {None, model, *given_up}]


def _count(before: _Beat | None, number: int, passed_s: float) -> _Beat:
    if before is None or before.number != number:
        return _Beat(number, 0.0)
    return _Beat(number, before.still_s + passed_s)


def _with_session(conn: Connection, names: Collection[str]) -> set[str]:
    found = set(conn.execute(_SESSIONS).scalars())
    return {name for name in names if session_of(name) in found}


def _fence(conn: Connection, name: str, beat: _Beat) -> bool:
    """Unless it beat meanwhile. What it has under way is ended, and so are the locks of that."""
    conn.execute(_END_SESSIONS, {"session": session_of(name)})
    is_it = (servers.c.name == name, servers.c.beat == beat.number)
    conn.exec_driver_sql("BEGIN")
    try:
        conn.exec_driver_sql("SET LOCAL lock_timeout TO '500ms'")
        was_there = conn.execute(delete(servers).where(*is_it)).rowcount
        conn.exec_driver_sql("COMMIT")
    except exc.OperationalError:  # a session that does not end: the next look tries again
        conn.exec_driver_sql("ROLLBACK")
        logger.warning("server=%s is dead and holds its transaction", name)
        return False
    if was_there:
        logger.warning("server=%s is dead: no beat for %.1f s", name, beat.still_s)
    return bool(was_there)


def _own(conn: Connection, name: str) -> list[Asked]:
    columns = (responses.c.id, responses.c.is_cancelled, responses.c.num_follows)
    own = select(*columns).where(responses.c.status == Status.IN_PROGRESS)
    rows = conn.execute(own.where(responses.c.owner == name)).all()
    return [Asked(row.id, bool(row.is_cancelled), row.num_follows) for row in rows]
