"""GET /v1/search/conversations."""

import httpx

from llamastream.config import ServeSettings
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says


async def search(client: httpx.AsyncClient, query: str, **options: object) -> httpx.Response:
    params = {"query": query, **options}
    return await client.get("/v1/search/conversations", params=params)  # type: ignore[arg-type]


async def test_answers_are_found_by_the_key_that_has_them(connect_stored: Connect) -> None:
    settings = ServeSettings(api_key="alice,bob")
    client = await connect_stored(FakeEngine(says("The needle.")), settings)
    client.headers["Authorization"] = "Bearer alice"
    made = await client.post("/v1/conversations", json={"metadata": {"title": "Hay"}})
    body = {"model": "demo", "input": "Where?", "conversation": made.json()["id"]}
    await client.post("/v1/responses", json=body)
    (found,) = (await search(client, "needle")).json()["data"]
    assert found["conversation"]["metadata"] == {"title": "Hay"}
    assert found["item"]["content"][0]["text"] == "The needle."
    (titled,) = (await search(client, "hay")).json()["data"]
    assert titled["item"] is None
    client.headers["Authorization"] = "Bearer bob"
    assert (await search(client, "needle")).json()["data"] == []


async def test_a_bad_search_is_told(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("x")))
    for query, options, param in (("", {}, "query"), ("x", {"limit": 0}, "limit")):
        refused = await search(client, query, **options)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == param
