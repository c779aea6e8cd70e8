"""An Idempotency-Key works, or is refused by name: it is never passed over."""

import re
from typing import Any

import httpx
import pytest

from tests.api.conftest import Connect
from tests.api.sse import chat_body
from tests.api.test_responses_socket import hear, open_socket, say
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

KEY = {"Idempotency-Key": "once"}
MESSAGE = {"role": "user", "content": "hi"}
ITEM = {"type": "message", **MESSAGE}


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["param"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat_body()),
        ("/v1/completions", {"model": "demo", "prompt": "hi"}),
        ("/v1/responses", {"model": "demo", "input": "hi", "store": False}),
        ("/v1/conversations", {}),
        ("/stream", {"prompt": "hi", "max_tokens": 3}),
    ],
)
async def test_nothing_is_kept_to_find_again(
    connect_stored: Connect, path: str, body: dict[str, Any]
) -> None:
    engine = FakeEngine(says("hi"))
    client = await connect_stored(engine)
    check_refused(await client.post(path, json=body, headers=KEY))
    assert engine.submitted == []


async def test_items_of_a_conversation(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("hi")))
    path = "/v1/conversations/" + (await client.post("/v1/conversations", json={})).json()["id"]
    check_refused(await client.post(f"{path}/items", json={"items": [ITEM]}, headers=KEY))
    assert (await client.get(f"{path}/items")).json()["data"] == []


async def test_a_stream_without_a_store(connect: Connect) -> None:
    client = await connect(FakeEngine(says("hi")))
    check_refused(await client.get("/stream?prompt=hi&max_tokens=3", headers=KEY))


async def test_a_reader_may_keep_its_key_when_it_comes_again(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("hi")))
    begin = {"prompt": "hi", "max_tokens": 3, "store": True}
    first = await client.post("/stream", json=begin, headers=KEY)
    again = {"stream_id": re.findall(r'"stream_id":"(\w+)"', first.text)[0]}
    assert (await client.post("/stream", json=again, headers=KEY)).text == first.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"idempotency_key": "once", "store": False}, "Idempotency-Key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"stream_id": 5}, "stream_id"),
        ({"stream": "yes"}, "stream"),
        ({"stream": False}, "stream"),
    ],
)
async def test_what_a_socket_cannot_use(
    connect_stored: Connect, fields: dict[str, Any], param: str
) -> None:
    engine = FakeEngine(says("hi"))
    async with open_socket(await connect_stored(engine)) as socket:
        await say(socket, "response.create", model="demo", input="hi", **fields)
        (error,) = await hear(socket)
    assert error["error"]["param"] == param
    assert engine.submitted == []


async def test_a_socket_finds_the_first_response_again(connect_stored: Connect) -> None:
    async with open_socket(await connect_stored(FakeEngine(says("hi")))) as socket:
        found = []
        for _ in range(2):
            await say(socket, "response.create", model="demo", input="hi", idempotency_key="once")
            found.append(await hear(socket))
    assert found[0] == found[1]


async def test_what_asks_for_nothing_makes_no_other_request(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("hi")))
    found = []
    for more in ({}, {"temperature": None, "tools": [], "text": {"format": None}}):
        body = {"model": "demo", "input": "hi", **more}
        found.append((await client.post("/v1/responses", json=body, headers=KEY)).json())
    assert found[0] == found[1]
    body = {"model": "demo", "input": "hi", "temperature": 0}
    check_refused(await client.post("/v1/responses", json=body, headers=KEY))
