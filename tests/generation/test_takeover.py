"""Answers that pass from one server to another, on one PostgreSQL, while somebody reads them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import llamastream.store.servers as servers
from llamastream.errors import NotFound, ResponseInterrupted, StoreUnavailable
from llamastream.generation import Generation, NewAnswer, StoredAnswers, StorePolicy
from llamastream.records import IdempotencyKey, Status
from llamastream.store.store import Store
from llamastream.types import ChatRequest, Delta, FinishReason, Message
from tests.doubles.engine import FakeEngine
from tests.doubles.postgres import Postgres, find_postgres
from tests.doubles.service import running_service, says
from tests.doubles.waiting import LIMIT_S, until

HI = (Message("user", "hi"),)
TEXT = "One two three, é 😀 and so on."


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if find_postgres() is None:
        pytest.skip("no PostgreSQL server on this machine (initdb not found)")
    with Postgres.running() as server:
        yield server


@asynccontextmanager
async def server(
    postgres: Postgres, engine: FakeEngine, policy: StorePolicy | None = None
) -> AsyncIterator[StoredAnswers]:
    async with running_service(engine) as answers:
        stored = StoredAnswers(
            answers, lambda: Store.open(postgres.url, model="m"), policy or StorePolicy()
        )
        await stored.start()
        try:
            yield stored
        finally:
            await answers.stop()
            await stored.stop()


async def begin(stored: StoredAnswers, id: str, **fields: Any) -> Generation:
    new = NewAnswer(id, {"model": "demo"}, store=True, **{"background": True, **fields})
    return await stored.create(ChatRequest(HI), new)


async def read(generation: Generation) -> list[Delta]:
    with generation.follow() as reader:
        return [delta async for delta in reader]


async def reading_four(generation: Generation, engine: FakeEngine) -> asyncio.Task[list[Delta]]:
    """A reader of an answer of which four tokens are there by now."""
    reader = asyncio.create_task(read(generation))
    engine.allow(4)
    await until(lambda: generation.num_public == 4)
    return reader


def text_of(deltas: list[Delta]) -> str:
    assert [delta.sequence_number for delta in deltas] == list(range(len(deltas)))
    return "".join(delta.text for delta in deltas)


async def see_each_other(*stored: StoredAnswers) -> None:
    await until(lambda: all(one._store.membership.has_peers for one in stored))


async def test_a_reader_at_another_server_sees_the_same(postgres: Postgres) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with server(postgres, engine) as owner, server(postgres, FakeEngine(says("-"))) as other:
        own = await begin(owner, "seen")
        engine.allow(3)
        await until(lambda: own.num_public == 3)
        far = [await other.find("seen", scope="") for _ in range(2)]
        readers = [asyncio.create_task(read(one)) for one in (own, *far)]
        await until(lambda: far[0].num_public == 3)
        engine.allow(100)
        seen = await asyncio.gather(*readers)
        assert seen[0] == seen[1] == seen[2]
        assert text_of(seen[0]) == TEXT
        assert far[0].end is not None and far[0].end.status is Status.COMPLETED
        again = await other.find("seen", scope="")
        assert await read(again) == seen[0]


async def test_cancel_and_delete_work_from_another_server(postgres: Postgres) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with server(postgres, engine) as owner, server(postgres, FakeEngine(says("-"))) as other:
        own = await begin(owner, "cancelled")
        engine.allow(2)
        await until(lambda: own.num_public == 2)
        ending = asyncio.create_task(other.cancel("cancelled", scope=""))
        await until(lambda: engine.cancelled)
        engine.allow(1)
        generation = await ending
        assert generation.end is not None and generation.end.status is Status.CANCELLED
        assert (await read(generation))[-1].finish_reason is FinishReason.CANCELLED
        own = await begin(owner, "deleted")
        far = await other.find("deleted", scope="")
        reader = asyncio.create_task(read(far))
        await until(lambda: far.num_readers)
        await other.delete("deleted", scope="")
        with pytest.raises(NotFound):
            await reader
        await until(lambda: owner.num_live == 0)
        assert isinstance(own.error, NotFound)


async def test_readers_elsewhere_keep_an_answer_from_being_deserted(postgres: Postgres) -> None:
    engine, policy = FakeEngine(says(TEXT), manual=True), StorePolicy(grace_s=2.0)
    async with (
        server(postgres, engine, policy) as owner,
        server(postgres, FakeEngine(says("-")), policy) as other,
    ):
        await begin(owner, "followed", background=False)
        await begin(owner, "deserted", background=False)
        reader = asyncio.create_task(read(await other.find("followed", scope="")))
        await until(lambda: "deserted" in engine.cancelled)
        await until(lambda: owner.num_live == 1)
        engine.allow(100)
        assert text_of(await reader) == TEXT


async def test_one_key_at_two_servers_is_one_answer(postgres: Postgres) -> None:
    engines = [FakeEngine(says(TEXT)) for _ in range(2)]
    async with server(postgres, engines[0]) as one, server(postgres, engines[1]) as two:
        key = IdempotencyKey("key", b"digest")
        both = await asyncio.gather(
            begin(one, "first", idempotency=key), begin(two, "second", idempotency=key)
        )
        assert both[0].id == both[1].id
        texts = await asyncio.gather(*map(read, both))
        assert text_of(texts[0]) == text_of(texts[1]) == TEXT


async def test_a_server_that_stops_hands_over_and_its_readers_stay(postgres: Postgres) -> None:
    engines = [FakeEngine(says(TEXT), manual=True) for _ in range(2)]
    async with server(postgres, engines[0]) as leaver, server(postgres, engines[1]) as other:
        await see_each_other(leaver, other)
        generation = await begin(leaver, "handed-over")
        reader = await reading_four(generation, engines[0])
        leaver.answers.drain()
        await leaver.hand_over()
        await until(lambda: engines[1].submitted)
        assert engines[1].submitted[0].output_ids == tuple(TEXT.encode()[:4])
        engines[1].allow(100)
        assert text_of(await reader) == TEXT
        assert generation.error is None


async def test_who_still_reads_at_a_server_that_ends_is_told_to_come_again(
    postgres: Postgres,
) -> None:
    engines = [FakeEngine(says(TEXT), manual=True) for _ in range(2)]
    async with server(postgres, engines[0]) as leaver, server(postgres, engines[1]) as other:
        await see_each_other(leaver, other)
        reader = await reading_four(await begin(leaver, "interrupted"), engines[0])
        await leaver.hand_over()
        await until(lambda: engines[1].submitted)
        await leaver.answers.stop()
        with pytest.raises(ResponseInterrupted):
            await reader
        with pytest.raises(ResponseInterrupted):  # and so is who comes as it ends
            await read(await leaver.find("interrupted", scope=""))
        engines[1].allow(100)
        assert text_of(await read(await other.find("interrupted", scope=""))) == TEXT


async def test_one_taken_for_dead_follows_its_answers_and_is_back_under_a_new_name(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [FakeEngine(says(TEXT), manual=True) for _ in range(2)]
    async with server(postgres, engines[0]) as dead, server(postgres, engines[1]) as other:
        await see_each_other(dead, other)
        generation = await begin(dead, "taken")
        reader = await reading_four(generation, engines[0])
        name = dead._store._writer._journal.owner
        other._store._database.read_now(lambda conn: servers.unregister(conn, name))
        engines[0].allow(2)  # which the store refuses
        await until(lambda: dead._store._writer._journal.owner != name)
        await until(
            lambda: generation.keeper is not dead._durability or len(engines[0].submitted) > 1
        )
        for engine in engines:
            engine.allow(100)
        async with asyncio.timeout(LIMIT_S):
            assert text_of(await reader) == TEXT
        await until(lambda: not dead.is_fenced)
        engines[0].allow(100)
        assert text_of(await read(await begin(dead, "next"))) == TEXT


async def test_what_cannot_be_read_any_more_is_told(postgres: Postgres) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with server(postgres, engine) as owner, server(postgres, FakeEngine(says("-"))) as other:
        await begin(owner, "cut-off")
        far = await other.find("cut-off", scope="")
        reader = asyncio.create_task(read(far))
        await until(lambda: far.num_readers)

        async def fail(*_: object) -> None:
            raise StoreUnavailable("The database failed.")

        other._store.responses.grown = fail  # type: ignore[assignment,method-assign]
        with pytest.raises(StoreUnavailable):
            await reader
        assert (await other.find("cut-off", scope="")) is not far
