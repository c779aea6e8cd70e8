"""Both wires on the real Answers and a scripted engine: nothing is left behind."""

import asyncio
import json

import grpc
import httpx

from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import grpc_port, http_port
from tests.doubles.service import running_service, says
from tests.doubles.waiting import until
from tests.jina_wire.test_grpc_server import call_bytes, connect, failure, stream_doc, texts

PROMPT = call_bytes(prompt="Hi", max_tokens=100)


async def test_emoji_over_several_tokens_is_one_document() -> None:
    engine = FakeEngine(says("a🙂é"))  # one token per byte
    async with running_service(engine) as service, grpc_port(service) as port:
        async with connect(port) as channel:
            call = stream_doc(channel, PROMPT)
            assert await texts(call) == ["a", "🙂", "é"]
            trailing = dict(await call.trailing_metadata())
    assert trailing["finish-reason"] == "stop"
    assert trailing["num-output-tokens"] == "8"  # seven bytes and the end of the turn


async def test_stop_string_is_not_shown() -> None:
    engine = FakeEngine(says("one two three"))
    async with running_service(engine) as service, http_port(service) as port:
        document = {"prompt": "Hi", "max_tokens": 100, "stop": [" three"]}
        async with httpx.AsyncClient() as client:
            response = await client.post(f"http://127.0.0.1:{port}/stream", json=document)
    events = [line[6:] for line in response.text.split("\r\n") if line.startswith("data: ")]
    assert "".join(json.loads(event)["generated_text"] for event in events) == "one two"


async def test_calls_come_in_pieces_beside_the_text() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {"a": [1]}}\n</tool_call>'
    engine = FakeEngine(says(f"I look.\n{call}\n{call}"))
    schema = {"type": "object", "properties": {"a": {"type": "array"}}}
    function = {"name": "now", "parameters": schema}
    asked = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 200,
        "tools": json.dumps([{"type": "function", "function": function}]),
    }
    async with running_service(engine) as service, http_port(service) as port:
        async with httpx.AsyncClient() as client:
            response = await client.post(f"http://127.0.0.1:{port}/stream", json=asked)
    events = [line[6:] for line in response.text.split("\r\n") if line.startswith("data: ")]
    documents = list(map(json.loads, events))
    assert "".join(document["generated_text"] for document in documents) == "I look."
    calls: dict[str, list[str]] = {}
    for document in documents:
        for piece in json.loads(document.get("tool_calls", "[]")):
            calls.setdefault(piece["id"], [piece["name"], ""])[1] += piece["arguments"]
    assert list(calls.values()) == [["now", '{"a": [1]}']] * 2


async def test_a_full_queue_is_refused_and_the_others_go_on() -> None:
    engine = FakeEngine(says("ok"), manual=True, max_num_seqs=1, max_num_waiting=1)
    async with running_service(engine) as service, grpc_port(service) as port:
        async with connect(port) as channel:
            admitted = [asyncio.create_task(texts(stream_doc(channel, PROMPT))) for _ in range(2)]
            await until(lambda: engine.num_alive == 2)
            refusal = await failure(stream_doc(channel, PROMPT))
            assert refusal.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(refusal.trailing_metadata())["retry-after"] == "7"
            engine.allow(100)
            assert await asyncio.gather(*admitted) == [["o", "k"], ["o", "k"]]


async def test_calls_that_are_cancelled_leave_nothing_in_the_engine() -> None:
    engine = FakeEngine(says("ok"), manual=True, max_num_seqs=64)
    async with running_service(engine) as service, grpc_port(service) as port:
        async with connect(port) as channel:
            calls = [asyncio.create_task(texts(stream_doc(channel, PROMPT))) for _ in range(40)]
            await until(lambda: engine.num_alive == 40)
            for call in calls[::2]:
                call.cancel()
            await until(lambda: engine.num_alive == 20)  # without one more step
            engine.allow(100)
            assert await asyncio.gather(*calls[1::2]) == [["o", "k"]] * 20
            assert engine.num_alive == 0
    assert service.num_open == 0


async def test_readers_that_leave_http_leave_nothing_in_the_engine() -> None:
    engine = FakeEngine(says("ok"), manual=True)
    async with running_service(engine) as service, http_port(service) as port:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}/stream"
            document = {"prompt": "Hi", "max_tokens": 100}
            async with client.stream("GET", url, json=document) as response:
                assert response.status_code == 200
                assert engine.num_alive == 1
        await until(lambda: engine.num_alive == 0)
