"""Of a caller without a key no more than 64 KiB is looked at, on either wire, and nothing kept."""

import asyncio
import gc
import tracemalloc
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from llamastream.jina.keys import KEYLESS_BYTES
from llamastream.jina.receiving import NUM_STRANGERS
from llamastream.jina.small_calls import MAX_WATCHERS
from tests.api.raw import RawClient
from tests.doubles.jina_servers import KEY, MAX_BODY_BYTES, Start, grpc_port
from tests.doubles.scripted_answers import ScriptedAnswers
from tests.doubles.waiting import LIMIT_S, until
from tests.jina_wire.test_grpc_server import (
    STREAM_DOC,
    call_bytes,
    connect,
    failure,
    stream_doc,
    texts,
)
from tests.jina_wire.test_http_routes import PROMPT, ask

BEARER = (("authorization", f"Bearer {KEY}"),)
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
LONG = "a" * (KEYLESS_BYTES + 1)


def silent_call(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> Any:
    """A call that is begun, and sends nothing."""
    return channel.stream_stream(STREAM_DOC)(metadata=metadata)


async def test_a_wrong_key_is_refused_before_anything_is_received(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a"), KEY)
    async with connect(port) as channel:
        call = silent_call(channel, ("authorization", "Bearer no"))
        assert await call.code() == UNAUTHENTICATED


async def test_a_long_message_needs_its_key_in_metadata(start_grpc: Start) -> None:
    service = ScriptedAnswers("a")
    port = await start_grpc(service, KEY)
    message = call_bytes(prompt=LONG, max_tokens=5, api_key=KEY)
    async with connect(port) as channel:
        error = await failure(stream_doc(channel, message))
        assert (error.code(), len(service.requests)) == (UNAUTHENTICATED, 0)
        assert "metadata" in str(error.details())
        assert str(KEYLESS_BYTES) in str(error.details())
        assert await texts(stream_doc(channel, message, metadata=BEARER)) == ["a"]


async def test_callers_that_send_nothing_keep_nobody_out(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a"), KEY)
    async with connect(port) as channel:
        calls = [silent_call(channel) for _ in range(NUM_STRANGERS + 3)]
        ends = [asyncio.create_task(call.code()) for call in calls]
        await until(lambda: sum(end.done() for end in ends) == 3)
        assert {end.result() for end in ends if end.done()} == {UNAUTHENTICATED}
        keyed = call_bytes(prompt="a", max_tokens=5, api_key=KEY)
        assert await texts(stream_doc(channel, keyed)) == ["a"]
        for call in calls:
            call.cancel()
        await asyncio.gather(*ends)


async def test_a_message_over_the_limit_is_refused_by_its_length(start_grpc: Start) -> None:
    service = ScriptedAnswers("a")
    port = await start_grpc(service, KEY)
    message = call_bytes(prompt="a" * MAX_BODY_BYTES, max_tokens=5)
    async with connect(port) as channel:
        error = await failure(stream_doc(channel, message, metadata=BEARER))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_BODY_BYTES) in str(error.details())


async def test_other_calls_show_a_stranger_nothing_but_health(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a"), KEY)
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    ask_list = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    async with connect(port) as channel:
        call = channel.stream_stream(method)()
        assert await call.code() == UNAUTHENTICATED
        call = channel.stream_stream(method)(metadata=BEARER)
        await call.write(ask_list)
        assert await call.read() is not grpc.aio.EOF
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = health_pb2.HealthCheckResponse.FromString(await check(b""))
        assert answer.status == answer.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(b"\x0a" + b"\xff" * KEYLESS_BYTES)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_watchers_of_the_health_are_bounded(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a"), KEY)
    async with connect(port) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")

        async def is_let_in() -> bool:
            try:
                return await watch(b"").read() is not grpc.aio.EOF
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                return False

        watching = []
        for _ in range(MAX_WATCHERS):  # one after the other: strangers' messages give way
            watching.append(watch(b""))
            await watching[-1].read()
        assert not await is_let_in()
        watching[0].cancel()
        async with asyncio.timeout(LIMIT_S):  # until the server has heard of it
            while not await is_let_in():
                pass


async def test_a_long_body_needs_its_key_in_a_header(start_http: Start) -> None:
    service = ScriptedAnswers("a")
    port = await start_http(service, KEY)
    document = PROMPT | {"prompt": LONG, "api_key": KEY}
    refused = await ask(port, "POST", json=document)
    assert (refused.status_code, len(service.requests)) == (401, 0)
    assert str(KEYLESS_BYTES) in refused.json()["error"]["message"]
    headers = {"authorization": f"Bearer {KEY}"}
    assert (await ask(port, "POST", json=document, headers=headers)).status_code == 200


@pytest.mark.parametrize("declared", [KEYLESS_BYTES + 1, 2**40, 10**30])
async def test_a_long_body_is_refused_before_it_is_sent(start_http: Start, declared: int) -> None:
    port = await start_http(ScriptedAnswers("a"), KEY)
    head = f"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {declared}\r\n\r\n"
    async with RawClient(f"http://127.0.0.1:{port}") as raw:
        raw.send(head.encode())
        assert b" 40" in (await raw.read_until(b"\r\n"))


async def test_what_was_refused_is_not_kept(start_grpc: Start) -> None:
    """An exception holds its frames, and they held the message, until the collector came by."""
    port = await start_grpc(ScriptedAnswers("a"), KEY)
    message = call_bytes(prompt="a" * 2**20, max_tokens="none")
    async with connect(port) as channel:
        await failure(stream_doc(channel, message, metadata=BEARER))
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(10):
                error = await failure(stream_doc(channel, message, metadata=BEARER))
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            await asyncio.sleep(0)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 2 * 2**20


async def test_connections_are_bounded() -> None:
    service = ScriptedAnswers("a")
    message = call_bytes(prompt="a", max_tokens=5)
    async with grpc_port(service, max_connections=1) as port:
        async with connect(port) as first:
            assert await texts(stream_doc(first, message)) == ["a"]
            async with connect(port, ("grpc.use_local_subchannel_pool", 1)) as second:
                error = await failure(stream_doc(second, message))
                assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert await texts(stream_doc(first, message)) == ["a"]
        assert len(service.requests) == 2
