"""Both wires on the real ChatService and a scripted engine: nothing is left behind."""

import asyncio
import json

import grpc
import httpx
import pytest

from llamastream.server.jina import wire
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import Readiness, grpc_port, http_port
from tests.doubles.service import running_service, says
from tests.doubles.waiting import until

STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"


def call_bytes(**fields: str | int) -> bytes:
    call = wire.SingleDocumentRequest()
    wire.set_fields(call.document, fields)
    return bytes(call.SerializeToString())


PROMPT = call_bytes(prompt="Hi", max_tokens=100)


async def read_text(channel: grpc.aio.Channel, data: bytes = PROMPT) -> str:
    parse = wire.SingleDocumentRequest.FromString
    call = channel.unary_stream(STREAM_DOC, response_deserializer=parse)(data)
    return "".join([r.document.data["generated_text"].text async for r in call])


async def test_emoji_over_several_tokens_is_one_document(ready: Readiness) -> None:
    engine = FakeEngine(says("a🙂é"))  # one token per byte
    async with running_service(engine) as service, grpc_port(service, ready) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            parse = wire.SingleDocumentRequest.FromString
            call = channel.unary_stream(STREAM_DOC, response_deserializer=parse)(PROMPT)
            texts = [r.document.data["generated_text"].text async for r in call]
            trailing = dict(await call.trailing_metadata())
    assert texts == ["a", "🙂", "é"]
    assert trailing["finish-reason"] == "stop"
    assert trailing["num-output-tokens"] == "8"  # seven bytes and the end of the turn


async def test_stop_string_is_not_shown(ready: Readiness) -> None:
    engine = FakeEngine(says("one two three"))
    async with running_service(engine) as service, http_port(service, ready) as port:
        document = {"prompt": "Hi", "max_tokens": 100, "stop": [" three"]}
        async with httpx.AsyncClient() as client:
            response = await client.post(f"http://127.0.0.1:{port}/stream", json=document)
    events = [line[6:] for line in response.text.split("\r\n") if line.startswith("data: ")]
    assert "".join(json.loads(event)["generated_text"] for event in events) == "one two"


async def test_a_full_queue_is_refused_and_the_others_go_on(ready: Readiness) -> None:
    engine = FakeEngine(says("ok"), manual=True, max_num_seqs=1, max_num_waiting=1)
    async with running_service(engine) as service, grpc_port(service, ready) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            admitted = [asyncio.create_task(read_text(channel)) for _ in range(2)]
            await until(lambda: engine.num_alive == 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_text(channel)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(caught.value.trailing_metadata())["retry-after"] == "7"
            engine.allow(100)
            assert await asyncio.gather(*admitted) == ["ok", "ok"]


async def test_calls_that_are_cancelled_leave_nothing_in_the_engine(ready: Readiness) -> None:
    engine = FakeEngine(says("ok"), manual=True, max_num_seqs=64)
    async with running_service(engine) as service, grpc_port(service, ready) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [asyncio.create_task(read_text(channel)) for _ in range(40)]
            await until(lambda: engine.num_alive == 40)
            for call in calls[::2]:
                call.cancel()
            await until(lambda: engine.num_alive == 20)  # without one more step
            engine.allow(100)
            assert await asyncio.gather(*calls[1::2]) == ["ok"] * 20
            assert engine.num_alive == 0
    assert service.num_open == 0


async def test_readers_that_leave_http_leave_nothing_in_the_engine(ready: Readiness) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    async with running_service(engine) as service, http_port(service, ready) as port:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}/stream"
            document = {"prompt": "Hi", "max_tokens": 100}
            async with client.stream("GET", url, json=document) as response:
                assert response.status_code == 200
                assert engine.num_alive == 1
        await until(lambda: engine.num_alive == 0)
