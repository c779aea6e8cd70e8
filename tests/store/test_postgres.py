import asyncio
from collections.abc import Iterator

import psutil
import pytest

from llamastream.errors import StoreUnavailable
from llamastream.records import PageQuery
from llamastream.store.database import Database
from llamastream.store.postgres import KEEPALIVE, connect_arguments
from llamastream.store.store import Store
from tests.doubles.postgres import Postgres
from tests.store.conftest import DELETE_ROWS, run_sql
from tests.store.doubles import DONE, SCOPE, a_response, append, start, tokens


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    """The shared server, and up again after the test whatever happened."""
    run_sql(postgres.url, DELETE_ROWS)
    yield postgres
    if not postgres.is_running():
        postgres.start()


async def test_store_works_again_after_a_crash_of_the_server(server: Postgres) -> None:
    async with await Store.open(server.url) as store:
        await start(store, "r1")
        await append(store, tokens("r1", 0, 3))
        server.crash()
        with pytest.raises(StoreUnavailable, match="The database failed"):
            await append(store, tokens("r1", 0, 4))
        with pytest.raises(StoreUnavailable):
            await store.responses.get("r1", scope=SCOPE)
        with pytest.raises(StoreUnavailable):
            await store.responses.create(a_response("r2"), scope=SCOPE)
        with pytest.raises(StoreUnavailable):
            await store.responses.tokens("r1", scope=SCOPE)
        server.start()
        assert await append(store, tokens("r1", 0, 5)) == {}
        await store.responses.finish("r1", DONE)
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 5)


async def test_tokens_that_the_crash_lost_are_written_again(server: Postgres) -> None:
    """Steps are committed without a flush there; the new connection starts with a fold."""
    first = await Store.open(server.url)
    await start(first, "r1")
    for k in range(50):
        await append(first, tokens("r1", 0, k + 1))
    server.crash()
    server.start()
    assert await append(first, tokens("r1", 0, 51)) == {}
    await first._writer.close()  # as if killed: nothing is parked
    first._database.close()
    async with await Store.open(server.url) as second:
        (interrupted,) = (await second.membership.recover()).interrupted
        assert len(interrupted.output_ids) == 51


@pytest.mark.slow
async def test_a_server_that_hangs_is_given_up_until_it_goes_on(server: Postgres) -> None:
    async with await Store.open(server.url) as store:
        await start(store, "r1")
        await append(store, tokens("r1", 0, 3))
        assert store.is_working
        server.freeze()
        try:
            step, page = await asyncio.gather(
                append(store, tokens("r1", 0, 4)),
                store.conversations.list(scope=SCOPE, query=PageQuery()),
                return_exceptions=True,
            )
        finally:
            server.thaw()
        assert isinstance(step, StoreUnavailable)
        assert isinstance(page, StoreUnavailable)
        assert not store.is_working
        # The step that was given up may be done after all: its token is there once.
        assert await append(store, tokens("r1", 0, 5)) == {}
        assert store.is_working
        await store.responses.finish("r1", DONE)
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 5)


@pytest.mark.slow
async def test_nothing_is_written_while_a_session_that_hangs_may_still_write(
    server: Postgres,
) -> None:
    async with await Store.open(server.url) as store:
        await start(store, "r1")
        connection = store._writer._conn.connection.driver_connection  # type: ignore[union-attr]
        session = psutil.Process(connection.info.backend_pid)  # type: ignore[union-attr]
        session.suspend()
        try:
            with pytest.raises(StoreUnavailable, match="has not ended the session"):
                await append(store, tokens("r1", 0, 1))
        finally:
            session.resume()
        assert await append(store, tokens("r1", 0, 2)) == {}
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 2)


async def test_what_the_url_says_wins(server: Postgres) -> None:
    database = Database(f"{server.url}&options=-c work_mem=7MB&connect_timeout=9")
    assert database.read_now(lambda conn: conn.exec_driver_sql("SHOW work_mem").scalar()) == "7MB"
    assert connect_arguments(database.url).keys() == {"options", *KEEPALIVE}
    database.close()


async def test_replicas_have_their_own_streams(server: Postgres) -> None:
    async with await Store.open(server.url) as one, await Store.open(server.url) as two:
        await start(one, "r1")
        await start(two, "r2")
        await asyncio.gather(append(one, tokens("r1", 0, 2)), append(two, tokens("r2", 0, 3)))
        assert await two.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 2)
        await one.responses.finish("r1", DONE)
        assert await two.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 2)
        assert await one.responses.tokens("r2", scope=SCOPE) == tokens("r2", 0, 3)
        assert (await one.membership.recover()).interrupted == ()
    async with await Store.open(server.url) as three:
        assert [one.response.id for one in (await three.membership.recover()).interrupted] == ["r2"]


async def test_password_is_not_shown() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened") as caught:
        await Store.open("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in caught.value.message
