"""Several servers on one PostgreSQL: each response has one writer, whatever happens."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

import llamastream.store.servers as servers
from llamastream.errors import (
    ChatError,
    Fenced,
    IdempotencyConflict,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from llamastream.records import IdempotencyKey, Recovery, Status
from llamastream.store.migrations import MIGRATIONS, Migration, upgrade
from llamastream.store.servers import Lookout
from llamastream.store.store import Store
from llamastream.store.transaction import Transaction
from tests.doubles.postgres import Postgres
from tests.doubles.waiting import LIMIT_S
from tests.store.conftest import DELETE_ROWS, DROP_TABLES, run_sql
from tests.store.doubles import DONE, SCOPE, a_response, append, looked, run, start, tokens


@pytest.fixture
def address(postgres: Postgres) -> str:
    run_sql(postgres.url, DELETE_ROWS)
    return postgres.url


async def test_servers_that_start_together_on_an_empty_database_all_start(address: str) -> None:
    run_sql(address, DROP_TABLES)
    stores = await asyncio.gather(*(Store.open(address) for k in range(4)))
    for store in stores:
        await store.close()


async def test_one_key_at_two_servers_at_once_is_one_response(address: str) -> None:
    async with (
        await Store.open(address) as one,
        await Store.open(address) as two,
    ):
        for k in range(20):
            key = IdempotencyKey(f"key-{k}", b"digest")
            found = await asyncio.gather(
                one.responses.create(a_response(f"a{k}", idempotency=key), scope=SCOPE),
                two.responses.create(a_response(f"b{k}", idempotency=key), scope=SCOPE),
            )
            assert found[0].response == found[1].response
            assert sorted(created.existing for created in found) == [False, True]


async def test_one_key_for_two_requests_at_once_is_one_response_and_a_refusal(address: str) -> None:
    async with (
        await Store.open(address) as one,
        await Store.open(address) as two,
    ):
        for k in range(20):
            outcomes = await asyncio.gather(
                *(
                    store.responses.create(
                        a_response(f"{k}-{n}", idempotency=IdempotencyKey(f"key-{k}", b"%d" % n)),
                        scope=SCOPE,
                    )
                    for n, store in enumerate((one, two))
                ),
                return_exceptions=True,
            )
            errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert [type(error) for error in errors] == [IdempotencyConflict]
            assert all(isinstance(error, ChatError) for error in errors)


@pytest.fixture
async def pair(address: str) -> AsyncIterator[tuple[Store, Store]]:
    async with await Store.open(address) as one, await Store.open(address) as two:
        for store in (one, two):
            await store.membership.recover()
            await store.membership.serve()
            await store.membership.look()
        yield one, two


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, pair: tuple[Store, Store]) -> None:
    """From now on, who misses two looks is dead."""
    monkeypatch.setattr(servers, "HUNG_S", 0.02)
    monkeypatch.setattr(servers, "GONE_S", 0.01)


async def ids_taken(store: Store, count: int) -> list[str]:
    """By looks, as many as it takes."""
    taken: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        while len(taken) < count:
            taken += ids_of((await looked(store)).recovery)
            await asyncio.sleep(0.02)
    return taken


def ids_of(recovery: Recovery) -> list[str]:
    return [one.response.id for one in recovery.interrupted]


async def raised(*calls: "asyncio.Future[object]") -> Sequence[type[BaseException]]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [type(one) for one in outcomes if isinstance(one, BaseException)]


@pytest.mark.usefixtures("hasty")
async def test_a_former_owner_that_comes_back_changes_nothing(pair: tuple[Store, Store]) -> None:
    """It cut a journal of 30 tokens back to the 10 it knew of, and appended one of its own."""
    former, owner = pair
    await start(former, "r1")
    await append(former, tokens("r1", 0, 10))
    assert await ids_taken(owner, 1) == ["r1"]
    await append(owner, tokens("r1", 0, 30))
    for _ in range(2):  # on the session it had, if that is left, and on a new one
        with pytest.raises(Fenced):
            await append(former, tokens("r1", 0, 11))
    calls = (
        former.responses.create(a_response("r2"), scope=SCOPE),
        former.responses.finish("r1", DONE),
        former.responses.delete("r1", scope=SCOPE),
        former.conversations.create("c1", scope=SCOPE, metadata={}),
        former.membership.look(),
    )
    assert await raised(*map(asyncio.ensure_future, calls)) == [Fenced] * len(calls)
    assert await owner.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 30)
    await append(owner, tokens("r1", 0, 31))
    await former.membership.rename(stays=True)
    await start(former, "r2")
    await append(former, tokens("r2", 0, 1))
    await owner.responses.finish("r1", DONE)
    assert await former.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 31)


@pytest.mark.slow
async def test_one_that_hangs_within_a_transaction_keeps_nobody_waiting(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it held was held until it was taken for dead, and the others wrote nothing meanwhile."""
    monkeypatch.setattr(servers, "HUNG_S", math.inf)
    hung, other = pair
    await start(hung, "r1")
    stopped, woken = threading.Event(), threading.Event()
    num_tries = 0

    def stall(tx: Transaction) -> None:
        nonlocal num_tries
        num_tries += 1
        tx.conn.exec_driver_sql("UPDATE scope_usage SET num_bytes = num_bytes")
        if num_tries == 1:
            stopped.set()
            woken.wait(LIMIT_S)
            tx.conn.exec_driver_sql("SELECT 1")

    stalled = hung._writer.run(stall)
    await asyncio.to_thread(stopped.wait, LIMIT_S)
    await start(other, "r2")  # of the same key, whose use is counted in the same row
    woken.set()
    await stalled  # done again: the server lives
    assert num_tries == 2
    await append(hung, tokens("r1", 0, 1))


