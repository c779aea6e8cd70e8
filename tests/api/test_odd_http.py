"""What comes over a connection and is no ordinary request is answered all the same, and bounded."""

import asyncio
import json

import pytest

from llamastream.api.http.transport import MAX_HEAD_BYTES
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says


async def answer(raw: RawClient) -> tuple[bytes, dict[str, str]]:
    """The status line of one whole answer, and its error."""
    head, _, _ = (await raw.read_until(b"}}")).partition(b"\r\n\r\n")
    return head.splitlines()[0], json.loads(raw.seen[len(head) :])["error"]


@pytest.mark.parametrize("begin", ["GET /health HTTP/1.1\r\nX-Endless: ", "GET /"])
async def test_a_head_without_end_is_refused_before_it_fills_the_memory(
    connect: Connect, begin: str
) -> None:
    client = await connect(FakeEngine(says("ok")))
    async with RawClient(client.base_url) as raw:
        raw.send(begin.encode() + b"a" * (MAX_HEAD_BYTES // 2))
        raw.send(b"a" * (2**20 if begin.endswith(": ") else MAX_HEAD_BYTES // 4))
        if not begin.endswith(": "):
            raw.send(b" HTTP/1.1\r\n" + b"A: b\r\n" * (2**20 // 6))
        status, error = await answer(raw)
    assert status == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert str(MAX_HEAD_BYTES) in error["message"]


async def test_large_bodies_and_many_requests_on_one_connection_are_no_large_head(
    connect: Connect,
) -> None:
    client = await connect(FakeEngine(says("ok")))
    body = b"{" + b" " * 100_000 + b"}"
    async with RawClient(client.base_url) as raw:
        for _ in range(3):
            raw.post("/v1/chat/completions", body)
            await raw.read_until(b"model is required")
            raw.seen = b""


async def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    async with RawClient(client.base_url) as raw:
        raw.send(b"\x16\x03\x01 a TLS client\r\n\r\n")
        status, error = await answer(raw)
    assert status == b"HTTP/1.1 400 Bad Request"
    assert error["code"] == "invalid_request"


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_read(
    connect: Connect, offer: str, step: int
) -> None:
    """Java's HttpClient and `curl --http2` offer HTTP/2: their bodies once were taken for empty."""
    client = await connect(FakeEngine(says("ok")))
    body = json.dumps(chat_body())
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nUpgrade: {offer}\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    async with RawClient(client.base_url) as raw:
        for _ in range(2):  # the connection goes on
            for start in range(0, len(request), step):
                raw.send(request[start : start + step])
                await asyncio.sleep(0)
            assert b"HTTP/1.1 200 OK" in await raw.read_until(b'"finish_reason":"stop"')
            raw.seen = b""


async def test_pipelined_offers_are_all_answered(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    request = b"GET /version HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with RawClient(client.base_url) as raw:
        raw.send(request * 2000 + b"GET /last HTTP/1.1\r\n\r\n")
        await raw.read_until(b"GET /last: Not Found")
    assert raw.seen.count(b"HTTP/1.1 200 OK") == 2000


async def test_a_tunnel_is_refused(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    async with RawClient(client.base_url) as raw:
        raw.send(b"CONNECT test:80 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        status, error = await answer(raw)
    assert (status, error["message"]) == (b"HTTP/1.1 400 Bad Request", "CONNECT is not supported.")


async def test_a_wrong_method_is_told_all_methods_of_the_path(connect_stored: Connect) -> None:
    """GET and POST of this path are two routes."""
    client = await connect_stored(FakeEngine(says("ok")))
    response = await client.patch("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, POST"
