import pytest
from sqlalchemy import insert, select

from llamastream.errors import NotFound
from llamastream.records import IdempotencyKey, PageQuery, Retention
from llamastream.store.retention import KEY_AGE_S, SWEEP_LIMIT
from llamastream.store.store import Store
from llamastream.store.tables import idempotency_keys, responses
from llamastream.store.transaction import Transaction
from tests.store.conftest import Clock
from tests.store.doubles import SCOPE, a_response, items, run, start


async def left(store: Store, *ids: str) -> list[str]:
    found = []
    for id in ids:
        try:
            await store.responses.get(id, scope=SCOPE)
            found.append(id)
        except NotFound:
            pass
    return found


async def sweep_all(store: Store, retention: Retention) -> tuple[int, int]:
    totals = (0, 0)
    while (swept := await store.sweep(retention)).more:
        totals = (totals[0] + swept.num_responses, totals[1] + swept.num_conversations)
    return totals


async def test_what_is_too_old_is_forgotten(store: Store, clock: Clock) -> None:
    await start(store, "running")
    await run(store, "old")
    await store.conversations.create("c-old", scope=SCOPE, metadata={}, items=items("a"))
    await store.conversations.create("c-used", scope=SCOPE, metadata={})
    clock.now += 100
    await run(store, "new")
    await store.conversations.add_items("c-used", items("b"), scope=SCOPE)
    assert await sweep_all(store, Retention(max_age_s=50)) == (1, 1)
    assert await left(store, "running", "old", "new") == ["running", "new"]
    await store.conversations.get("c-used", scope=SCOPE)
    with pytest.raises(NotFound):
        await store.conversations.get("c-old", scope=SCOPE)


async def test_what_is_too_many_is_forgotten_oldest_first(store: Store, clock: Clock) -> None:
    for k in range(5):
        clock.now += 1
        await run(store, f"r{k}")
        await store.conversations.create(f"c{k}", scope=SCOPE, metadata={})
    limits = Retention(max_responses=2, max_conversations=3)
    assert await sweep_all(store, limits) == (3, 2)
    assert await left(store, "r0", "r1", "r2", "r3", "r4") == ["r3", "r4"]
    page = await store.conversations.list(scope=SCOPE, query=PageQuery(order="asc"))
    assert [one.id for one in page.data] == ["c2", "c3", "c4"]


async def test_no_limit_forgets_nothing(store: Store, clock: Clock) -> None:
    await run(store, "r1")
    clock.now += 1e9
    assert await sweep_all(store, Retention()) == (0, 0)


async def test_start_of_a_chain_stays_as_long_as_its_end(store: Store, clock: Clock) -> None:
    await run(store, "r1", input_items=items("a"))
    await run(store, "r2", input_items=items("b"), previous_response_id="r1")
    clock.now += 100
    await run(store, "r3", input_items=items("c"), previous_response_id="r2")
    assert await sweep_all(store, Retention(max_age_s=50)) == (0, 0)
    assert await store.responses.history("r3", scope=SCOPE) == items("a", "b", "c")
    clock.now += 100
    assert await sweep_all(store, Retention(max_age_s=50)) == (3, 0)


async def test_conversation_in_use_stays(store: Store, clock: Clock) -> None:
    await store.conversations.create("c1", scope=SCOPE, metadata={})
    await start(store, "r1", conversation_id="c1")
    clock.now += 100
    assert await sweep_all(store, Retention(max_age_s=50)) == (0, 0)


async def test_one_sweep_is_bounded(store: Store, clock: Clock) -> None:
    number = SWEEP_LIMIT + 5
    for k in range(number):
        await store.conversations.create(f"c{k}", scope=SCOPE, metadata={})
    clock.now += 100
    assert (await store.sweep(Retention(max_age_s=50))).num_conversations == SWEEP_LIMIT
    assert (await store.sweep(Retention(max_age_s=50))).num_conversations == 5
    assert not (await store.sweep(Retention(max_age_s=50))).more


async def test_idempotency_keys_are_forgotten_after_a_day(store: Store, clock: Clock) -> None:
    key = IdempotencyKey("k", b"d")
    await start(store, "r1", idempotency=key)
    clock.now += KEY_AGE_S + 1
    assert (await store.sweep(Retention())).num_keys == 1
    created = await store.responses.create(a_response("r2", idempotency=key), scope=SCOPE)
    assert not created.existing


async def test_old_idempotency_keys_are_forgotten_a_bounded_number_at_a_time(
    store: Store, clock: Clock
) -> None:
    await start(store, "r1")
    number = SWEEP_LIMIT + 5
    common = {"scope": SCOPE, "digest": b"d", "created_at": clock.now}

    def fill(tx: Transaction) -> None:
        conn = tx.conn
        num = conn.execute(select(responses.c.num)).scalar_one()
        rows = [common | {"key": f"k{k}", "response_num": num} for k in range(number)]
        conn.execute(insert(idempotency_keys), rows)

    await store._writer.run(fill)
    clock.now += KEY_AGE_S + 1
    swept = await store.sweep(Retention())
    assert (swept.num_keys, swept.more) == (SWEEP_LIMIT, True)
    assert (await store.sweep(Retention())).num_keys == 5
    assert not (await store.sweep(Retention())).more