@pytest.mark.usefixtures("hasty")
async def test_what_a_hung_server_has_under_way_is_never_committed(
    pair: tuple[Store, Store],
) -> None:
    former, owner = pair
    await start(former, "r1")
    stopped, woken = threading.Event(), threading.Event()

    def stall(tx: Transaction) -> None:
        tx.conn.exec_driver_sql("UPDATE responses SET request = 'damaged' WHERE id = 'r1'")
        stopped.set()
        woken.wait(LIMIT_S)

    stalled = former._writer.run(stall)
    await asyncio.to_thread(stopped.wait, LIMIT_S)
    assert await ids_taken(owner, 1) == ["r1"]
    woken.set()
    with pytest.raises(StoreUnavailable):
        await stalled
    assert (await owner.responses.get("r1", scope=SCOPE)).request == {"model": "m"}
    with pytest.raises(Fenced):
        await append(former, tokens("r1", 0, 1))


async def test_a_server_that_stops_leaves_its_responses_to_the_others_at_once(
    address: str, pair: tuple[Store, Store]
) -> None:
    leaver = await Store.open(address)
    await start(leaver, *(f"r{k}" for k in range(9)))
    await append(leaver, tokens("r1", 0, 3))
    await leaver.close()
    seen = await asyncio.gather(*(ids_taken(store, 4) for store in pair))
    assert sorted(seen[0] + seen[1]) == [f"r{k}" for k in range(9)]  # and each has its share
    has_r1 = pair[0] if "r1" in seen[0] else pair[1]
    await append(has_r1, tokens("r1", 0, 4))
    assert await pair[0].responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 4)


async def test_a_killed_server_is_known_by_its_sessions(
    address: str, pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "HUNG_S", math.inf)  # nothing else tells it from one that hangs
    killed = await Store.open(address)
    await start(killed, "r1")
    await killed._writer.close()
    await asyncio.to_thread(killed._database.close)
    taken = await asyncio.gather(*(_first_of(store) for store in pair))
    assert taken.count("r1") == 1


