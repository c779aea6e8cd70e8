"""`/stream` over real HTTP, byte by byte."""

import asyncio
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamastream import errors
from llamastream.api.http.auth import KeyRing
from llamastream.generation import Reader
from llamastream.keys import Keys
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import KEY, MAX_BODY_BYTES, Readiness, Start, http_port
from tests.doubles.scripted_answers import ScriptedAnswers
from tests.doubles.service import running_responses, says
from tests.doubles.waiting import LIMIT_S, until

PROMPT = {"id": "0" * 32, "prompt": "Hi", "max_tokens": 5}
SSE = {"accept": "text/event-stream"}


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S)


async def ask(port: int, method: str = "GET", **options: Any) -> httpx.Response:
    async with client(port) as http:
        return await http.request(method, "/stream", **options)


def events(body: bytes) -> list[tuple[str, Any]]:
    """What a reader by the specification sees: the last `event:` line of a block counts."""
    found = []
    for block in body.decode().split("\r\n\r\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\r\n"))
        found.append((fields["event"], json.loads(fields["data"]) if "data" in fields else None))
    return found


async def test_events_are_framed_as_jina_does(start_http: Start) -> None:
    response = await ask(await start_http(ScriptedAnswers("Hé", " 🙂")), json=PROMPT)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, second, last, rest = response.content.split(b"\r\n\r\n")
    for event in (first, second):
        assert event.startswith(b"event: update\r\ndata: {")
    assert (last, rest) == (b"event: end", b"")
    documents = [json.loads(event[len(b"event: update\r\ndata: ") :]) for event in (first, second)]
    assert [document["generated_text"] for document in documents] == ["Hé", " 🙂"]
    assert [document["token_id"] for document in documents] == [1000, 1001]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "GET", "json": PROMPT},
        {"method": "POST", "json": PROMPT},
        {"method": "GET", "params": PROMPT},
    ],
    ids=["body", "post", "query"],
)
async def test_document_comes_in_the_body_or_in_the_query(
    start_http: Start, options: dict[str, Any]
) -> None:
    service = ScriptedAnswers("a")
    response = await ask(await start_http(service), **options)
    assert response.status_code == 200
    assert service.requests[0].prompt == "Hi"
    assert service.requests[0].sampling.max_tokens == 5


async def test_event_marker_inside_the_text_is_escaped(start_http: Start) -> None:
    texts = ["event: update", " event: end\r\n\r\n"]
    response = await ask(await start_http(ScriptedAnswers(*texts)), json=PROMPT)
    assert response.content.count(b"event: ") == 3
    assert [data["generated_text"] for _, data in events(response.content)[:2]] == texts


async def test_empty_answer_is_the_end_event_alone(start_http: Start) -> None:
    response = await ask(await start_http(ScriptedAnswers()), json=PROMPT)
    assert response.content == b"event: end\r\n\r\n"


async def test_first_event_comes_before_the_second_is_made(start_http: Start) -> None:
    more = asyncio.Event()
    port = await start_http(ScriptedAnswers("a", more, "b"))
    async with client(port) as http, http.stream("GET", "/stream", json=PROMPT) as response:
        chunks = response.aiter_raw()
        assert b'"a"' in await anext(chunks)
        more.set()
        assert b'"b"' in await anext(chunks)


async def test_leaving_closes_the_stream_while_it_waits(start_http: Start) -> None:
    service = ScriptedAnswers("a", asyncio.Event())
    port = await start_http(service)
    async with client(port) as http, http.stream("GET", "/stream", json=PROMPT) as response:
        await anext(response.aiter_raw())
    await asyncio.wait_for(service.streams[0].closed.wait(), LIMIT_S)


async def test_error_in_the_middle_is_one_error_event_at_the_end(start_http: Start) -> None:
    service = ScriptedAnswers("a", errors.InternalError("the engine broke"))
    response = await ask(await start_http(service), json=PROMPT)
    (kind, _), (last, data) = events(response.content)
    assert (kind, last) == ("update", "error")
    assert data["error"]["message"] == "the engine broke"


async def test_unexpected_exception_in_the_middle_is_an_error_event(
    start_http: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Reader, timeout_s: float | None = None) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Reader, "read", read)
    response = await ask(await start_http(ScriptedAnswers("a")), json=PROMPT)
    ((kind, data),) = events(response.content)
    assert kind == "error"
    assert "secret" not in data["error"]["message"]
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        (errors.InvalidRequest("bad", param="top_p"), 422, None),
        (errors.ContextLengthExceeded("long"), 422, None),
        (errors.Overloaded("full", retry_after_s=3), 429, "3"),
        (errors.EngineDead("loading"), 503, "2"),
    ],
)
async def test_refusal_is_a_status_with_the_message(
    start_http: Start, refusal: errors.ChatError, status: int, retry_after: str | None
) -> None:
    port = await start_http(ScriptedAnswers(refusal=refusal))
    response = await ask(port, json=PROMPT)
    assert response.status_code == status
    assert response.json()["error"]["message"] == refusal.message
    assert response.headers.get("retry-after") == retry_after


