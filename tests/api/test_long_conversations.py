"""Conversations are bounded, and what of them is not shown or of no use is not read."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, update

from llamastream.generation import StoredAnswers
from llamastream.store.store import Store
from llamastream.store.tables import items
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says

MIB = 2**20


@pytest.fixture
def stored(tmp_path: Path) -> StoredAnswers:
    return make_responses(make_service(FakeEngine(says("abc"), max_model_len=500)), tmp_path)


@pytest.fixture
async def client(stored: StoredAnswers) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_server(stored.answers, None, stored) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        yield client


async def conversation(client: httpx.AsyncClient, *texts: str) -> str:
    id = str((await client.post("/v1/conversations", json={})).json()["id"])
    for text in texts:
        assert (await add(client, id, text)).status_code == 200
    return id


async def add(client: httpx.AsyncClient, id: str, text: str) -> httpx.Response:
    item = {"type": "message", "role": "user", "content": text}
    return await client.post(f"/v1/conversations/{id}/items", json={"items": [item]})


async def respond(client: httpx.AsyncClient, id: str, **fields: Any) -> httpx.Response:
    body = {"model": "demo", "input": "x", "conversation": id} | fields
    return await client.post("/v1/responses", json=body)


async def damage_oldest(stored: StoredAnswers, num: int) -> None:
    """Who reads them would find out."""
    store: Store = stored._store
    oldest = update(items).where(items.c.position < num).values(body=func.upper(items.c.body))
    await store._writer.run(lambda tx: tx.conn.execute(oldest))


async def test_conversation_has_a_limit_that_its_refusal_names(client: httpx.AsyncClient) -> None:
    id = await conversation(client, *["a" * (4 * MIB - 700)] * 4)
    refused = await add(client, id, "a" * 2000)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "invalid_request")
    for words in (str(16 * MIB), "--max-conversation-mib", "a new conversation", "Delete items"):
        assert words in error["message"]
    while (await add(client, id, "b")).status_code == 200:
        pass  # until there is no room for the shortest
    refused = await respond(client, id, truncation="auto")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "conversation")


async def test_page_ends_before_it_is_too_large(client: httpx.AsyncClient) -> None:
    id = await conversation(client, *["a" * 3 * MIB] * 3)
    path, seen = f"/v1/conversations/{id}/items?limit=100&order=asc", []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = f"&after={page['last_id']}" if page["last_id"] else ""
        page = json.loads((await client.get(path + after)).content)
        seen.append(len(page["data"]))
    assert seen == [2, 1]


async def test_page_reads_only_what_it_shows(
    client: httpx.AsyncClient, stored: StoredAnswers
) -> None:
    id = await conversation(client, *map(str, range(6)))
    await damage_oldest(stored, 3)
    page = (await client.get(f"/v1/conversations/{id}/items?limit=3")).json()
    assert ([len(page["data"]), page["has_more"]]) == [3, True]


async def test_history_that_cannot_fit_is_refused_unread(
    client: httpx.AsyncClient, stored: StoredAnswers
) -> None:
    id = await conversation(client, *["a" * 100_000] * 3)
    await damage_oldest(stored, 3)
    refused = await respond(client, id)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 500 tokens" in error["message"]


async def test_history_that_cannot_fit_is_read_from_the_newest_back(
    client: httpx.AsyncClient, stored: StoredAnswers
) -> None:
    id = await conversation(client, *["a" * 100_000] * 3, "the newest")
    await damage_oldest(stored, 3)
    answer = await respond(client, id, truncation="auto")
    assert answer.status_code == 200, answer.text
    engine = stored.answers.dispatcher.engine
    assert isinstance(engine, FakeEngine)
    prompt = bytes(i for i in engine.submitted[-1].prompt_ids if i < 256)
    assert b"the newest" in prompt and b"aaa" not in prompt


async def test_chain_that_cannot_fit_is_read_from_the_newest_back(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post(
        "/v1/responses", json={"model": "demo", "input": "a" * 400, "max_output_tokens": 1}
    )
    previous = first.json()["id"]
    for _ in range(30):
        body = {"input": "a" * 400, "max_output_tokens": 1, "truncation": "auto", "model": "demo"}
        answer = await client.post("/v1/responses", json=body | {"previous_response_id": previous})
        assert answer.status_code == 200, answer.text
        previous = answer.json()["id"]