async def _first_of(store: Store) -> str | None:
    """What it takes until nothing is nobody's any more."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            if taken := ids_of((await looked(store)).recovery):
                return taken[0]
            if store.membership._lookout.num_peers == 1 and not await _has_orphans(store):
                return None
            await asyncio.sleep(0.05)


async def _has_orphans(store: Store) -> bool:
    statement = (
        "SELECT count(*) FROM responses WHERE status = 'in_progress' "
        "AND owner NOT IN (SELECT name FROM servers)"
    )
    count = await store._database.read(lambda conn: conn.exec_driver_sql(statement).scalar())
    dead = "SELECT count(*) FROM servers"
    living = await store._database.read(lambda conn: conn.exec_driver_sql(dead).scalar())
    return bool(count) or living != 2


async def test_an_observer_that_was_stopped_takes_nobody_for_dead(
    pair: tuple[Store, Store],
) -> None:
    one, two = pair
    now = [0.0]
    lookout = Lookout(clock=lambda: now[0])
    name = two._writer._journal.owner

    def look() -> None:
        two._database.read_now(lambda conn: lookout.look(conn, name, "any", takes=True))

    for _ in range(3):
        await asyncio.to_thread(look)
        now[0] += 3600
    assert lookout.num_peers == 1
    for _ in range(20):  # a database that stood still
        await asyncio.to_thread(look)
        now[0] += 1
        lookout.forget()
    await one.membership.look()


async def test_what_another_model_began_waits_for_that_model(
    address: str, pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.open(address, model="other") as other:
        await start(other, "r1")
    assert ids_of((await looked(pair[0])).recovery) == []
    async with await Store.open(address, model="other") as other:
        assert ids_of(await other.membership.recover()) == ["r1"]
    monkeypatch.setattr(servers, "UNSERVED_S", 0.0)
    taken = await asyncio.gather(*(_first_of(store) for store in pair))
    assert taken.count("r1") == 1


async def test_others_say_what_is_to_become_of_a_response(pair: tuple[Store, Store]) -> None:
    owner, other = pair
    await start(owner, "r1", "r2", "r3")
    await other.responses.cancel("r1", scope=SCOPE)
    await other.responses.follow(["r2"])
    await other.responses.delete("r3", scope=SCOPE)
    news = await looked(owner)
    asked = {one.id: (one.is_cancelled, one.num_follows) for one in news.asked}
    assert asked == {"r1": (True, 0), "r2": (False, 1)}
    assert news.removed == ["r3"]
    assert isinstance((await append(owner, tokens("r3", 0, 1)))["r3"], NotFound)
    with pytest.raises(NotFound):
        await other.responses.cancel("r1", scope="key-2")


async def test_a_response_is_followed_from_another_server(pair: tuple[Store, Store]) -> None:
    """Through steps, folds, another owner and its end: each token once."""
    owner, other = pair
    await start(owner, "r1", "r2")
    seen = []

    async def follow() -> Status:
        while True:
            grown = await other.responses.grown({"r1": len(seen), "gone": 0})
            assert grown.keys() == {"r1"}
            seen.extend(grown["r1"].tokens)
            if (ended := grown["r1"].ended) is not None:
                return ended.status

    following = asyncio.create_task(follow())
    for length in range(1, 60):
        await append(owner, tokens("r1", 0, length), tokens("r2", 0, length))
        if length % 20 == 10:
            await owner._writer.run(owner._writer._journal.fold_all)
    await owner.membership.rename(stays=False)
    owner, former = (await _new_owner(other)), owner
    assert isinstance((await append(former, tokens("r1", 0, 61)))["r1"], NotFound)
    for length in range(60, 90):
        await append(owner, tokens("r1", 0, length))
    await owner.responses.finish("r1", DONE)
    assert await following is Status.COMPLETED
    assert seen == tokens("r1", 0, 89)


async def _new_owner(store: Store) -> Store:
    assert sorted(await ids_taken(store, 2)) == ["r1", "r2"]
    return store


async def test_a_database_is_not_changed_under_an_older_server(address: str) -> None:
    newer = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "test", ("CREATE TABLE test (a TEXT)",)))
    async with await Store.open(address) as store, await Store.open(address, access="read") as new:
        with pytest.raises(StoreError, match="stop it"):
            new._database.read_now(lambda conn: upgrade(conn, newer))
        await run(store, "r1")


async def test_what_was_begun_and_not_confirmed_is_not_left_in_progress(
    pair: tuple[Store, Store],
) -> None:
    """Its caller was told that it failed; at another server its key would find it for ever."""
    owner, other = pair
    key = IdempotencyKey("key", b"digest")
    await owner.responses.create(a_response("r1", idempotency=key), scope=SCOPE)
    await start(owner, "r2")
    in_progress = dict(owner._writer.in_progress)
    del in_progress["r1"]
    owner._writer.in_progress = in_progress
    await looked(owner)
    created = await other.responses.create(a_response("r3", idempotency=key), scope=SCOPE)
    assert not created.existing
    assert await append(owner, tokens("r2", 0, 1)) == {}
