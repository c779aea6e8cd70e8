import asyncio
from pathlib import Path

import pytest

from llamastream.errors import StoreError
from llamastream.records import PageQuery, Recovery, Status
from llamastream.sampling import SamplingParams
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from tests.store.doubles import DONE, SCOPE, append, looked, start, tokens


async def crash(store: Store) -> None:
    """Leave the database as a killed process does."""
    await store._writer.close()
    await asyncio.to_thread(store._database.close)


async def restarted(url: str) -> tuple[Store, Recovery]:
    store = await Store.open(url)
    return store, await store.membership.recover()


async def test_interrupted_response_comes_with_all_that_goes_on_needs(url: str) -> None:
    sampling = SamplingParams(
        max_tokens=9,
        temperature=0.1,
        seed=2**64 - 1,
        logit_bias=((3, 0.1), (4, -2.0)),
        logprobs=2,
        stop_token_ids=frozenset({7, 2}),
    )
    store = await Store.open(url)
    await start(store, "r1", sampling=sampling, prompt_ids=(5, 4_000_000_000))
    await start(store, "done", "r2")
    await append(store, tokens("r1", 0, 3), tokens("done", 0, 1))
    await store.responses.finish("done", DONE)
    response = await store.responses.get("r1", scope=SCOPE)
    await crash(store)
    store, recovery = await restarted(url)
    first, second = recovery.interrupted
    assert first.response == response
    assert first.prompt_ids == (5, 4_000_000_000)
    assert first.sampling == sampling
    assert first.output_ids == tuple(token.token_id for token in tokens("r1", 0, 3))
    assert (second.response.id, second.output_ids) == ("r2", ())
    assert await append(store, tokens("r1", 0, 4), tokens("r2", 0, 1)) == {}
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 4)
    await store.close()


async def test_response_is_failed_after_three_servers_without_progress(url: str) -> None:
    store = await Store.open(url)
    await start(store, "poison", "healthy")
    for restart in (1, 2):
        await crash(store)
        store, recovery = await restarted(url)
        assert {one.response.id for one in recovery.interrupted} == {"poison", "healthy"}
        await append(store, tokens("healthy", 0, restart))
    await crash(store)
    store, recovery = await restarted(url)
    assert recovery.failed == ("poison",)
    assert [one.response.id for one in recovery.interrupted] == ["healthy"]
    response = await store.responses.get("poison", scope=SCOPE)
    assert response.status is Status.FAILED
    assert response.error is not None and "3 times" in response.error
    await store.close()


async def test_clean_stop_does_not_count_as_a_restart(url: str) -> None:
    store = await Store.open(url)
    await start(store, "r1")
    for _ in range(5):
        await store.close()
        store, recovery = await restarted(url)
        assert [one.response.id for one in recovery.interrupted] == ["r1"]
    await store.close()


async def test_what_brought_no_server_any_further_goes_on_alone(url: str) -> None:
    """Where one of them ends servers, the others are not failed for it."""
    store = await Store.open(url)
    await start(store, "poison", "innocent")
    for expected in (["poison", "innocent"], ["poison"], ["innocent"]):
        await crash(store)
        store, recovery = await restarted(url)
        assert [one.response.id for one in recovery.interrupted] == expected
        assert (await looked(store)).recovery.interrupted == ()
    assert recovery.failed == ("poison",)
    await append(store, tokens("innocent", 0, 1))
    await store.close()


async def test_second_server_on_a_file_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    async with await Store.open(url):
        with pytest.raises(StoreError, match="Another server generates on this database"):
            await Store.open(url)
        async with await Store.open(url, access="read") as reader:
            assert (await reader.conversations.list(scope="", query=PageQuery())).data == ()
    async with await Store.open(url):
        pass
