"""Conversations that branch, over HTTP: what a response goes on from is part of its request."""

from typing import Any

import httpx

from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words


async def ask(client: httpx.AsyncClient, conversation: Any, text: str | None) -> dict[str, Any]:
    body = {"model": "demo", "conversation": conversation} | ({"input": text} if text else {})
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def prompts(engine: FakeEngine) -> list[str]:
    return [bytes(i for i in r.prompt_ids if i < 256).decode() for r in engine.submitted]


async def items_of(client: httpx.AsyncClient, id: str) -> list[dict[str, Any]]:
    listed = await client.get(f"/v1/conversations/{id}/items", params={"order": "asc"})
    return list(listed.json()["data"])


async def test_a_response_goes_on_from_any_item(connect_stored: Connect) -> None:
    engine = FakeEngine(last_user_words)
    client = await connect_stored(engine)
    id = (await client.post("/v1/conversations", json={})).json()["id"]
    await ask(client, id, "one")
    first = await items_of(client, id)
    await ask(client, id, "two")
    again = await ask(client, {"id": id, "after": first[0]["id"]}, None)
    assert again["conversation"] == {"id": id, "after": first[0]["id"]}
    other = await ask(client, {"id": id, "after": "root"}, "uno")
    await ask(client, {"id": id, "after": again["output"][0]["id"]}, "three")
    last = prompts(engine)
    assert "one" in last[2] and "two" not in last[2]
    assert "one" not in last[3]
    assert "one" in last[4] and "two" not in last[4] and "uno" not in last[4]
    listed = await items_of(client, id)
    assert [item.get("after") for item in listed] == [
        *(None, None, None, None),
        first[0]["id"],
        *("root", None),
        *(again["output"][0]["id"], None),
    ]
    await ask(client, {"id": id, "after": None}, "four")  # behind the newest
    assert "three" in prompts(engine)[-1]
    shown = await client.get(f"/v1/responses/{other['id']}")
    assert shown.json()["conversation"] == {"id": id, "after": "root"}


async def test_items_are_added_behind_any_other(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(last_user_words))
    id = (await client.post("/v1/conversations", json={})).json()["id"]
    new = {"items": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    await client.post(f"/v1/conversations/{id}/items", json=new)
    first = (await items_of(client, id))[0]["id"]
    added = await client.post(f"/v1/conversations/{id}/items", json=new | {"after": first})
    assert [item.get("after") for item in added.json()["data"]] == [first, None]
    refused = await client.post(f"/v1/conversations/{id}/items", json=new | {"after": "msg_x"})
    assert refused.status_code == 404
    assert refused.json()["error"]["param"] == "after"


async def test_an_item_that_is_not_there_is_named(connect_stored: Connect) -> None:
    engine = FakeEngine(last_user_words)
    client = await connect_stored(engine)
    id = (await client.post("/v1/conversations", json={})).json()["id"]
    body = {"model": "demo", "input": "a", "conversation": {"id": id, "after": "msg_x"}}
    refused = await client.post("/v1/responses", json=body)
    assert refused.status_code == 404
    assert refused.json()["error"]["param"] == "conversation.after"
    assert engine.submitted == []
