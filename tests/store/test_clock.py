"""Nothing is forgotten on the word of the wall clock alone; after a real pause it is at last."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from llamastream.records import IdempotencyKey, Retention
from llamastream.store.clock import HOLD_S, MERGED_S, State
from llamastream.store.store import Store
from llamastream.store.tables import conversations, responses, store_clock
from tests.store.conftest import Clock
from tests.store.doubles import SCOPE, run, start

DAY = 86_400.0
MONTH = Retention(max_age_s=30 * DAY)
MINUTE = 60.0


@asynccontextmanager
async def started(url: str, clock: Clock) -> AsyncIterator[Store]:
    """A server's run."""
    async with await Store.open(url, clocks=clock.clocks) as store:
        yield store


async def num_kept(store: Store) -> int:
    def read(conn: Connection) -> int:
        return sum(
            len(conn.execute(select(table.c.num)).all()) for table in (responses, conversations)
        )

    return await store._database.read(read)


async def fill(store: Store) -> None:
    await run(store, "r1")
    await store.conversations.create("c1", scope=SCOPE, metadata={})


async def serve(store: Store, clock: Clock, seconds: float, *, step: float = MINUTE * 60) -> int:
    """Run for so long, sweeping all the while; what is kept at the end."""
    for _ in range(round(seconds / step)):
        clock.now += step
        while (await store.sweep(MONTH)).more:
            pass
    return await num_kept(store)


async def test_start_with_the_clock_ahead_forgets_nothing(
    url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(url, clock) as store:
        await fill(store)
    clock.wrong_by = 40 * DAY
    async with started(url, clock) as store:
        assert await serve(store, clock, HOLD_S - 2 * MINUTE * 60) == 2
        assert caplog.text.count("the clock went ahead by 40.0 days") == 1
        assert "set it right before" in caplog.text
    clock.wrong_by = 0.0
    async with started(url, clock) as store:  # somebody has noticed
        assert await serve(store, clock, 28 * DAY, step=DAY / 2) == 2
        assert await serve(store, clock, 3 * DAY, step=DAY / 2) == 0


async def test_clock_that_jumps_while_a_server_runs_forgets_nothing(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        await fill(store)
        for wrong_by in (40 * DAY, 0.0, -40 * DAY, 4000 * DAY):
            clock.wrong_by = wrong_by
            assert await serve(store, clock, 5 * MINUTE * 60) == 2


async def test_after_a_real_pause_what_is_old_is_forgotten_but_not_at_once(
    url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with started(url, clock) as store:
        await fill(store)
    clock.now += 40 * DAY
    async with started(url, clock) as store:
        assert await serve(store, clock, HOLD_S - 2 * MINUTE * 60) == 2
    async with started(url, clock) as store:  # a restart does not begin anew
        assert await serve(store, clock, 3 * MINUTE * 60) == 0
        assert "40.0 days are counted" in caplog.text


async def test_machine_that_is_off_every_night_forgets_at_last(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        await fill(store)
    kept, days = 2, 0
    while kept and days < 60:
        days += 1
        async with started(url, clock) as store:
            kept = await serve(store, clock, 8 * 3600)
        clock.now += 16 * 3600
    assert 30 <= days <= 34


async def test_clock_that_was_wrong_at_first_makes_nothing_old(url: str, clock: Clock) -> None:
    """A machine without a clock of its own begins in 1970, and hears the time later."""
    clock.wrong_by = -clock.now
    async with started(url, clock) as store:
        await fill(store)
        clock.wrong_by = 0.0
        assert await serve(store, clock, 20 * DAY, step=DAY / 4) == 2


async def test_limits_by_number_forget_the_oldest_whatever_the_clock_says(
    url: str, clock: Clock
) -> None:
    async with started(url, clock) as store:
        await run(store, "first")
        clock.now += 10
        clock.wrong_by = -40 * DAY
        await store.sweep(Retention())
        await run(store, "second")
        await store.sweep(Retention(max_responses=1))
        assert (await store.responses.get("second", scope=SCOPE)).id == "second"
        assert await num_kept(store) == 1


async def test_keys_outlive_a_jump_of_the_clock(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        await start(store, "r1", idempotency=IdempotencyKey("k", b"d"))
        clock.wrong_by = 2 * DAY
        assert (await store.sweep(Retention())).num_keys == 0


async def test_damaged_clock_forgets_nothing(
    url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(url, clock) as store:
        await fill(store)
        damage = update(store_clock).values(state='{"steady":9e12,"wall":9e12}')
        await store._writer.run(lambda tx: tx.conn.execute(damage))
        assert await serve(store, clock, DAY / 2) == 2
    assert "damaged store_clock" in caplog.text


LOOKS = st.lists(
    st.tuples(st.floats(0, 3 * HOLD_S), st.floats(-99 * DAY, 99 * DAY) | st.just(0.0)),
    max_size=40,
)


@given(LOOKS)
def test_steady_time_is_never_ahead_of_what_ran_and_what_was_held(
    looks: list[tuple[float, float]],
) -> None:
    """Whatever the wall clock does: beyond running time, what it says counts HOLD_S later."""
    begin = 2e9
    state = State(begin, begin)
    wall, ran = begin, 0.0
    for elapsed, jump in looks:
        wall += elapsed + jump
        ran += elapsed
        before, state = state, state.advanced(wall, elapsed)
        assert state.steady >= before.steady
        counted = state.steady - before.steady - (state.ran - before.ran)
        ripe = [n for seen, n in before.pending if state.ran - seen >= HOLD_S]
        assert -1e-3 < counted <= sum(ripe) + 1e-3
        assert abs(state.ran - ran) < 1e-3
        # The wall clock's lead is all there: counted, pending, or owed (but for what is ignored).
        assert abs(state.wall - state.steady - state.ahead) <= len(looks) + 1e-3
        assert len(state.pending) <= HOLD_S / MERGED_S + 2
    assert state.debt >= 0 and all(amount > 0 for _, amount in state.pending)
