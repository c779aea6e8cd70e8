"""The time by which stored things grow old. It never takes the wall clock's word alone.

    steady time  +=  time that servers ran with this database, and that the wall clock says too
    pending          what the wall clock went ahead beyond that: a pause, or a wrong clock; counted
                     once servers have run HOLD_S with it, so that somebody can notice
    debt             what the wall clock went back: it must make up for that before it counts again

Kept in the database, so that a start with a wrong clock is known for what it is. What is old by
this time has been there that long; after a pause or a correction it is kept longer, never shorter.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, func, select, text

from llamastream.store.damage import UNREADABLE, checksum, verify
from llamastream.store.tables import conversations, responses, store_clock

logger = logging.getLogger(__name__)

HOLD_S = 86_400.0
MERGED_S = 3600.0  # of running: what comes within it is held together
IGNORED_S = 1.0  # clocks are slewed all the time
REPORTED_S = 86_400.0  # a jump that is worth a line in the log
FIRST_RELEASE_S = 1.7e9  # in 2023: a clock that says less is not set yet

_PUT = text(
    "INSERT INTO store_clock (num, state, checksum) VALUES (1, :state, :checksum) "
    "ON CONFLICT (num) DO UPDATE SET state = excluded.state, checksum = excluded.checksum"
)


class Clocks(NamedTuple):
    """Those of the machine: seconds since 1970, and seconds of running since any moment."""

    wall: Callable[[], float] = time.time
    running: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class State:
    steady: float
    wall: float  # when it was last looked at
    ran: float = 0.0  # seconds that servers ran, all in all
    debt: float = 0.0
    pending: tuple[tuple[float, float], ...] = ()  # (`ran` when it was seen, seconds), oldest first

    def advanced(self, wall: float, elapsed: float, *, is_shared: bool = False) -> "State":
        """After `elapsed` seconds of running, with the wall clock at `wall`.

        Where it is shared another server may have counted these seconds too.
        """
        moved = wall - self.wall
        passed = min(max(moved, 0.0), elapsed) if is_shared else elapsed
        ran = self.ran + passed
        state = replace(self, steady=self.steady + passed, wall=wall, ran=ran)
        drift = 0.0 if self.wall < FIRST_RELEASE_S else moved - passed
        if drift <= -IGNORED_S:
            state = state._gone_back(-drift)
        elif drift >= IGNORED_S:
            state = state._gone_ahead(drift)
        ripe = [amount for seen, amount in state.pending if ran - seen >= HOLD_S]
        pending = state.pending[len(ripe) :]
        return replace(state, steady=state.steady + sum(ripe), pending=pending)

    def _gone_back(self, amount: float) -> "State":
        """Takes back what is pending, the newest first."""
        pending = list(self.pending)
        while pending and amount > 0:
            seen, last = pending.pop()
            if last > amount:
                pending.append((seen, last - amount))
            amount -= min(last, amount)
        return replace(self, pending=tuple(pending), debt=self.debt + amount)

    def _gone_ahead(self, amount: float) -> "State":
        paid = min(self.debt, amount)
        state = replace(self, debt=self.debt - paid)
        if paid == amount:
            return state
        *older, (seen, last) = self.pending or ((self.ran, 0.0),)
        if self.ran - seen < MERGED_S:
            newest = [(seen, last + amount - paid)]
        else:
            newest = [(seen, last), (self.ran, amount - paid)]
        return replace(state, pending=(*older, *newest))

    @property
    def ahead(self) -> float:
        """How far the wall clock is beyond what was counted."""
        return sum(amount for _, amount in self.pending) - self.debt


class StoreClock:
    """`wall` is for people, `steady` for ages. Steady once `set` was called."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._state: State | None = None
        self._running = clocks.running()  # when the state was taken

    def wall(self) -> float:
        return self._clocks.wall()

    def steady(self) -> float:
        if self._state is None:
            return self.wall()
        return self._state.steady + self._clocks.running() - self._running

    def advance(self, conn: Connection) -> tuple[State, float]:
        """Look at the clocks, and keep what they say, within the caller's transaction.

        The result is for `set`, once that is committed.
        """
        running, wall = self._clocks.running(), self.wall()
        before = _read(conn, wall)
        elapsed = 0.0 if self._state is None else running - self._running
        state = before.advanced(wall, elapsed, is_shared=before != self._state)
        _report(before, state)
        _write(conn, state)
        return state, running

    def set(self, state: State, running: float) -> None:
        self._state, self._running = state, running


def _read(conn: Connection, wall: float) -> State:
    row = conn.execute(select(store_clock).with_for_update()).one_or_none()
    if row is not None:
        try:
            verify(row.checksum, row.state)
            fields = orjson.loads(row.state)
            pending = tuple((seen, amount) for seen, amount in fields["pending"])
            return State(**fields | {"pending": pending})
        except UNREADABLE as why:
            logger.error("damaged store_clock: %s", type(why).__name__)
    stamps = (
        conn.execute(select(func.max(column))).scalar()
        for column in (conversations.c.updated_at, responses.c.created_at, responses.c.kept_from)
    )
    # A database from before: the last that happened in it is the last that was seen.
    newest = max((stamp for stamp in stamps if isinstance(stamp, float)), default=wall)
    return State(min(newest, wall), min(newest, wall))


def _write(conn: Connection, state: State) -> None:
    fields = orjson.dumps(asdict(state)).decode()
    conn.execute(_PUT, {"state": fields, "checksum": checksum(fields)})


def _report(before: State, after: State) -> None:
    ahead, days = after.ahead - before.ahead, 1 / REPORTED_S
    counted = after.steady - before.steady - (after.ran - before.ran)
    if counted >= REPORTED_S:
        logger.info("the clock was ahead for long enough: %.1f days are counted", counted * days)
    elif ahead >= REPORTED_S:
        logger.warning(
            "the clock went ahead by %.1f days that no server ran: nothing is forgotten for them "
            "until one has run %.0f hours. If the clock is wrong, set it right before",
            ahead * days,
            HOLD_S / 3600,
        )
    elif ahead <= -REPORTED_S:
        logger.warning("the clock went back by %.1f days: ages do not", -ahead * days)