async def test_reader_of_events_gets_a_refusal_as_an_error_event(start_http: Start) -> None:
    port = await start_http(ScriptedAnswers(refusal=errors.Overloaded("full")))
    response = await ask(port, json=PROMPT, headers=SSE)
    assert response.status_code == 429
    ((kind, data),) = events(response.content)
    assert (kind, data["error"]["code"]) == ("error", "overloaded")


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b'{"max_tokens": 5}', 422, "prompt is missing"),
        (b'{"prompt": "a"}', 422, "max_tokens is missing"),
        (b'{"prompt": "a", "max_tokens": "5"}', 422, "max_tokens"),
        (b'{"prompt": "a", "max_tokens": 0}', 422, "max_tokens must be >= 1"),
        (b'{"prompt": "a", "max_tokens": NaN}', 422, "JSON"),
        (b'{"prompt": "\xff", "max_tokens": 5}', 422, "UTF-8"),
        (b"[1]", 422, "object"),
        (b"{", 422, "JSON"),
        (b"a" * (MAX_BODY_BYTES + 1), 413, str(MAX_BODY_BYTES)),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
async def test_bad_input_names_field_and_limit(
    start_http: Start, content: bytes, status: int, said: str
) -> None:
    service = ScriptedAnswers("a")
    response = await ask(await start_http(service), content=content)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]
    assert not service.requests


async def test_missing_document_is_refused(start_http: Start) -> None:
    response = await ask(await start_http(ScriptedAnswers("a")))
    assert response.status_code == 422


async def test_key_comes_by_header_or_in_the_document(start_http: Start) -> None:
    service = ScriptedAnswers("a")
    port = await start_http(service, KEY)
    header = {"authorization": f"Bearer {KEY}"}
    turn = {"role": "user", "content": "a", "api_key": "x"}
    for right in (
        {"json": PROMPT, "headers": header},
        {"json": PROMPT | {"api_key": "no"}, "headers": header},  # a header comes first
        {"json": PROMPT | {"api_key": KEY}},
        {"json": {"messages": [turn], "max_tokens": 5, "api_key": KEY}},
        {"params": PROMPT | {"api_key": KEY}},
    ):
        service.requests.clear()
        assert (await ask(port, **right)).status_code == 200, right
        scope = KeyRing(Keys([KEY])).scope_of_header(f"Bearer {KEY}")
        assert [request.scope for request in service.requests] == [scope]
    for wrong in (
        {"json": PROMPT},
        {"json": PROMPT | {"api_key": "no"}},
        {"json": PROMPT | {"api_key": KEY}, "headers": {"authorization": "Bearer no"}},
        {"json": {"messages": [{"api_key": KEY}]} | PROMPT},
        {"content": b"{"},
        {"params": PROMPT | {"api_key": "no"}},
    ):
        assert (await ask(port, **wrong)).status_code == 401, wrong


async def test_dry_run_tells_readiness(start_http: Start, ready: Readiness) -> None:
    port = await start_http(ScriptedAnswers())
    async with client(port) as http:
        assert (await http.get("/dry_run")).json()["code"] == 0
        ready.value = False
        response = await http.get("/dry_run")
    assert (response.status_code, response.json()["code"]) == (503, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a socket holds back")
async def test_a_reader_that_lags_gets_few_large_events(tmp_path: Path) -> None:
    """What a socket holds back would reach jina.Client cut anywhere."""
    num_tokens = 3000
    engine = FakeEngine(says("x" * num_tokens), max_model_len=2 * num_tokens)
    async with (
        running_responses(engine, tmp_path) as responses,
        http_port(responses.answers, stored=responses) as port,
    ):
        loop, rest = asyncio.get_running_loop(), b""
        with socket.create_connection(("127.0.0.1", port)) as reader:
            reader.setblocking(False)
            body = json.dumps({"prompt": "Hi", "max_tokens": num_tokens}).encode()
            head = b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            await loop.sock_sendall(reader, head + body)
            await until(lambda: engine.submitted and not engine.num_alive)
            while b"event: end\r\n" not in rest:
                rest += await loop.sock_recv(reader, 2**20)
    texts = re.findall(rb'"generated_text":"(x+)"', rest)
    assert sum(map(len, texts)) == num_tokens
    assert len(texts) < num_tokens / 4
