"""Several servers on one PostgreSQL: each response has one writer, whatever happens."""

import asyncio

import pytest

from llamastream.errors import ChatError, IdempotencyConflict
from llamastream.records import IdempotencyKey
from llamastream.store.store import Store
from tests.doubles.postgres import Postgres
from tests.store.conftest import DELETE_ROWS, DROP_TABLES, run_sql
from tests.store.doubles import SCOPE, a_response


@pytest.fixture
def address(postgres: Postgres) -> str:
    run_sql(postgres.url, DELETE_ROWS)
    return postgres.url


async def test_servers_that_start_together_on_an_empty_database_all_start(address: str) -> None:
    run_sql(address, DROP_TABLES)
    stores = await asyncio.gather(*(Store.open(address, owner=f"s{k}") for k in range(4)))
    for store in stores:
        await store.close()


async def test_one_key_at_two_servers_at_once_is_one_response(address: str) -> None:
    async with (
        await Store.open(address, owner="one") as one,
        await Store.open(address, owner="two") as two,
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
        await Store.open(address, owner="one") as one,
        await Store.open(address, owner="two") as two,
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
