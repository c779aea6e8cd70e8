"""The gRPC services, read by a plain gRPC client."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from llamastream import errors
from llamastream.api.http.auth import KeyRing
from llamastream.jina import wire
from llamastream.jina.grpc_server import serve_grpc
from llamastream.jina.service import StreamService
from llamastream.keys import Keys
from llamastream.types import FinishReason
from tests.doubles.jina_servers import KEY, Readiness, Start
from tests.doubles.scripted_answers import ScriptedAnswers
from tests.doubles.waiting import LIMIT_S

ANYBODY = KeyRing(Keys()).scope_of_header
STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"


def call_bytes(endpoint: str = "/stream", **fields: Any) -> bytes:
    call = wire.SingleDocumentRequest()
    call.header.request_id = "r1"
    call.header.exec_endpoint = endpoint
    wire.set_fields(call.document, fields)
    return bytes(call.SerializeToString())


PROMPT = call_bytes(prompt="Hi", max_tokens=5)


def stream_doc(channel: grpc.aio.Channel, data: bytes = PROMPT, **options: Any) -> Any:
    parse = wire.SingleDocumentRequest.FromString
    return channel.unary_stream(STREAM_DOC, response_deserializer=parse)(data, **options)


def connect(port: int, *options: tuple[str, int]) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


async def texts(call: Any) -> list[str]:
    """All texts that are left to read."""
    found = []
    while (response := await call.read()) is not grpc.aio.EOF:
        found.append(response.document.data["generated_text"].text)
    return found


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await texts(call)
    return caught.value


async def test_one_response_per_token_then_ok(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("Hé", "llo", " 🙂"))
    async with connect(port) as channel:
        call = stream_doc(channel)
        responses = [response async for response in call]
        assert [r.document.data["generated_text"].text for r in responses] == ["Hé", "llo", " 🙂"]
        assert [r.document.data["token_id"].integer for r in responses] == [1000, 1001, 1002]
        assert {r.header.request_id for r in responses} == {"r1"}
        assert all(r.document.data["id"].type == "id" for r in responses)
        assert await call.code() == grpc.StatusCode.OK
        trailing = dict(await call.trailing_metadata())
    assert trailing["finish-reason"] == "stop"
    assert trailing["num-prompt-tokens"] == "7"


async def test_empty_answer_is_ok_without_a_document(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers())
    async with connect(port) as channel:
        call = stream_doc(channel)
        assert await texts(call) == []
        assert await call.code() == grpc.StatusCode.OK


async def test_length_is_on_the_last_document(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a", FinishReason.LENGTH))
    async with connect(port) as channel:
        call = stream_doc(channel, call_bytes(prompt="Hi", max_tokens=1))
        (response,) = [response async for response in call]
    assert response.document.data["finish_reason"].text == "length"


async def test_first_document_comes_before_the_second_is_made(start_grpc: Start) -> None:
    more = asyncio.Event()
    port = await start_grpc(ScriptedAnswers("a", more, "b"))
    async with connect(port) as channel:
        call = stream_doc(channel)
        first = await call.read()
        assert first.document.data["generated_text"].text == "a"
        more.set()
        assert await texts(call) == ["b"]


async def test_error_in_the_middle_comes_once_after_what_was_made(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a", "b", errors.InternalError("the engine broke")))
    async with connect(port) as channel:
        call = stream_doc(channel)
        seen = [(await call.read()).document.data["generated_text"].text for _ in range(2)]
        assert seen == ["a", "b"]
        error = await failure(call)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the engine broke")


async def test_unexpected_exception_is_internal_and_logged(
    start_grpc: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ScriptedAnswers):
        async def open(self, request: Any, new: Any) -> Any:
            raise RuntimeError("secret detail")

    port = await start_grpc(Broken())
    async with connect(port) as channel:
        error = await failure(stream_doc(channel))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.details())
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (errors.InvalidRequest("bad", param="top_p"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ContextLengthExceeded("long"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.Overloaded("full", retry_after_s=3), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.EngineDead("loading"), grpc.StatusCode.UNAVAILABLE),
        (errors.InternalError("broken"), grpc.StatusCode.INTERNAL),
        (errors.NotFound("gone"), grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_refusal_is_a_status_with_the_message(
    start_grpc: Start, refusal: errors.ChatError, code: grpc.StatusCode
) -> None:
    port = await start_grpc(ScriptedAnswers(refusal=refusal))
    async with connect(port) as channel:
        error = await failure(stream_doc(channel))
    assert (error.code(), error.details()) == (code, refusal.message)
    trailing = dict(error.trailing_metadata())
    assert trailing["error-code"] == refusal.code
    assert trailing.get("retry-after") == ("3" if code.name == "RESOURCE_EXHAUSTED" else None)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (call_bytes(max_tokens=5), "prompt is missing"),
        (call_bytes(prompt="a", max_tokens="x"), "max_tokens"),
        (call_bytes(prompt="a", max_tokens=0), "max_tokens must be >= 1"),
        (b"\xff\xff\xff", "SingleDocumentRequestProto"),
        (PROMPT.replace(b"Hi", b"\xff\xfe"), "UTF-8"),
    ],
    ids=["no prompt", "wrong type", "zero", "no protobuf", "no UTF-8"],
)
async def test_bad_input_is_an_invalid_argument(start_grpc: Start, data: bytes, said: str) -> None:
    service = ScriptedAnswers("a")
    port = await start_grpc(service)
    async with connect(port) as channel:
        error = await failure(stream_doc(channel, data))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert said in str(error.details())
    assert not service.requests


async def test_other_endpoints_are_not_found(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers("a"))
    async with connect(port) as channel:
        error = await failure(stream_doc(channel, call_bytes("/search", prompt="a", max_tokens=5)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "/stream" in str(error.details())


async def test_key_comes_by_metadata_or_in_the_document(start_grpc: Start) -> None:
    service = ScriptedAnswers("a")
    port = await start_grpc(service, KEY)
    keyed = call_bytes(prompt="a", max_tokens=5, api_key=KEY)
    async with connect(port) as channel:
        await texts(stream_doc(channel, metadata=(("authorization", f"Bearer {KEY}"),)))
        await texts(stream_doc(channel, keyed))
        for data, options in (
            (PROMPT, {}),
            (PROMPT, {"metadata": (("authorization", "Bearer no"),)}),
            (keyed, {"metadata": (("authorization", "Bearer no"),)}),  # metadata come first
            (call_bytes(prompt="a", max_tokens=5, api_key="no"), {}),
            (b"\xff\xff", {}),
        ):
            error = await failure(stream_doc(channel, data, **options))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    scope = KeyRing(Keys([KEY])).scope_of_header(f"Bearer {KEY}")
    assert [request.scope for request in service.requests] == [scope, scope]


async def test_cancel_closes_the_stream_while_it_waits(start_grpc: Start) -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    port = await start_grpc(service)
    async with connect(port) as channel:
        call = stream_doc(channel)
        await call.read()
        call.cancel()
        await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)


async def test_deadline_closes_the_stream(start_grpc: Start) -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    port = await start_grpc(service)
    async with connect(port) as channel:
        error = await failure(stream_doc(channel, timeout=0.2))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)


async def test_lost_connection_closes_the_stream(start_grpc: Start) -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    port = await start_grpc(service)
    channel = connect(port)
    call = stream_doc(channel)
    await call.read()
    await channel.close()
    await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)


async def test_stop_ends_running_streams_and_closes_them() -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    server = await serve_grpc(StreamService(service, ANYBODY, lambda: True), port=0)
    async with connect(server.port) as channel:
        call = stream_doc(channel)
        await call.read()
        await server.stop(0)
        await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)
        await failure(call)


async def test_port_in_use_is_an_error() -> None:
    desk = StreamService(ScriptedAnswers(), ANYBODY, lambda: True)
    server = await serve_grpc(desk, port=0)
    try:
        with pytest.raises(OSError, match=str(server.port)):
            await serve_grpc(desk, port=server.port)
    finally:
        await server.stop(0)


async def test_frequent_pings_earn_no_goaway(start_grpc: Start) -> None:
    more = asyncio.Event()
    port = await start_grpc(ScriptedAnswers("a", more, "b"))
    options = (
        ("grpc.keepalive_time_ms", 20),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = stream_doc(channel)
        await call.read()
        done = asyncio.create_task(texts(call))
        await asyncio.wait((done,), timeout=0.5)  # two dozen pings: grpc allows two by default
        assert not done.done()
        more.set()
        assert await done == ["b"]


async def test_readiness_shows_in_dry_run_and_health(start_grpc: Start, ready: Readiness) -> None:
    port = await start_grpc(ScriptedAnswers())
    states = health_pb2.HealthCheckResponse
    async with connect(port) as channel:
        dry_run = channel.unary_unary(
            "/jina.JinaGatewayDryRunRPC/dry_run",
            request_serializer=Empty.SerializeToString,
            response_deserializer=wire.Status.FromString,
        )
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=states.FromString,
        )
        for value, code, state in ((True, 0, states.SERVING), (False, 1, states.NOT_SERVING)):
            ready.value = value
            assert (await dry_run(Empty())).code == code
            for name in ("", "jina.JinaSingleDocumentRequestRPC"):
                assert (await check(health_pb2.HealthCheckRequest(service=name))).status == state
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(health_pb2.HealthCheckRequest(service="no.such"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(start_grpc: Start, ready: Readiness) -> None:
    port = await start_grpc(ScriptedAnswers())
    states = health_pb2.HealthCheckResponse
    async with connect(port) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=states.FromString,
        )(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == states.SERVING
        ready.value = False
        assert (await watch.read()).status == states.NOT_SERVING


async def test_posts_are_unimplemented_and_name_the_way_out(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers())
    async with connect(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as single:
            await channel.unary_unary("/jina.JinaSingleDataRequestRPC/process_single_data")(b"")
        with pytest.raises(grpc.aio.AioRpcError) as many:
            await channel.stream_stream("/jina.JinaRPC/Call")().read()
    for caught in (single, many):
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "stream_doc" in str(caught.value.details())


async def test_endpoints_and_status_answer(start_grpc: Start) -> None:
    port = await start_grpc(ScriptedAnswers())
    async with connect(port) as channel:
        endpoints = channel.unary_unary(
            "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery",
            response_deserializer=wire.Endpoints.FromString,
        )
        info = channel.unary_unary(
            "/jina.JinaInfoRPC/_status", response_deserializer=wire.JinaInfo.FromString
        )
        assert list((await endpoints(b"")).endpoints) == ["/stream"]
        assert "llamastream" in (await info(b"")).jina


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service(start_grpc: Start, version: str) -> None:
    port = await start_grpc(ScriptedAnswers())
    ask = reflection_pb2.ServerReflectionRequest
    async with connect(port) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ask.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await call.write(ask(list_services=""))
        listed = (await call.read()).list_services_response.service
        names = {service.name for service in listed}
        assert {"jina.JinaSingleDocumentRequestRPC", "grpc.health.v1.Health"} <= names
        for name in names - {"grpc.reflection.v1.ServerReflection"}:
            await call.write(ask(file_containing_symbol=name))
            assert (await call.read()).file_descriptor_response.file_descriptor_proto, name


async def test_a_browser_cannot_speak_to_it(start_grpc: Start) -> None:
    """Without TLS a browser speaks HTTP/1.1, and the port knows only HTTP/2."""
    service = ScriptedAnswers("a")
    port = await start_grpc(service)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = STREAM_DOC.encode()
    writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()  # to the end of the connection
    writer.close()
    assert b"HTTP/1.1 200" not in answer
    assert not service.requests
